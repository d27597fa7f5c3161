"""Parameters of an attempt (one try at a run), and the services that its agents need."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cooperflow import layout, processes, redaction, session_state
from cooperflow.attempt import child_process, services
from cooperflow.attempt.services import Gateway, RedisServer, Upstream
from cooperflow.engine import containers
from cooperflow.engine.containers import Labels, Network
from cooperflow.errors import EngineError, StoreError
from cooperflow.experiment import fingerprint
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.openhands import agent_environment
from cooperflow.outcomes import run_result
from cooperflow.session_state import RateLimit


@dataclass(frozen=True)
class Attempt:
    """An attempt at ``run``; its files are in ``folder``, an absolute path."""

    plan: Plan
    run: Run
    folder: Path
    labels: Labels

    @classmethod
    def create(cls, plan: Plan, run: Run, folder: Path) -> Attempt:
        """Return an attempt with labels that no other attempt has."""
        labels = Labels.new(session_state.results_identity(plan.results), run.key, new_token())
        return cls(plan, run, folder.resolve(), labels)

    @property
    def experiment(self) -> Experiment:
        return self.run.experiment

    @property
    def is_docker(self) -> bool:
        """True if the containers are Docker's; otherwise they are Modal sandboxes."""
        return self.plan.config.docker

    @property
    def seconds(self) -> float:
        """Time limit, seconds, not including the time that calls wait for the rate limit."""
        return self.plan.config.limits.run_seconds

    @property
    def call_log(self) -> Path:
        return self.folder / layout.CALLS

    @property
    def upstream(self) -> Path:
        """Folder to which upstream writes the results of this attempt."""
        return run_result.output_folder(self.run, self.folder)

    @cached_property
    def key(self) -> str | None:
        """The provider's key."""
        return provider_key(self.experiment.model)

    @cached_property
    def rate_limit(self) -> RateLimit | None:
        """The rate limit of the provider, None without one."""
        rate = self.plan.limits(self.experiment).requests_per_minute
        if not rate:
            return None
        return RateLimit(self.plan.results.rate_limits / str(self.experiment.model.provider), rate)

    @property
    def has_outside_network(self) -> bool:
        """True if the agents' network also reaches the outside, not only the run's services."""
        agent = self.experiment.agent
        return agent.outside if agent.openhands else self.plan.config.containers.network != "none"

    @cached_property
    def step_limit(self) -> int | None:
        return fingerprint.step_limit(self.experiment, self.plan)

    def agent_file(self) -> dict[str, object]:
        """Return the document for upstream's --agent-config."""
        return fingerprint.agent_file(self.experiment, self.plan)

    @property
    def arguments(self) -> list[str]:
        """Arguments of cooperbench, without --redis and --agent-config."""
        config, experiment, pair = self.plan.config, self.experiment, self.run.pair
        first, second = pair.features
        return [
            *("run", "-n", experiment.run_name, "-m", experiment.model.model),
            *("-a", experiment.agent.name, "-r", pair.repo, "-t", str(pair.task_id)),
            *("-f", f"{first},{second}", *experiment.setting.flags, "--backend", config.backend),
            *("--dataset-dir", str(Path(config.dataset.dir).resolve())),
            *("--log-dir", str(self.folder / "logs"), "--no-auto-eval", "-c", "1"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the child process."""
        agent = self.experiment.agent
        tries = str(self.plan.config.limits.call_tries)
        environment = {"MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": tries}
        if agent.external:
            environment["COOPERBENCH_EXTERNAL_AGENTS"] = ",".join(agent.external)
        if agent.name == "claude_code" and self.experiment.api_base:
            environment["ANTHROPIC_BASE_URL"] = self.experiment.api_base
        return environment

    @property
    def recordings(self) -> Path:
        """The most specific folder of recordings for this run.

        A coop agent's prompt does not name the other feature, so only the folder identifies the
        pair.
        """
        root = Path(str(self.experiment.model.replay)).resolve()
        pair = layout.recordings(root, self.run.pair)
        folders = (pair / self.experiment.setting.name, pair)
        return next((folder for folder in folders if folder.is_dir()), root)


def new_token() -> str:
    """Return a unique name for an attempt."""
    return uuid.uuid4().hex


def provider_key(model: Model) -> str | None:
    """Return the key of a model's provider; a replay accepts any key."""
    if model.replay is not None:
        return "replay"
    return redaction.key_value(model.api_key, os.environ)


def attempt_secrets(plan: Plan, model: Model) -> list[str | None]:
    """Return the secrets that no file of an attempt may contain."""
    return [provider_key(model), *redaction.secrets([], os.environ, plan.config.redis.url)]


@dataclass(frozen=True)
class Services:
    """Started services, and the arguments and variables that tell cooperbench about them."""

    arguments: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    run_arguments: list[str] = field(default_factory=list)  # for the agents' `docker run`
    redis: RedisServer | None = None
    gateway: Gateway | None = None

    @property
    def gateway_died(self) -> bool:
        return self.gateway is not None and self.gateway.died

    @property
    def died(self) -> bool:
        """True if a service that every agent needs has ended, so that the attempt cannot count."""
        redis = self.redis
        store_died = redis is not None and redis.died and not redis.ended_by_client
        return self.gateway_died or store_died


def start_store(
    attempt: Attempt, scratch: Path, stack: contextlib.ExitStack, network: Network | None = None
) -> Services:
    """Start the agents' message store, or use the configured one; ``stack`` stops it.

    Args:
        network: network of the containers that call the store; None: only this machine calls it.

    Raises:
        EngineError: Docker cannot start a container to check the store.
        StoreError: the store does not start or answer, or containers cannot reach it.
    """
    redis, url = None, attempt.plan.config.redis.url
    if url:
        services.ping_store(url)
    else:
        redis = _create_server(attempt, scratch, network)
        stack.callback(redis.end)
        redis.wait()
        url = redis.url
    if network is not None:
        services.check_store_from_container(attempt.labels, attempt.run.image, network.name, url)
    return Services(["--redis", url], redis=redis)


def _create_server(attempt: Attempt, scratch: Path, network: Network | None) -> RedisServer:
    """Create a private server, which containers in ``network`` can reach with a password."""
    log = attempt.folder / "redis.log"
    if network is None:
        return RedisServer(scratch, log)
    if network.address is None:
        raise StoreError(
            f"Docker's network {network.name} has no gateway, so containers in it cannot reach "
            "this machine. Set containers.network to another network, or remove the key."
        )
    return RedisServer(scratch, log, network.address, secrets.token_hex(16))


def start_for_containers(
    attempt: Attempt, upstream: Upstream, scratch: Path, stack: contextlib.ExitStack
) -> Services:
    """Start the services of agents that run in containers; ``stack`` stops them.

    Raises:
        EngineError: Docker cannot create a network, or its networks are on another machine.
        StoreError: the message store does not start, or containers cannot reach it.
    """
    labels = attempt.labels
    network = containers.create_network(
        containers.own_network_name(labels), labels, not attempt.has_outside_network
    )
    if network.address is None:
        raise EngineError(f"Docker's network {network.name} has no gateway.")
    token = secrets.token_hex(16)
    try:
        gateway = Gateway(network.address, token, upstream, attempt.folder / "gateway.log")
    except OSError as error:
        raise EngineError(
            f"The address {network.address} of a Docker network does not belong to this machine "
            f"({error}). openhands_docker needs a Docker engine on the machine that runs it."
        ) from error
    stack.callback(gateway.end)
    environment: dict[str, str] = agent_environment(
        network.name, gateway.url, token, attempt.folder
    )
    store = Services()
    if attempt.experiment.setting.redis:
        store = start_store(attempt, scratch, stack, network)
    return dataclasses.replace(store, environment=environment, gateway=gateway)


def read_model_kwargs(agent_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the agent config's parameters of model calls."""
    return dict(agent_file["config"]["model"]["model_kwargs"])


def start_replay_server(
    recordings: str, folder: Path, model: str, stack: contextlib.ExitStack
) -> str:
    """Start a server that plays recordings as ``model``, and return its URL.

    The server is a fork: this process has already imported most of its packages.
    """
    port = folder / ".port"
    arguments = ["--recordings", recordings, "--port-file", str(port)]
    arguments += ["--ledger", str(folder / "ledger.jsonl")]
    server = child_process.fork(folder / "replay.log", lambda: _serve_recordings(arguments))
    stack.callback(port.unlink, missing_ok=True)
    stack.callback(processes.end_fork, server)
    limit = time.monotonic() + 30
    while not port.exists() and time.monotonic() < limit and not processes.has_ended(server):
        time.sleep(0.02)
    base = f"http://127.0.0.1:{port.read_text().strip() if port.exists() else 9}"
    return f"{base}/v1" if model.startswith("openai/") else f"{base}/v2/chat"


def _serve_recordings(arguments: list[str]) -> int:
    sys.path.insert(0, str(layout.REPOSITORY / "demo"))
    import replay_server

    return replay_server.main(arguments)
