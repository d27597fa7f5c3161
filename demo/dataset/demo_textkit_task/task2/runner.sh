#!/bin/bash
# Grades a patch: runner.sh tests.patch [feature.patch], both looked for in /patches.
# Resets the repository, applies the patches, runs the tests they bring. The exit code is pytest's.
set -e

tests_patch=${1:?usage: runner.sh tests.patch [feature.patch]}
feature_patch=${2:-}

cd /workspace/repo

cleanup() {
    git reset --hard HEAD >/dev/null
    git clean -fd >/dev/null
}
trap cleanup EXIT INT TERM
cleanup

if [ -n "$feature_patch" ]; then
    echo "Applying feature patch: $feature_patch"
    git apply --ignore-whitespace --ignore-space-change "/patches/$feature_patch"
fi

echo "Applying test patch: $tests_patch"
git apply --ignore-whitespace --ignore-space-change "/patches/$tests_patch"

# Only the test files that the patch adds or changes.
mapfile -t test_files < <(sed -n 's|^+++ b/\(tests/test_[^[:space:]]*\.py\)$|\1|p' "/patches/$tests_patch")
echo "Running: ${test_files[*]}"
python3 -m pytest -v -p no:cacheprovider "${test_files[@]}"
