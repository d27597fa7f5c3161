"""Abilities of an engine, read from `docker info`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cooperflow.errors import listed
from cooperflow.experiment.config_schema import Containers

# The word in `docker info` and the cgroup controller behind each limit of the config.
LIMITS = {
    "memory": ("MemoryLimit", "memory"),
    "cpus": ("CpuCfsQuota", "cpu"),
    "pids": ("PidsLimit", "pids"),
}
CONTAINERD_STORE = "io.containerd.snapshotter.v1"
SYSTEM_CONTAINERD = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")
CONTAINERD_ROOT = "/var/lib/containerd"


def missing_limits(config: Containers, info: Mapping[str, Any]) -> list[str]:
    """Return the configured limits that the engine drops without an error."""
    return [
        name for name, (word, _) in LIMITS.items() if getattr(config, name) and not info.get(word)
    ]


def limits_text(missing: list[str], info: Mapping[str, Any]) -> str:
    """Return the advice for an engine that cannot enforce the limits ``missing``."""
    controllers = " ".join(LIMITS[name][1] for name in missing)
    keys = listed(f"containers.{name}" for name in missing)
    text = f"the engine cannot enforce these limits: {keys}. "
    if is_rootless(info):
        text += (
            f"It is rootless: delegate the cgroup controllers ({controllers}) to its user. Write "
            f"`[Service]` and `Delegate={controllers}` to "
            "/etc/systemd/system/user@.service.d/delegate.conf, then `systemctl daemon-reload`, "
            "log out and in, and restart the engine (`systemctl --user restart docker`)"
        )
    else:
        text += (
            f"Enable the cgroup controllers ({controllers}; kernel parameters "
            "cgroup_enable=memory swapaccount=1), then restart the machine"
        )
    return f"{text}. Set these keys to null to run without the limits."


def is_rootless(info: Mapping[str, Any]) -> bool:
    """Return whether the engine runs without root."""
    return any("rootless" in str(option) for option in info.get("SecurityOptions") or [])


def image_store(info: Mapping[str, Any]) -> Path | None:
    """Return the folder whose disk holds the images, None where the engine does not report it.

    A system-wide containerd keeps the images of Docker's containerd store outside DockerRootDir.
    """
    root = Path(str(info.get("DockerRootDir")))
    status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == 2)
    if status.get("driver-type") != CONTAINERD_STORE:
        return root
    address = str((info.get("Containerd") or {}).get("Address") or "")
    if not address:
        return None
    return Path(CONTAINERD_ROOT) if address in SYSTEM_CONTAINERD else root
