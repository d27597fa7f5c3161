"""A real Slurm cluster on this machine: one slurmctld, and slurmds in separate containers.

Each node has its own host name and its own process numbers (Linux namespaces), so that what runs
there sees neither the processes of the controller nor those of another node. File system and
Docker engine are shared. Killing a node ends all of its processes at once, as a power cut does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from process_groups import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue")
# Options of the workflow for a cluster; jobs end within seconds here, so it polls often.
PROFILES = ("--profile", "profiles/default", "--workflow-profile", "profiles/slurm")
PROFILES += ("--slurm-init-seconds-before-status-checks", "1")

CONF = """\
ClusterName=cooperflow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
# Silence after which a node has failed.
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=10
MinJobAge=300
ReturnToService=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=8000"


def find_missing_tools() -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@dataclass
class Cluster:
    """A cluster that is up."""

    folder: Path
    nodes: tuple[str, ...]
    engines: Mapping[str, str] = field(default_factory=dict)  # a node's own, by its socket
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Environment with which Slurm's commands use this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *arguments: str) -> str:
        """Run a command of Slurm and return its output."""
        result = subprocess.run(
            arguments,
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def jobs(self) -> dict[str, str]:
        """Return the state of each queued or running job, by its number."""
        lines = self.command("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines if line.strip())

    def running_on(self, node: str) -> list[str]:
        output = self.command("squeue", "--noheader", "--format=%i", "-t", "RUNNING", "-w", node)
        return output.split()

    def state(self, node: str) -> str:
        return self.command("sinfo", "--noheader", "-n", node, "--format=%T").strip()

    def start_node(self, node: str) -> None:
        """Boot a machine: separate host name and process numbers, and slurmd in it."""
        mounts = {str(self.folder): "/etc/slurm"}  # srun in a job looks nowhere else
        if node in self.engines:
            mounts[self.engines[node]] = "/var/run/docker.sock"
        inner = [f"hostname {node}"]
        inner += [f"mount --bind {source} {target}" for source, target in mounts.items()]
        inner += [f"exec slurmd -D -N {node} -f /etc/slurm/slurm.conf"]
        # The kernel ends all of it when its first process ends.
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._daemon(node, [*apart, "sh", "-c", " && ".join(inner)])

    def kill_node(self, node: str) -> None:
        """Cut a machine's power: every process on it ends without a message."""
        self.daemons.pop(node).kill()

    def _daemon(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def up(self) -> None:
        """Start all daemons and wait until the nodes are idle."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {
            "--key-file": "munge.key",
            "--socket": "munge.socket",
            "--pid-file": "munged.pid",
            "--log-file": "munged.log",
            "--seed-file": "munged.seed",
        }
        options = [f"{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", ["munged", "--foreground", "--force", *options])
        wait_for(lambda: (self.folder / "munge.socket").exists(), name="munged")
        self._daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        for node in self.nodes:
            self.start_node(node)
        wait_for(lambda: all(self._state(node) == "idle" for node in self.nodes), name="the nodes")

    def _state(self, node: str) -> str:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            return self.state(node)
        return ""

    def down(self) -> None:
        """Cancel what is left and end all daemons."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.command("scancel", "--full", "--user", "root")
            wait_for(lambda: not self.jobs(), 20, "the jobs' end")
        for name in reversed(list(self.daemons)):
            daemon = self.daemons.pop(name)
            if name not in self.nodes:
                daemon.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(10)
            daemon.kill()
            daemon.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


@contextlib.contextmanager
def cluster(
    folder: Path, nodes: tuple[str, ...] = ("node1",), engines: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Set a cluster up in ``folder``, and take it down again."""
    for name in ("state", *(f"spool/{node}" for node in nodes)):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    own, *ports = _free_ports(1 + len(nodes))
    lines = (NODE.format(name=name, port=port) for name, port in zip(nodes, ports, strict=True))
    text: Mapping[str, Any] = {
        "host": socket.gethostname(),
        "port": own,
        "folder": folder,
        "nodes": "\n".join(lines),
    }
    (folder / "slurm.conf").write_text(CONF.format(**text))
    instance = Cluster(folder, nodes, engines or {})
    try:
        instance.up()
        yield instance
    finally:
        instance.down()
