"""A Docker engine of another Debian release, in a private root beside the machine's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cooperflow import layout

ROOTS = layout.REPOSITORY / ".tools" / "engines"
PACKAGES = "docker.io,docker-cli,containerd,runc,iptables,ca-certificates"
BASE_IMAGE = "cooperflow/demo-base:bookworm"
START_SECONDS = 60

# Arguments: root, runtime folder, data folder, then dockerd's arguments. Mounts stay in the
# namespace that `unshare -m` made, and end with it.
SCRIPT = """
set -e
root=$1 run=$2 data=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$run" "$root/data"
mount --bind "$run" "$root$run"
mount --bind "$data" "$root/data"
mkdir -p "$root/old"
cd "$root"
# With chroot alone, commands in containers would see this machine's files.
pivot_root . old
exec dockerd --data-root /data --exec-root "$run/exec" --pidfile "$run/pid" \
    --host "unix://$run/docker.sock" --iptables=false --ip6tables=false "$@"
"""


@dataclass(frozen=True)
class Release:
    """A Debian release whose engine is tried."""

    suite: str
    subnet: str  # first three bytes of the private bridge's addresses
    arguments: tuple[str, ...] = ()
    snapshot: bool = False  # a mirror of it may be older than its signature allows


RELEASES = (
    Release("trixie", "172.30.26"),
    Release("sid", "172.30.28", ("--feature", "containerd-snapshotter=true"), snapshot=True),
)


def make_root(release: Release) -> Path:
    """Return the private root of a release, which is made from its packages if it is missing."""
    root = ROOTS / release.suite
    if not (root / "usr/sbin/dockerd").exists():
        ROOTS.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}"]
        if release.snapshot:
            command += ["--aptopt=Acquire::Check-Valid-Until false"]
        part = root.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run([*command, release.suite, str(part)], check=True)
        part.rename(root)
    return root


@contextlib.contextmanager
def engine(release: Release) -> Iterator[str]:
    """Run the engine of a release; give its DOCKER_HOST. Its images and containers end with it."""
    root = make_root(release)
    run = Path("/run") / f"cooperflow-{release.suite}-{os.getpid()}"
    data = ROOTS / f"{release.suite}.data"
    for folder in (run, data):
        folder.mkdir(parents=True)
    bridge = f"cf{release.suite}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    address = ["ip", "address", "add", f"{release.subnet}.1/24", "dev", bridge]
    subprocess.run(address, check=True)
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(root), str(run), str(data)]
    host = f"unix://{run}/docker.sock"
    try:
        with (ROOTS / f"{release.suite}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--bridge={bridge}", *release.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(host, process)
            yield host
        finally:
            _remove_containers(host)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=False)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def docker(host: str, *arguments: str) -> str:
    """Call the docker command on an engine and return its output."""
    command = ["docker", "-H", host, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return result.stdout.strip()


def copy_image(image: str, host: str) -> None:
    """Copy an image from the machine's engine."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
        load = ["docker", "-H", host, "load", "--quiet"]
        subprocess.run(load, stdin=save.stdout, stdout=subprocess.DEVNULL, check=True)


def _wait(host: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_SECONDS
    command = ["docker", "-H", host, "version"]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"{host}: the engine did not start; see {ROOTS}")
        time.sleep(0.3)


def _remove_containers(host: str) -> None:
    with contextlib.suppress(subprocess.SubprocessError):
        containers = docker(host, "ps", "-aq").split()
        if containers:
            docker(host, "rm", "-f", *containers)
        for network in docker(host, "network", "ls", "-q", "--filter", "type=custom").split():
            docker(host, "network", "rm", network)
