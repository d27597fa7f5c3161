"""The preflight's lines: each thing a paid run needs, tried, with what to do if it fails."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests

from cooperflow import (
    atomic,
    attempt,
    containers,
    dataset,
    experiment,
    guard,
    halt,
    redis_server,
    room,
    runtime,
    usage,
)
from cooperflow.config import Model
from cooperflow.containers import EngineError, Labels
from cooperflow.errors import UserError
from cooperflow.plan import Plan, Run

OK, BAD, NOTE = "ok", "NO", "--"
# Open files that a start with four runs needs; more runs need more.
OPEN_FILES = 1024
# Clocks may differ by so much before signatures and tokens are refused, seconds.
CLOCK = 120
# A key that was accepted is not asked again for so long, seconds.
FRESH = 600
MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. NOTE: no obstacle, but worth knowing."""

    name: str
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<3} {self.name:<12} {self.text}"


def lines(plan: Plan, runs: Sequence[Run], engine: bool = True) -> Iterator[Line]:
    """Look at everything that ``runs`` need, one line each as it is known."""
    if engine:
        yield from _docker(plan)
    yield _open_files()
    yield _disk(plan)
    yield from _data(plan)
    yield from _agent(plan, runs)
    if plan.config.redis.url is None and any(run.experiment.setting.messaging for run in runs):
        yield _redis()
    models = {run.experiment.model_name: run.experiment.model for run in runs}
    for name, model in models.items():
        yield from _model(plan, name, model)


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
        yield _clock("clock", str(info.get("SystemTime") or ""), "Docker's")
        absent = [i for i in plan.images if containers.image_id(client, i) is None]
        try:
            told = room.check(plan, client, absent)
            yield from _changed(plan, client)
            yield Line("images", OK, told or f"all {len(plan.images)} are here")
        except UserError as error:
            yield Line("images", BAD, str(error))


def _changed(plan: Plan, client: docker.DockerClient) -> Iterator[Line]:
    """Tell images that are not those that were verified: every run on them would be refused."""
    for image in plan.images:
        sentinel = plan.results.sentinel(image)
        verified = (atomic.read_json(sentinel) or {}).get("id")
        here = containers.image_id(client, image)
        if verified and here and here != verified:
            text = f"{image} is another one than was verified: remove {sentinel} to verify it anew"
            yield Line("images", BAD, text)


def _limits(plan: Plan, client: docker.DockerClient, info: dict[str, Any]) -> Line:
    """Try in a container whether a memory limit holds, if there is an image to try it with."""
    lacking = [word for word in ("MemoryLimit", "CpuCfsQuota", "PidsLimit") if not info.get(word)]
    if lacking:
        return Line(
            "limits",
            BAD,
            f"the kernel gives Docker no {', '.join(lacking)}: enable the cgroup "
            "controllers (kernel parameters cgroup_enable=memory swapaccount=1), then restart.",
        )
    image = next((i for i in plan.images if containers.image_id(client, i)), None)
    if image is None:
        return Line("limits", OK, "offered by the kernel; tried once an image is here")
    labels = Labels.new(guard.identity(plan.results), "preflight", attempt.new_token())
    files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    try:
        said = client.containers.run(
            image,
            ["-c", f"cat {files} 2>/dev/null; true"],
            entrypoint="/bin/sh",
            mem_limit=MEMORY,
            labels=labels.as_dict(),
            network_mode="none",
            remove=True,
        ).decode()
    except docker.errors.DockerException as error:
        return Line("limits", BAD, f"no container starts ({error}). `docker info` may say why.")
    finally:
        containers.remove(client, {containers.TOKEN_LABEL: labels.token})
    if str(MEMORY) in said.split():
        return Line("limits", OK, "a container's memory limit holds")
    return Line(
        "limits",
        BAD,
        "a container's memory limit does not reach it: check the cgroup "
        f"driver in `docker info` (it said: {said.strip() or 'nothing'}).",
    )


