"""Faults of Docker: killed containers, lack of memory, a stopped, hung or full daemon."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import invariants, lab
from .lab import Lab, wait_for
from .provider import agent
from .report import TRUE_OUTCOME, Campaign, Case

IMAGE = "akhatua/cooperbench-demo-inventory:task1"


class Engine:
    """A separate dockerd for the campaign, with storage on a small file system."""

    def __init__(self, megabytes: int, *arguments: str) -> None:
        self.arguments = arguments
        self.folder = Path(tempfile.mkdtemp(prefix="cfengine-", dir="/tmp"))
        self.host = f"unix://{self.folder}/docker.sock"
        self.root = self.folder / "root"
        self.root.mkdir()
        disk = self.folder / "disk"
        with disk.open("wb") as stream:
            stream.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(self.root)], check=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        # A killed daemon leaves these files, and its process id may be that of a zombie.
        for left in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.folder / left).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    # A separate bridge, because the daemon would otherwise remove the machine's
                    # bridge.
                    "unshare",
                    "--net",
                    "dockerd",
                    f"--data-root={self.root}",
                    f"--host={self.host}",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/docker.pid",
                    "--bridge=none",
                    "--iptables=false",
                    *self.arguments,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: self.docker("version", check=False), 60, "dockerd")

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "-H", self.host, *arguments], capture_output=True, text=True, timeout=120
        )
        if done.returncode and check:
            raise RuntimeError(done.stderr)
        return done.stdout if not done.returncode else ""

    def load(self, *images: str) -> None:
        """Copy images from the machine's engine."""
        for image in images:
            save = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
            subprocess.run(
                ["docker", "-H", self.host, "load", "-q"],
                stdin=save.stdout,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            save.wait()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the daemon and wait until it has ended."""
        assert self.process is not None
        self.send(signal.SIGCONT)
        self.send(number)
        self.process.wait(60)
        # containerd is its child, which would survive a kill of the daemon.
        for pid in self._others():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self._others(), 20, "the end of containerd")

    def _others(self) -> list[int]:
        """Return this daemon's running helpers, whose command lines contain its folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().split(b"\0")
                    if not line[0].endswith((b"containerd", b"containerd-shim-runc-v2")):
                        continue
                    if any(str(self.folder).encode() in word for word in line):
                        found.append(int(entry.name))
        return found

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.stop()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if str(self.folder) in m), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _mid_run(laboratory: Lab, calls: int = 3) -> Iterator[lab.Session]:
    """Start a session, yield when a run has made some calls, and wait for the end on exit."""
    server = laboratory.server
    start = laboratory.start()
    wait_for(lambda: len(server.ledger()) >= calls or start.poll() is not None, 120, "the run")
    yield start
    start.wait(lab.PATIENCE)


def container_killed(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Docker", "an agent's container killed during a step") as line,
        lab.laboratory(delay="1") as laboratory,
    ):
        others = invariants.Bystanders.start(laboratory, campaign.image)
        with _mid_run(laboratory):
            laboratory.docker("kill", laboratory.containers()[0])
            calls = len(laboratory.server.ledger())
            attempt = laboratory.run_folder("solo") / "attempts" / "1" / "attempt.json"
            verdict = wait_for(lambda: "container_died" in attempt.read_text(), 60, "the verdict")
            calls_after = len(laboratory.server.ledger()) - calls
            line.expect(
                TRUE_OUTCOME,
                verdict and calls_after <= 8,
                f"{calls_after} calls on a dead container",
            )
        campaign.expect(line, laboratory.rows(), ("pass", ""))
        campaign.check_invariants(line, laboratory, control, others)


