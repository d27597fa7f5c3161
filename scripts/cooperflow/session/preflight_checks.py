"""The preflight's lines: each thing a paid run needs, tried, with what to do if it fails."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors

from cooperflow import atomic_io, runtime_dir, session_lock
from cooperflow.attempt import redis_server, supervisor
from cooperflow.engine import abilities, containers, image_identity, modal_sandboxes
from cooperflow.engine.containers import Labels
from cooperflow.errors import EngineError, StoreError, UserError, listed
from cooperflow.experiment import dataset
from cooperflow.experiment.plan import Plan, Run
from cooperflow.images import disk_space
from cooperflow.outcomes import patch_text
from cooperflow.session import findings, model_check
from cooperflow.session.findings import BAD, NOTE, OK, Line
from cooperflow.upstream import command_line

# Open files that a start with four runs needs; more runs need more.
OPEN_FILES = 1024
MEMORY = 64 * 1024 * 1024


def lines(plan: Plan, runs: Sequence[Run], engine: bool = True) -> Iterator[Line]:
    """Look at everything that ``runs`` need, one line each as it is known."""
    if not plan.config.docker:
        yield _modal()
    elif engine:
        yield from _docker(plan)
    yield _open_files()
    yield _disk(plan)
    yield from _data(plan)
    yield from _agent(runs)
    if plan.config.redis.url is None and any(run.experiment.setting.redis for run in runs):
        yield _redis()
    models = {run.experiment.model_name: run.experiment.model for run in runs}
    for name, asked in models.items():
        yield from model_check.lines(plan, name, asked)


def failed(found: Iterable[Line]) -> list[Line]:
    """Return the lines that stand in the way of a start."""
    return [line for line in found if line.state == BAD]


def _docker(plan: Plan) -> Iterator[Line]:
    try:
        client = containers.engine(10)
    except EngineError as error:
        yield Line("daemon", BAD, f"Docker does not answer ({error}). Start it: `make engine`.")
        return
    with contextlib.closing(client):
        info = client.info()
        yield Line("daemon", OK, f"Docker {info.get('ServerVersion')}")
        yield _limits(plan, client, info)
        yield findings.clock("clock", str(info.get("SystemTime") or ""), "Docker's")
        absent = [i for i in plan.images if containers.image_id(client, i) is None]
        try:
            told = disk_space.check(plan, client, absent)
            yield from _changed(plan, client)
            state = NOTE if told and not told.known else OK
            yield Line("images", state, told.words if told else f"all {len(plan.images)} are here")
        except UserError as error:
            yield Line("images", BAD, str(error))


def _modal() -> Line:
    """Ask Modal for upstream's app, which costs nothing."""
    told = modal_sandboxes.lacking()
    if not told:
        try:
            modal_sandboxes.answers()
        except EngineError as error:
            told = f"{error}. Check the token and the network (`.venv/bin/modal token info`)."
    return Line("modal", BAD if told else OK, told or "its app answers; no Docker is needed here")


def _changed(plan: Plan, client: docker.DockerClient) -> Iterator[Line]:
    """Tell images that are not those that were verified: every run on them would be refused."""
    for image in plan.images:
        path = plan.results.sentinel(image)
        sentinel = atomic_io.read_json(path) or {}
        attributes = containers.image_attributes(client, image)
        if sentinel.get("id") and attributes and not image_identity.is_same(sentinel, attributes):
            text = f"{image} is another one than was verified: remove {path} to verify it anew"
            yield Line("images", BAD, text)


