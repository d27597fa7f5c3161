#!/usr/bin/env bash
# Builds the base image of the demo's tasks from Debian packages, without an image registry.
#
#   demo/base-image.sh            build cooperflow/demo-base:bookworm unless it exists
#   demo/base-image.sh --force    build it again
#   demo/base-image.sh --help
#
# The image contains Debian bookworm with git, python3 and pytest, and has the label
# cooperflow.demo-base=1. Packages come from this machine's own apt sources when they are for
# bookworm (APT_SOURCES=FILE names another sources file), else from mmdebstrap's default.
#
# Exit codes: 0 the image exists; 2 wrong usage; 3 no docker, or its daemon is out of reach;
# 4 mmdebstrap is missing; 5 neither root nor a user namespace; 6 the packages could not be fetched or unpacked;
# 7 docker refused the image, or the image does not work.
set -euo pipefail

readonly IMAGE=cooperflow/demo-base:bookworm
readonly SUITE=bookworm
readonly PACKAGES=git,python3,python3-pytest,ca-certificates

say() { printf 'base-image: %s\n' "$*"; }
die() { local code=$1; shift; printf 'base-image: error: %s\n' "$*" >&2; exit "$code"; }

force=0
case "${1:-}" in
    "") ;;
    --force) force=1 ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die 2 "unknown argument '$1' (try --help)" ;;
esac
[ $# -le 1 ] || die 2 "too many arguments (try --help)"

command -v docker >/dev/null || die 3 "docker is not installed (Debian: apt-get install docker.io)"
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
    die 3 "the Docker daemon is out of reach; is it running, and may this user use it?"

present() { docker image inspect "$IMAGE" >/dev/null 2>&1; }

if [ "$force" = 0 ] && present; then
    say "$IMAGE is there, nothing to do"
    exit 0
fi

command -v mmdebstrap >/dev/null ||
    die 4 "mmdebstrap is not installed (Debian: apt-get install mmdebstrap)"
# Without root, mmdebstrap works in a user namespace, which needs a range of user ids.
mode=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v newuidmap >/dev/null || ! grep -qs "^$(id -un):" /etc/subuid /etc/subgid; then
        die 5 "making a root file system without root needs newuidmap (Debian: apt-get install uidmap) and a" \
            "range of user ids for $(id -un) in /etc/subuid and /etc/subgid"
    fi
    mode=(--mode=unshare)
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/cooperflow-base.XXXXXXXX")
chmod 711 "$work" # in a user namespace mmdebstrap is another user
child=
clean() {
    # On SIGTERM, mmdebstrap finishes its step and removes the unpacked files (half a minute).
    if [ -n "$child" ] && kill "$child" 2>/dev/null; then wait "$child" || true; fi
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# If two processes start at once, the second waits and then finds the image.
exec 9>"${TMPDIR:-/tmp}/cooperflow-demo-base.lock"
if command -v flock >/dev/null; then
    flock 9
    if [ "$force" = 0 ] && present; then
        say "$IMAGE was made by another start meanwhile"
        exit 0
    fi
fi

sources=${APT_SOURCES:-}
if [ -n "$sources" ]; then
    [ -r "$sources" ] || die 2 "APT_SOURCES=$sources cannot be read"
else
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if [ -r "$file" ] && grep -v '^[[:space:]]*#' "$file" | grep -qw "$SUITE"; then
            sources=$file
            break
        fi
    done
fi
# mmdebstrap does not read the machine's proxy settings for apt.
apt_config=()
if command -v apt-config >/dev/null; then
    apt-config dump | grep -E '^Acquire::[a-z:]*Proxy "[^"]' >"$work/proxy.conf" || true
    [ ! -s "$work/proxy.conf" ] || apt_config=(--aptopt="$work/proxy.conf")
fi

say "unpacking $SUITE with $PACKAGES (about a minute; sources: ${sources:-the default mirror})"
mmdebstrap --quiet "${mode[@]}" --variant=minbase --include="$PACKAGES" "${apt_config[@]}" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$SUITE" "$work/base.tar" ${sources:+"$sources"} 9>&- >"$work/log" 2>&1 &
child=$!
if ! wait "$child"; then
    child=
    tail -n 15 "$work/log" >&2
    die 6 "mmdebstrap failed (its last lines are above); is the Debian mirror in reach?"
fi
child=

say "importing $(du -h "$work/base.tar" | cut -f1) into Docker as $IMAGE"
docker import \
    --change 'LABEL cooperflow.demo-base=1' \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' \
    --change 'CMD ["/bin/bash"]' \
    "$work/base.tar" "$IMAGE" >/dev/null || die 7 "docker import failed"

if ! docker run --rm --label cooperflow.demo-base=check --network none "$IMAGE" \
    sh -c 'git --version && python3 -m pytest --version' >"$work/log" 2>&1; then
    cat "$work/log" >&2
    docker image rm "$IMAGE" >/dev/null 2>&1 || true
    die 7 "the image was made but git or pytest does not run in it; it was removed again"
fi
say "$IMAGE is ready: $(tr '\n' ',' <"$work/log" | sed 's/,$//; s/,/, /g')"
