"""A stand-in for Modal's client whose sandboxes are containers, since tests cannot reach Modal.

It has only the functions that upstream's adapters and the workflow call. STANDIN_DOCKER_HOST names
the Docker engine, so that a test can hide Docker from all other processes. Each call is a line in
the file STANDIN_CALLS. While the file STANDIN_KILL exists, the next command finds its sandbox dead.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from . import config, exception

__all__ = ["App", "Image", "Sandbox", "config", "exception"]


def _docker(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DOCKER_HOST": os.environ["STANDIN_DOCKER_HOST"]}
    return subprocess.run(
        ["docker", *arguments], env=environment, capture_output=True, check=False, **options
    )


def _note(**call: Any) -> None:
    with Path(os.environ["STANDIN_CALLS"]).open("a") as stream:
        stream.write(json.dumps(call) + "\n")


class App:
    def __init__(self, name: str) -> None:
        self.app_id = name

    @classmethod
    def lookup(cls, name: str, create_if_missing: bool = False) -> App:
        if not config.config.get("token_id"):
            raise exception.AuthError("Token missing. Could not authenticate client.")
        return cls(name)


class Image:
    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_registry(cls, name: str) -> Image:
        return cls(name)

    def entrypoint(self, words: list[str]) -> Image:
        return self


class _Stream:
    def __init__(self, data: bytes, text: bool) -> None:
        self._data = data
        self._text = text

    def read(self) -> Any:
        return self._data.decode() if self._text else self._data


class _Process:
    def __init__(self, result: subprocess.CompletedProcess[bytes], text: bool) -> None:
        self.returncode = result.returncode
        self.stdout = _Stream(result.stdout, text)
        self.stderr = _Stream(result.stderr, text)

    def wait(self) -> int:
        return self.returncode


class Sandbox:
    def __init__(self, object_id: str, workdir: str = "/") -> None:
        self.object_id = object_id
        self._workdir = workdir

    @classmethod
    def create(
        cls,
        *command: str,
        app: App,
        image: Image,
        timeout: int = 300,
        workdir: str = "/",
        tags: dict[str, str] | None = None,
    ) -> Sandbox:
        labels = [f"--label={key}={value}" for key, value in (tags or {}).items()]
        result = _docker(
            *("run", "-d", "--init", f"--label=standin-app={app.app_id}", *labels),
            *("--entrypoint", "", "-w", workdir, image.name, *command),
        )
        if result.returncode:
            raise exception.Error(result.stderr.decode())
        sandbox = cls(result.stdout.decode().strip(), workdir)
        _note(call="create", app=app.app_id, tags=tags, id=sandbox.object_id)
        return sandbox

    @classmethod
    def list(cls, *, app_id: str, tags: dict[str, str]) -> list[Sandbox]:
        chosen = [f"--filter=label={key}={value}" for key, value in tags.items()]
        result = _docker("ps", "-aq", "--no-trunc", f"--filter=label=standin-app={app_id}", *chosen)
        return [cls(identity) for identity in result.stdout.decode().split()]

    def exec(self, *command: str, text: bool = True) -> _Process:
        kill = Path(os.environ.get("STANDIN_KILL", "/nonexistent"))
        if kill.exists():
            kill.unlink()
            self.terminate()
            raise exception.NotFoundError("Sandbox not found")
        return _Process(_docker("exec", "-w", self._workdir, self.object_id, *command), text)

    def terminate(self) -> None:
        _note(call="terminate", id=self.object_id)
        _docker("rm", "-f", self.object_id)
