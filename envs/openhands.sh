#!/usr/bin/env bash
# Makes what OpenHands' agents run on, from Debian's and Python's packages alone.
#
#   envs/openhands.sh UV COOPERBENCH
#
# UV: the uv to use. COOPERBENCH: the installed package's folder, whose adapted copies of the
# SDK and its tools replace the released packages.
#
#   .tools/openhands/host      the SDK and the tools, for the host's side (imported by Python 3.11)
#   cooperflow/openhands:HASH  an image that holds /opt/agent-server-venv alone: Python 3.13 of
#                              Debian trixie with its own C library, and the agent server
#   .tools/openhands/stamp     HASH, of all that it was made from; written last
#
# The Python brings its own loader, so it runs in any image and touches nothing of the task's:
# no variable is set, so what an agent's commands start is the task's own Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SUITE=trixie PYTHON=python3.13
readonly PREFIX=/opt/agent-server-venv  # where upstream's own images have it
uv=$1 vendored=$2/agents/openhands_agent_sdk
place=.tools/openhands
stamp=$(
    {
        cat envs/openhands.txt envs/openhands.sh
        find "$vendored"/openhands-{sdk,tools} -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 cat
    } | sha256sum | cut -c 1-12
)
image=cooperflow/openhands:$stamp

if [ "$(cat "$place/stamp" 2>/dev/null)" = "$stamp" ] && docker image inspect "$image" >/dev/null 2>&1; then
    echo "there: $image"
    exit 0
fi

work=$(mktemp -d "$PWD/.tools/openhands.XXXXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root venv=$work/venv packages=$work/venv/lib/python3/dist-packages
mkdir -p "$root" "$venv/bin" "$venv/lib/python3"

apt_config=()
if command -v apt-config >/dev/null; then
    apt-config dump | grep -E '^Acquire::[a-z:]*Proxy "[^"]' >"$work/proxy.conf" || true
    [ ! -s "$work/proxy.conf" ] || apt_config=(--aptopt="$work/proxy.conf")
fi
# The machine's own mirror, if it names one for Debian.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -oE '^(deb|URIs:) +.*https?://[^ ]+/debian/?( |$)' | grep -oE 'https?://[^ ]+' | head -n 1 || true)
mmdebstrap --variant=extract --aptopt="Acquire::Retries \"5\"" --include="$PYTHON" "${apt_config[@]}" \
    "$SUITE" "$work/root.tar" ${mirror:+"$mirror"} 9>&-  # setup.sh's lock: mmdebstrap's own come next
tar -xf "$work/root.tar" -C "$root"

# Libraries, the standard library, the interpreter.
find "$root/usr/lib"/*-linux-gnu -maxdepth 1 -name '*.so*' -exec cp -L {} "$venv/lib/" \;
cp -r "$root/usr/lib/$PYTHON" "$venv/lib/"
cp "$root/usr/bin/$PYTHON" "$venv/bin/python.bin"
loader=$(basename "$(find "$venv/lib" -maxdepth 1 -name 'ld-linux-*.so.*' | head -n 1)")
cat >"$venv/bin/python" <<SCRIPT
#!/bin/sh
# Python with its own loader and libraries, so that it runs in an image of any C library.
exec $PREFIX/lib/$loader --inhibit-cache --library-path $PREFIX/lib --argv0 $PREFIX/bin/python \\
    $PREFIX/bin/python.bin "\$@"
SCRIPT
chmod 755 "$venv/bin/python"

# The packages, and over them upstream's adapted copies (which leave out openhands.sdk.workspace).
case $(uname -m) in
    x86_64) platform=x86_64-manylinux_2_28 ;;
    aarch64) platform=aarch64-manylinux_2_28 ;;
    *) echo "there are no packages for $(uname -m)" >&2; exit 1 ;;
esac
"$uv" pip install --quiet --no-config --target "$packages" --python-version "${PYTHON#python}" \
    --python-platform "$platform" --require-hashes --link-mode copy -r envs/openhands.txt
cp -r "$vendored/openhands-sdk/openhands/sdk" "$vendored/openhands-tools/openhands/tools" \
    "$packages/openhands/"
# Descriptions of Google's services (110 MB) and scripts with this machine's paths: none is used.
rm -rf "$packages/googleapiclient/discovery_cache/documents" "${packages:?}/bin"
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +

mkdir -p "$work/host/openhands"
cp -r "$packages/openhands/sdk" "$packages/openhands/tools" "$work/host/openhands/"
.venv/bin/python -m compileall -q "$work/host" || true  # a file may be for newer Pythons only

# Compiled here, once: a server in a container starts in 5 s instead of 15 s.
"$venv/lib/$loader" --inhibit-cache --library-path "$venv/lib" --argv0 "$venv/bin/python" \
    "$venv/bin/python.bin" -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -s "$venv" -p "$PREFIX" "$venv/lib" || true
tar -C "$work" --transform "s,^venv,${PREFIX#/}," --owner=0 --group=0 --numeric-owner -c venv |
    docker import --change "LABEL cooperflow.openhands=$stamp" - "$image" >/dev/null

rm -rf "$place"
mkdir "$place"
mv "$work/host" "$place/host"
printf '%s\n' "$stamp" >"$place/stamp"
echo "made: $image, $(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B"