def _limits(plan: Plan, client: docker.DockerClient, info: dict[str, Any]) -> Line:
    """Try in a container whether a memory limit holds, if there is an image to try it with."""
    missing = abilities.missing_limits(plan.config.containers, info)
    if missing:
        return Line("limits", BAD, abilities.limits_text(missing, info))
    image = next((i for i in plan.images if containers.image_id(client, i)), None)
    if image is None:
        return Line("limits", OK, "offered by the kernel; tried once an image is here")
    labels = Labels.new(session_lock.identity(plan.results), "preflight", supervisor.new_token())
    files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    try:
        said = containers.output(
            client,
            image,
            f"cat {files} 2>/dev/null; true",
            lambda text: bool(text.strip()),
            labels=labels.as_dict(),
            network_mode="none",
            **({"mem_limit": MEMORY} if plan.config.containers.memory else {}),
        )
    except docker.errors.DockerException as error:
        return Line("limits", BAD, f"no container starts ({error}). `docker info` may say why.")
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    if not plan.config.containers.memory:
        return Line("limits", OK, "a container starts; containers.memory is null")
    if str(MEMORY) in said.split():
        return Line("limits", OK, "a container's memory limit holds")
    return Line(
        "limits",
        BAD,
        "a container's memory limit does not reach it: check the cgroup "
        f"driver in `docker info` (it said: {said.strip() or 'nothing'}).",
    )


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return Line("open files", BAD, f"the limit is {soft}: `ulimit -n 4096` (at most {most}).")
    return Line("open files", OK, f"limit {soft}")


def _disk(plan: Plan) -> Line:
    place = plan.results.root
    while not place.exists():
        place = place.parent
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    if not os.access(place, os.W_OK):
        return Line("disk", BAD, f"{place} is not writable. Set `results` to a folder that is.")
    return Line("disk", OK, f"{free / 1e9:.1f} GB free for results in {place}")


def _data(plan: Plan) -> Iterator[Line]:
    try:
        dataset.check(Path(plan.config.dataset.dir), plan.pairs)
        yield Line("data set", OK, f"{plan.config.dataset.dir}: whole for {plan.choice}")
        unusual = patch_text.task_caveats(Path(plan.config.dataset.dir), plan.pairs)
        if unusual:
            tasks = [f"{task} ({', '.join(words)})" for task, words in unusual.items()]
            yield Line(
                "patches",
                NOTE,
                f"Not plain text: {listed(tasks, 5)}. Upstream's own commands change such patches;"
                " here they are kept byte for byte, and passes of them have a caveat.",
            )
    except UserError as error:
        yield Line("data set", BAD, str(error))


def _agent(runs: Sequence[Run]) -> Iterator[Line]:
    kinds = {(run.experiment.agent.name, run.experiment.setting.mode): run for run in runs}
    for (name, mode), run in kinds.items():
        try:
            defaults = command_line.agent_defaults(name, mode)
        except (OSError, ValueError, SyntaxError) as error:
            yield Line("agent", BAD, f"{name}: its config cannot be read ({error}): `make setup`.")
            continue
        own = (defaults or {}).get("agent") or {}
        given = run.experiment.agent.config.get("agent") or {}
        wrong = [key for key, value in given.items() if key in own and not _alike(value, own[key])]
        unknown = [f"agent.{key}" for key in given if own and key not in own]
        told = f"{name}, {mode}: config {'read' if defaults else 'is its own'}"
        for key in wrong:
            text = f"config.agent.{key}: {given[key]!r} is of another kind than {own[key]!r}"
            yield Line("agent", BAD, f"{text}, which upstream has there")
        if unknown:
            yield Line("agent", NOTE, f"{told}; not among upstream's keys: {', '.join(unknown)}")
        elif not wrong:
            yield Line("agent", OK, told)


def _alike(value: Any, default: Any) -> bool:
    """Whether a value can stand where upstream has ``default``; None there tells nothing."""
    return value is None or default is None or _kind(value) is _kind(default)


def _kind(value: Any) -> type:
    """Return a value's type; all numbers are of one, and truth values are none."""
    return float if type(value) is int else type(value)


def _redis() -> Line:
    with runtime_dir.scratch() as folder:
        try:
            server = redis_server.RedisServer(folder, folder / "log")
        except (UserError, OSError) as error:
            return Line("redis", BAD, str(error))
        try:
            server.wait(10)
            return Line("redis", OK, "a private one starts")
        except StoreError as error:
            return Line("redis", BAD, f"{error}.")
        finally:
            server.end()


def show(found: Iterable[Line], tell: Callable[[str], None]) -> list[Line]:
    """Tell each line as it is known; return those that stand in the way."""
    kept = []
    for line in found:
        tell(str(line))
        kept.append(line)
    return failed(kept)