def _clock(name: str, theirs: str, whose: str) -> Line:
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(theirs[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        moment = _http_date(theirs)
    if not moment:
        return Line(name, NOTE, f"{whose} time is not told")
    off = abs(moment - time.time())
    if off > CLOCK:
        return Line(name, BAD, f"{off:.0f} s off {whose}: set this machine's clock (NTP).")
    return Line(name, OK, f"within {max(off, 1):.0f} s of {whose}")


def _http_date(text: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0


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
    except UserError as error:
        yield Line("data set", BAD, str(error))


def _agent(plan: Plan, runs: Sequence[Run]) -> Iterator[Line]:
    for mode in dict.fromkeys(run.experiment.setting.mode for run in runs):
        name = plan.config.agent.name
        try:
            defaults = experiment.agent_defaults(name, mode)
        except (OSError, ValueError, SyntaxError) as error:
            yield Line("agent", BAD, f"{name}: its config cannot be read ({error}): `make setup`.")
            continue
        unknown = [
            f"{part}.{key}"
            for part, keys in plan.config.agent.config.items()
            if isinstance(keys, dict) and defaults and part == "agent"
            for key in keys
            if key not in (defaults.get(part) or {})
        ]
        told = f"{name}, {mode}: config {'read' if defaults else 'is its own'}"
        if unknown:
            yield Line("agent", NOTE, f"{told}; not among upstream's keys: {', '.join(unknown)}")
        else:
            yield Line("agent", OK, told)


def _redis() -> Line:
    with runtime.scratch() as folder:
        try:
            server = redis_server.RedisServer(folder, folder / "log")
        except (UserError, OSError) as error:
            return Line("redis", BAD, str(error))
        try:
            if server.wait(10):
                return Line("redis", OK, "a private one starts")
            said = (folder / "log").read_text(errors="replace").strip().splitlines()
            return Line("redis", BAD, f"it does not start ({said[-1] if said else 'no word'}).")
        finally:
            server.end()


def _model(plan: Plan, name: str, model: Model) -> Iterator[Line]:
    if model.replay is not None:
        yield Line("model", OK, f"{name}: replay of {model.replay}: no key, no cost")
        return
    key = os.environ.get(model.api_key or "") or None
    if model.api_key and not key:
        yield Line("key", BAD, f"{model.api_key} is not set: `export {model.api_key}=...`")
        return
    told = _fresh(plan, name, model) or probe(model, key, call=True)
    yield from model_lines(name, model, told)
    if told.get("kind") == usage.ANSWERED:
        _remember(plan, name, model, told)
    if model.api_base:
        yield _clock("clock", _their_date(model.api_base), f"that of {name}'s end point")


def model_lines(name: str, model: Model, told: dict[str, Any]) -> Iterator[Line]:
    """Return what the probe of a model came to. Pure."""
    if not told.get("known"):
        yield Line(
            "model",
            BAD,
            f"{name}: litellm does not know {model.model!r} "
            f"({told.get('message', '')}). Write provider/model, such as openai/NAME.",
        )
        return
    kind, said = told.get("kind"), str(told.get("message") or "")
    if kind in (usage.ANSWERED, usage.RATE_LIMITED):
        cost = told.get("cost")
        spent = "at no known price"
        if cost is not None:
            spent = f"for {cost:.6f} USD, which are not in the runs' books"
        again = " (a moment ago)" if told.get("again") else ""
        yield Line("key", OK, f"{name}: accepted{again}: one call of one token {spent}")
        yield Line("model", OK, f"{name}: {model.model} answers")
    elif kind in halt.ADVICE:
        advice = halt.ADVICE[str(kind)].format(key=model.api_key or "(none)", model=name)
        which = "model" if kind == usage.MODEL_NOT_FOUND else "key"
        yield Line(which, BAD, f"{name}: {advice} It said: {said}")
    else:
        yield Line(
            "model",
            BAD,
            f"{name}: {kind}: the end point "
            f"{model.api_base or 'of the provider'} does not serve ({said}).",
        )
    price = told.get("price")
    if price and price[0]:
        per = " / ".join(f"{1e6 * (p or 0):.2f}" for p in price)
        yield Line("price", OK, f"{name}: {per} USD per million tokens in / out")
    else:
        yield Line(
            "price",
            NOTE,
            f"{name}: litellm knows no price: its costs will be told as 0. Name a "
            "file with its price in LITELLM_MODEL_REGISTRY_PATH (litellm's format) to have them.",
        )


def probe(model: Model, key: str | None, call: bool) -> dict[str, Any]:
    """Ask the model in a process of its own; the key goes through a pipe and is not written."""
    asked = {"model": model.model, "api_base": model.api_base, "key": key, "call": call}
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cooperflow.model_probe"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            env=environment,
            timeout=180,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return {"known": True, "kind": usage.API_TIMEOUT, "message": "no answer in 180 s"}


def _their_date(url: str) -> str:
    try:
        return requests.head(url, timeout=10).headers.get("Date", "")
    except requests.exceptions.RequestException:
        return ""


def _place(plan: Plan) -> Path:
    return plan.results.state / "preflight.json"


def _same(model: Model) -> str:
    return json.dumps([model.model, model.api_base, model.api_key])


def _fresh(plan: Plan, name: str, model: Model) -> dict[str, Any] | None:
    """Return what the model said a moment ago: one start pays for one call."""
    known = (atomic.read_json(_place(plan)) or {}).get(name)
    if not known or known["asked"] != _same(model) or time.time() - known["time"] > FRESH:
        return None
    return {**known["told"], "again": True}


def _remember(plan: Plan, name: str, model: Model, told: dict[str, Any]) -> None:
    if told.get("again"):
        return
    known = atomic.read_json(_place(plan)) or {}
    record = {"asked": _same(model), "time": time.time(), "told": told}
    atomic.write_json(_place(plan), {**known, name: record})
    plan.results.state.mkdir(parents=True, exist_ok=True)
    atomic.append_line(plan.results.root / "preflight.jsonl", json.dumps({"model": name, **record}))


def show(found: Iterable[Line], tell: Callable[[str], None]) -> list[Line]:
    """Tell each line as it is known; return those that stand in the way."""
    kept = []
    for line in found:
        tell(str(line))
        kept.append(line)
    return failed(kept)