def out_of_memory(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    memory_hog = agent("python3 -c 'x = bytearray(400 << 20); print(len(x))'")
    with (
        campaign.line("Docker", "OOM kill at the memory limit", 3) as line,
        lab.laboratory(models={"tested": memory_hog}, containers={"memory": "96m"}) as laboratory,
    ):
        others = invariants.Bystanders.start(laboratory, campaign.image)
        laboratory.run()
        campaign.expect(line, laboratory.rows(), ("infra_error", "oom_killed"))
        campaign.check_invariants(line, laboratory, control, others)


def eval_container_killed(campaign: Campaign) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Docker", "the container of an evaluation killed") as line,
        lab.laboratory() as laboratory,
    ):
        start = laboratory.start()
        result = laboratory.run_folder("solo") / "result.json"
        wait_for(result.exists, 120, "the run")
        wait_for(lambda: laboratory.containers(), 60, "the grading")
        laboratory.docker("kill", laboratory.containers()[0], check=False)
        start.wait(lab.PATIENCE)
        campaign.expect(line, laboratory.rows(), ("pass", ""))
        campaign.check_invariants(line, laboratory, control)


def daemon(
    campaign: Campaign,
    engine: Engine,
    fault: str,
    cause: Callable[[Engine], None],
    first: str,
    **limits: int,
) -> None:
    """Disturb the daemon during a run; attempt 1 must end as ``first`` and the run must pass."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Docker", fault) as line,
        lab.laboratory(docker_host=engine.host, delay="1.5", limits=limits) as laboratory,
    ):
        others = invariants.Bystanders.start(laboratory, campaign.image)
        with _mid_run(laboratory):
            cause(engine)
        path = laboratory.run_folder("solo") / "attempts" / "1" / "attempt.json"
        text = path.read_text()
        line.expect(TRUE_OUTCOME, f'"reason": "{first}"' in text, f"attempt 1: {text[:600]}")
        campaign.expect(line, laboratory.rows(), ("pass", ""))
        campaign.check_invariants(line, laboratory, control, others)


def stop_and_start(engine: Engine) -> None:
    engine.stop()
    time.sleep(6)
    engine.start()


def kill_and_start(engine: Engine) -> None:
    engine.stop(signal.SIGKILL)
    engine.start()


def hang(seconds: float) -> Callable[[Engine], None]:
    def cause(engine: Engine) -> None:
        engine.send(signal.SIGSTOP)
        time.sleep(seconds)
        engine.send(signal.SIGCONT)

    return cause


def image_removed(campaign: Campaign, engine: Engine) -> None:
    control = campaign.control([lab.PAIR, (lab.INVENTORY, 1, 2, 3)], ["solo"])
    pairs = [lab.PAIR, (lab.INVENTORY, 1, 2, 3)]
    with (
        campaign.line("Docker", "image removed between sentinel and run") as line,
        lab.laboratory(docker_host=engine.host, pairs=pairs) as laboratory,
    ):
        done = laboratory.run("-j", "4", "images")
        assert done.returncode == 0, done.stdout[-2000:]
        engine.docker("rmi", "-f", IMAGE)
        campaign.check_invariants(line, laboratory, control)
        campaign.expect(line, laboratory.rows(), ("pass", ""))


def image_retagged(campaign: Campaign, engine: Engine) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Docker", "image re-tagged between sentinel and run") as line,
        lab.laboratory(docker_host=engine.host) as laboratory,
    ):
        done = laboratory.run("-j", "4", "images")
        assert done.returncode == 0, done.stdout[-2000:]
        right = engine.docker("images", "-q", "--no-trunc", IMAGE).strip()
        engine.docker("tag", "cooperflow/demo-base:bookworm", IMAGE)
        done = laboratory.run()
        campaign.expect(line, laboratory.rows(), ("infra_error", "image_missing"))
        line.expect(TRUE_OUTCOME, not laboratory.server.ledger(), "a call was paid for")
        engine.docker("tag", right, IMAGE)
        campaign.check_invariants(line, laboratory, control)


def storage_full(campaign: Campaign, engine: Engine) -> None:
    control = campaign.control([lab.PAIR], ["solo"])
    filler = engine.root / "filler"
    with (
        campaign.line(
            "Docker", "no space in Docker's storage: reported before an image is fetched"
        ) as line,
        lab.laboratory(docker_host=engine.host, images={"free_gb": 0.5}) as laboratory,
    ):
        engine.docker("rmi", "-f", IMAGE)
        _fill(engine.root, filler, 100 << 20)
        done = laboratory.run()
        problems = [] if "images.free_gb" in done.stdout else [done.stdout[-1500:]]
        line.add(TRUE_OUTCOME, problems)
        filler.unlink()
        campaign.check_invariants(line, laboratory, control)
    with (
        campaign.line("Docker", "no space in Docker's storage during a run") as line,
        lab.laboratory(docker_host=engine.host, delay="0.5") as laboratory,
    ):
        with _mid_run(laboratory, 2):
            _fill(engine.root, filler, 0)
        rows = laboratory.rows() if (laboratory.results / "runs.csv").exists() else []
        untrue = [r for r in rows if r["outcome"] == "fail" or r["reason"] == "agent_error"]
        line.add(TRUE_OUTCOME, [f"is {r['outcome']} {r['reason']}" for r in untrue])
        filler.unlink()
        campaign.check_invariants(line, laboratory, control)


def _fill(root: Path, filler: Path, leave: int) -> None:
    """Fill a file system except ``leave`` bytes."""
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            status = os.statvfs(root)
            free = status.f_bavail * status.f_frsize - leave
            if free <= 0:
                break
            stream.write(b"\0" * min(free, 4 << 20))


DAEMON: tuple[tuple[str, Callable[[Engine], None], str, dict[str, int]], ...] = (
    ("daemon stopped and started during a run", stop_and_start, "docker_unavailable", {}),
    ("daemon killed and started during a run", kill_and_start, "docker_unavailable", {}),
    ("daemon hung past the run's time (SIGSTOP)", hang(110), "docker_unavailable",
     {"run_seconds": 90}),
    ("daemon hung for a while (SIGSTOP)", hang(12), "", {}),
)  # fmt: skip


@contextlib.contextmanager
def _engine() -> Iterator[Engine]:
    engine = Engine(2500)
    try:
        engine.load("cooperflow/demo-base:bookworm", IMAGE)
        yield engine
    finally:
        engine.end()


def daemons(campaign: Campaign) -> None:
    """Inject all faults of the daemon itself, on a separate daemon."""
    with _engine() as engine:
        for fault, cause, first, limits in DAEMON:
            daemon(campaign, engine, fault, cause, first, **limits)


def images(campaign: Campaign) -> None:
    with _engine() as engine:
        image_removed(campaign, engine)
        image_retagged(campaign, engine)


def storage(campaign: Campaign) -> None:
    with _engine() as engine:
        storage_full(campaign, engine)


def contexts(campaign: Campaign) -> None:
    """Use a Docker context that is missing, dead or reached by SSH; then a working context."""
    control = campaign.control([lab.PAIR], ["solo"])
    with (
        campaign.line("Docker", "a context that is missing, dead, or reached by SSH") as line,
        lab.laboratory() as laboratory,
    ):
        folder = laboratory.folder / "docker-config"
        names = {
            "dead": "unix:///nowhere/docker.sock",
            "far": "ssh://nobody@nowhere.invalid",
            "good": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
        }
        for name, host in names.items():
            meta = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
            meta.mkdir(parents=True)
            endpoints = {"docker": {"Host": host}}
            (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": endpoints}))
        laboratory.wrapper = (
            "env",
            "-u",
            "DOCKER_HOST",
            f"DOCKER_CONFIG={folder}",
            "DOCKER_CONTEXT=",
        )
        words = {
            "missing": "the context does not exist",
            "dead": "/nowhere/docker.sock",
            "far": "ssh -N -L",
        }
        for name, reason in words.items():
            laboratory.wrapper = (*laboratory.wrapper[:-1], f"DOCKER_CONTEXT={name}")
            done = laboratory.run()
            refused = done.returncode != 0 and reason in done.stdout
            line.expect(TRUE_OUTCOME, refused, f"{name}: {done.stdout[-800:]}")
        calls = len(laboratory.server.ledger())
        line.expect(TRUE_OUTCOME, not calls, f"{calls} calls without an engine")
        laboratory.wrapper = (*laboratory.wrapper[:-1], "DOCKER_CONTEXT=good")
        campaign.check_invariants(line, laboratory, control)


CASES = (
    Case("docker: container killed", container_killed),
    Case("docker: out of memory", out_of_memory),
    Case("docker: evaluation killed", eval_container_killed),
    Case("docker: daemon", daemons),
    Case("docker: image", images),
    Case("docker: storage", storage),
    Case("docker: contexts", contexts),
)
