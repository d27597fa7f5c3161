#!/usr/bin/env bash
# Sets a machine up: the Python environment, the Docker engine, the demo's base image.
#
#   envs/setup.sh python       .venv with the locked packages of envs/requirements.txt
#   envs/setup.sh engine       a Docker engine that answers; installs and starts one if need be
#   envs/setup.sh base-image   the base image of the demo's tasks (demo/base-image.sh)
#   envs/setup.sh all          the three above, in this order
#   envs/setup.sh doctor       tells what is here; changes nothing
#   envs/setup.sh lock         writes envs/requirements.txt anew from pyproject.toml
#
# Each step does only what is missing, and prints one line; the whole output of what it calls
# goes to logs/setup.log. COOPERFLOW_PYTHON names the Python to build .venv with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LOG=logs/setup.log
readonly LOCK=envs/requirements.txt
readonly STAMP=.venv/cooperflow-lock.sha256
readonly IMAGE=cooperflow/demo-base:bookworm
readonly DOCKERD_LOG=/var/log/cooperflow-dockerd.log
step=setup

# --- saying and running ---------------------------------------------------------------------

say() { printf '%-11s %s\n' "$step" "$*"; }

# fail MESSAGE...: one line per argument, the first what is wrong, the others what to do.
fail() {
    printf 'setup.sh %s: %s\n' "$step" "$1" >&2
    shift
    local line
    for line; do [ -z "$line" ] || printf '  %s\n' "$line" >&2; done
    exit 1
}

log_tail() { sed 's/^/  | /' <(tail -n "${2:-12}" "$1") >&2; }

# run WHAT COMMAND...: the command's output goes to the log; WHAT is said when it fails.
run() {
    local what=$1 start
    shift
    printf '\n[%s] $ %s\n' "$(date '+%F %T')" "$*" >>"$LOG"
    start=$(wc -l <"$LOG")
    # 9 is the lock of this script: a daemon started below must not keep it.
    if ! "$@" >>"$LOG" 2>&1 </dev/null 9>&-; then
        log_tail <(tail -n "+$((start + 1))" "$LOG")
        fail "$what failed (above: its last lines; all of it: $LOG)" "${hint:-}"
    fi
}

have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
took() { printf '%s s' "$((SECONDS - ${1:-0}))"; }

# One start at a time; the log and the tools belong to the owner of the checkout.
prepare() {
    mkdir -p logs .tools 2>/dev/null && { : >>"$LOG"; } 2>/dev/null && { : >>.tools/lock; } 2>/dev/null ||
        fail "this checkout is not writable for $(id -un)" "Give it to that user, or call this as its owner."
    ! is_root || chown --reference=. logs .tools "$LOG" .tools/lock
    exec 9>>.tools/lock
    have flock || return 0
    flock -n 9 || { say "waiting for another setup of this checkout"; flock 9; }
}

# --- Debian packages ------------------------------------------------------------------------

is_debian() { have apt-get && grep -qsE '^(ID|ID_LIKE)=.*(debian|ubuntu)' /etc/os-release; }

# apt_install WHY PACKAGE...: installs them, or says who has to.
apt_updated=no
apt_install() {
    local why=$1
    shift
    is_debian || fail "$why" "Install it with your system's package manager (Debian calls it: $*)," \
        "then call this again."
    is_root || fail "$why" "Run:  sudo apt-get install -y $*" "then call this again."
    local hint="Are the package sources right and in reach? Then call this again."
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120)
    if [ "$apt_updated" = no ]; then
        run "apt-get update" "${apt[@]}" update
        apt_updated=yes
    fi
    run "apt-get install $*" "${apt[@]}" --no-install-recommends install "$@"
}

# --- python ---------------------------------------------------------------------------------

# The first Python that is new enough; a pyenv shim may be there and still run nothing.
find_python() {
    local python
    for python in ${COOPERFLOW_PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$python" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Sets $python.
need_python() {
    python=$(find_python) && return
    local why="no Python 3.11 or newer was found"
    [ -z "${COOPERFLOW_PYTHON:-}" ] || fail "COOPERFLOW_PYTHON=$COOPERFLOW_PYTHON is no Python 3.11 or newer" \
        "Name another one, or unset it."
    apt_install "$why" python3
    python=$(find_python) || fail "$why, and this system's own is older" \
        "Install one and call:  COOPERFLOW_PYTHON=/path/to/python3 $0 python"
}

# Sets $uv: the one on the PATH, else a private one in .tools.
need_uv() {
    uv=uv
    uv pip sync --compile-bytecode --help >/dev/null 2>&1 && return
    uv=.tools/uv/bin/uv
    "$uv" --version >/dev/null 2>&1 && return
    need_python
    # ensurepip is what Debian keeps in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null ||
        apt_install "$python cannot make a virtual environment (no ensurepip)" python3-venv
    rm -rf .tools/uv
    run "making a virtual environment for uv" "$python" -m venv .tools/uv
    local hint="Is the Python package index in reach? pip's own settings apply. Then call this again."
    run "installing uv" .tools/uv/bin/python -m pip install --require-hashes -r envs/uv.txt
}

step_python() {
    local start=$SECONDS hash python uv
    hash=$(sha256sum <"$LOCK")
    # The interpreter is tried too: its system may have been upgraded under it.
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$hash" ] && .venv/bin/python -c '' 2>/dev/null; then
        say "ready, nothing to do"
        return
    fi
    need_uv
    need_python
    # pip's settings, where uv knows the same under another name
    [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
    export UV_PYTHON_DOWNLOADS=never
    local hint="Is the Python package index in reach? UV_DEFAULT_INDEX names another. Then call this again."
    # Built beside, stamped, and only then moved to its place: whatever ends this early, .venv
    # is either the old one or a whole new one. Relocatable, so that the move breaks nothing.
    rm -rf .venv.new
    trap 'rm -rf .venv.new' EXIT
    run "making .venv" "$uv" venv --relocatable --no-project --python "$python" .venv.new
    run "installing the locked packages" "$uv" pip sync --require-hashes --compile-bytecode \
        --python .venv.new "$LOCK"
    printf '%s\n' "$hash" >".venv.new/${STAMP#.venv/}"
    sync -f .venv.new
    rm -rf .venv.old
    [ ! -e .venv ] || mv .venv .venv.old
    mv .venv.new .venv
    trap - EXIT
    rm -rf .venv.old
    say "$(.venv/bin/python --version) with $(find .venv/lib -name '*.dist-info' | wc -l) packages in .venv ($(took "$start"))"
}

step_lock() {
    local start=$SECONDS uv python
    need_uv
    run "resolving" "$uv" pip compile pyproject.toml --group dev --universal --python-version 3.11 \
        --overrides envs/overrides.txt --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header "$@" -o "$LOCK"
    run "resolving uv" "$uv" pip compile --group setup --universal \
        --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header --no-annotate "$@" -o envs/uv.txt
    say "$(grep -c '==' "$LOCK") packages in $LOCK ($(took "$start"))"
}

# --- engine, base image, doctor -------------------------------------------------------------

step_engine() { docker version >/dev/null 2>&1 || fail "no Docker engine answers"; say "there"; }
step_base_image() { demo/base-image.sh >>"$LOG" 2>&1 || fail "demo/base-image.sh failed, see $LOG"; say "there"; }

# --- which step -----------------------------------------------------------------------------

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    python) prepare; step=python; step_python ;;
    engine) prepare; step=engine; step_engine ;;
    base-image) prepare; step=base-image; step_base_image ;;
    all) prepare; for step in python engine base-image; do "step_${step//-/_}"; done ;;
    lock) prepare; step=lock; step_lock "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
