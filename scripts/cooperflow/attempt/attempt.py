"""Attempt: one try at a run, with all parameters that the supervisor and its services need."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cooperflow import layout, redaction, session_state
from cooperflow.engine.containers import Labels
from cooperflow.experiment import fingerprint
from cooperflow.experiment.config_schema import Model
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.instrumentation.rate_limit import RateLimit
from cooperflow.outcomes import run_result


@dataclass(frozen=True)
class Attempt:
    """An attempt at ``run`` with its files in ``folder``, an absolute path."""

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
        """Time limit without the time that calls waited for the rate limit."""
        return self.plan.config.limits.run_seconds

    @property
    def call_log(self) -> Path:
        return self.folder / layout.CALLS

    @property
    def upstream(self) -> Path:
        """Folder to which upstream writes the results of this attempt."""
        return run_result.upstream_folder(self.run, self.folder)

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
        """True if the agents' network reaches more than the services of the run."""
        agent = self.experiment.agent
        return agent.outside if agent.openhands else self.plan.config.containers.network != "none"

    @cached_property
    def step_limit(self) -> int | None:
        return fingerprint.step_limit(self.experiment, self.plan)

    def agent_file(self) -> dict[str, object]:
        """Return the document of upstream's --agent-config."""
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

        A coop agent's prompt does not name the other feature: only the folder identifies the pair.
        """
        root = Path(str(self.experiment.model.replay)).resolve()
        pair = layout.recordings(root, self.run.pair)
        folders = (pair / self.experiment.setting.name, pair)
        return next((folder for folder in folders if folder.is_dir()), root)


def new_token() -> str:
    """Return a unique name for an attempt."""
    return uuid.uuid4().hex


def provider_key(model: Model) -> str | None:
    """Return the key of a model's provider; a replay accepts any."""
    if model.replay is not None:
        return "replay"
    return redaction.key_value(model.api_key, os.environ)
