"""The plan derived from a config: its experiments (model x setting), runs and images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cooperflow import layout
from cooperflow.errors import UserError, listed, suggest
from cooperflow.experiment import pairs
from cooperflow.experiment.config_schema import INSIDE, Agent, Config, Model, Provider
from cooperflow.layout import Pair, Results, RunFolder
from cooperflow.upstream import published

# litellm's parameters that determine the called server and the credentials. `api_base` and
# `base_url` are synonyms.
CONNECTION = re.compile(
    r"api_(version|type)|(aws|azure|vertex)_\w+|(extra_)?headers|organization|custom_llm_provider"
    r"|project|region_name|ssl_verify|tenant_id"
)


@dataclass(frozen=True)
class Setting:
    """An entry of `settings`, with the meaning of its flags."""

    name: str
    flags: tuple[str, ...]

    @property
    def mode(self) -> str:
        """Upstream's name of the mode, which is also a folder name: solo, coop or team."""
        return self.flags[self.flags.index("--setting") + 1]

    @property
    def messaging(self) -> bool:
        """True if its agents can send messages."""
        return self.mode != "solo" and "--no-messaging" not in self.flags

    @property
    def redis(self) -> bool:
        """True if it needs a Redis, for messages or for a team's task list."""
        return self.messaging or self.mode == "team"

    @property
    def git(self) -> bool:
        """True if its agents share a git server and therefore a network."""
        return "--git" in self.flags


def adopted_folders(model: Model, setting: str) -> list[str]:
    """Return the folders that a model adopts in a setting, one per repeat."""
    folders = model.adopt.get(setting, [])
    return [folders] if isinstance(folders, str) else list(folders)


@dataclass(frozen=True)
class Experiment:
    """A model in a setting, in one repeat."""

    model_name: str
    model: Model
    setting: Setting
    agent: Agent
    repeat: int = 1

    @property
    def adopted(self) -> bool:
        """True if its runs are imported from plain cooperbench and never made by this workflow."""
        return bool(self.model.adopt)

    @property
    def model_kwargs(self) -> Mapping[str, Any]:
        """Parameters of model calls in the agent's config."""
        return (self.agent.config.get("model") or {}).get("model_kwargs") or {}

    @property
    def api_base(self) -> str | None:
        """URL to which model calls are sent; None: the provider's default.

        The agent's parameters are merged over those of the model, and litellm prefers `base_url`.
        """
        kwargs = self.model_kwargs
        return kwargs.get("base_url") or kwargs.get("api_base", self.model.api_base)

    @property
    def connection(self) -> dict[str, Any]:
        """Parameters of a model call that determine its server, without limits and sampling."""
        kwargs = {k: v for k, v in self.model_kwargs.items() if CONNECTION.fullmatch(k)}
        return kwargs | ({"api_base": self.api_base} if self.api_base else {})

    @property
    def store_in_containers(self) -> bool:
        """True if commands inside the agents' containers call the message store directly."""
        inside = self.agent.openhands or self.agent.name in INSIDE
        return self.setting.mode == "team" or (self.setting.messaging and inside)

    @property
    def adopted_from(self) -> str:
        """The folder or public record from which its runs are imported."""
        return adopted_folders(self.model, self.setting.name)[self.repeat - 1]

    @property
    def has_outcomes_only(self) -> bool:
        """True if its runs come from a public record, which has outcomes but no patches."""
        return self.adopted and published.split_source(self.adopted_from) is not None

    def has_own_network(self, configured: str | None) -> bool:
        """True if each of its runs has a Docker network; ``configured``: containers.network."""
        if self.setting.git or self.agent.openhands:
            return True
        return self.store_in_containers and configured in (None, "none")

    @property
    def run_name(self) -> str:
        return layout.run_name(self.model_name, self.setting.name, self.repeat)


@dataclass(frozen=True)
class Run:
    """An experiment applied to a pair."""

    experiment: Experiment
    pair: Pair

    @property
    def key(self) -> str:
        """The run's folder below runs/, which identifies it."""
        return f"{self.experiment.run_name}/{self.experiment.setting.mode}/{self.pair.folder}"

    @property
    def image(self) -> str:
        """The image in which the agents work. Tests run in the task's image."""
        own = self.pair.image
        return published.with_agent_server(own) if self.experiment.agent.openhands else own

    @property
    def dashed(self) -> str:
        """The key as a file name, with dashes for slashes."""
        return self.key.replace("/", "--")

    def folder(self, results: Results) -> RunFolder:
        return results.run(self.experiment.run_name, self.experiment.setting.mode, self.pair)


@dataclass(frozen=True)
class Plan:
    """Experiments and runs of a config, in the order of their execution."""

    config: Config
    pairs: tuple[Pair, ...]
    choice: str = ""  # description of the selected pairs

    @property
    def results(self) -> Results:
        return Results(Path(self.config.results))

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(
            Setting(name, tuple(flags)) for name, flags in self.config.settings.items() if flags
        )

    @cached_property
    def experiments(self) -> tuple[Experiment, ...]:
        return tuple(
            Experiment(name, model, setting, model.agent or self.config.agent, repeat)
            for setting in self.settings
            for repeat in range(1, self._most_repeats + 1)
            for name, model in self.config.models.items()
            if model and repeat <= self._repeats(model, setting)
        )

    @property
    def _most_repeats(self) -> int:
        models = [model for model in self.config.models.values() if model]
        return max((self._repeats(m, s) for m in models for s in self.settings), default=0)

    def _repeats(self, model: Model, setting: Setting) -> int:
        """Return a model's number of repeats in a setting, or of folders that it adopts."""
        if model.adopt:
            return len(adopted_folders(model, setting.name))
        return self.config.repeats

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs; for an adopted experiment those that `snakemake adopt` has imported."""
        return tuple(
            run
            for experiment in self.experiments
            for run in self.of(experiment)
            if not experiment.adopted or run.folder(self.results).result.exists()
        )

    def of(self, experiment: Experiment) -> tuple[Run, ...]:
        """Return the runs of an experiment, one per pair."""
        return tuple(Run(experiment, pair) for pair in self.pairs)

    @cached_property
    def images(self) -> tuple[str, ...]:
        return tuple(self.image_pairs)

    @cached_property
    def image_pairs(self) -> dict[str, Pair]:
        """All required images in order, each with a pair of its task."""
        pairs: dict[str, Pair] = {}
        for pair in self.pairs:
            pairs.setdefault(pair.image, pair)
            if any(experiment.agent.openhands for experiment in self.experiments):
                pairs.setdefault(published.with_agent_server(pair.image), pair)
        return pairs

    @cached_property
    def _by_name(self) -> dict[str, Experiment]:
        return {experiment.run_name: experiment for experiment in self.experiments}

    def experiment(self, name: str) -> Experiment:
        """Return the experiment with a run name.

        Raises:
            UserError: the config has none.
        """
        if name not in self._by_name:
            raise UserError(f"The config has no experiment {name}.")
        return self._by_name[name]

    def rule(self, experiment: Experiment) -> str:
        """Return an experiment's part of a rule's name: the setting, and the model if needed."""
        name = experiment.setting.name
        if len([model for model in self.config.models.values() if model]) > 1:
            name = f"{experiment.model_name}_{name}"
        plain = re.sub(r"\W", "_", name + layout.repeat_suffix(experiment.repeat))
        # A number distinguishes names that differ only in characters not allowed in a rule's name.
        number = self.experiments.index(experiment)
        alike = [re.sub(r"\W", "_", other.run_name) for other in self.experiments]
        return plain if len(set(alike)) == len(alike) else f"{plain}_{number}"

    @property
    def run_limits(self) -> dict[str, int]:
        """The allowed number of concurrent runs of each limited provider, by resource name."""
        return {
            f"provider_{name}": limits.runs
            for name, limits in self.config.providers.items()
            if limits is not None and limits.runs is not None
        }

    def has_own_features(self, experiment: Experiment) -> bool:
        """Return whether each agent's patch of this experiment is also evaluated alone."""
        return self.config.evaluation.own_features and experiment.setting.mode == "coop"

    def slots(self, experiment: Experiment) -> dict[str, int]:
        """Return the Snakemake resources of provider limits that a run uses."""
        name = f"provider_{experiment.model.provider}"
        return {name: 1} if name in self.run_limits else {}

    def limits(self, experiment: Experiment) -> Provider:
        """Return the limits of an experiment's provider; no limits without a provider."""
        return self.config.providers.get(experiment.model.provider or "") or Provider()

    def run_priority(self, experiment: Experiment) -> int:
        """Return Snakemake's priority of an experiment's runs: settings in the config's order."""
        return len(self.settings) - self.settings.index(experiment.setting)

    @property
    def evaluation_priority(self) -> int:
        """Snakemake's priority of evaluations: above every run, so their slots are not idle."""
        return len(self.settings) + 1

    @cached_property
    def _by_folder(self) -> dict[str, Pair]:
        return {pair.folder: pair for pair in self.pairs}

    def pair(self, folder: str) -> Pair:
        """Return the pair with a path below an experiment's folder.

        Raises:
            UserError: the config has none.
        """
        if folder not in self._by_folder:
            raise UserError(f"The config has no pair {folder}.")
        return self._by_folder[folder]

    def run(self, key: str) -> Run:
        """Return the run with a key, which is its folder below runs/.

        Raises:
            UserError: the config has no such run.
        """
        name, _, rest = key.partition("/")
        return Run(self.experiment(name), self.pair(rest.partition("/")[2]))


def make(config: Config) -> Plan:
    """Return the plan of ``config``.

    Raises:
        UserError: the subset is unknown or contains an invalid pair, or two runs share a name.
    """
    dataset = Path(config.dataset.dir)
    subset = pairs.load(config.dataset.subset, dataset)
    _check_known(subset, dataset)
    selection = pairs.choose(subset, config.dataset)
    plan = Plan(
        config, tuple(selection), pairs.describe_choice(config.dataset, len(selection), len(subset))
    )
    names = [experiment.run_name for experiment in plan.experiments]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"models, settings, repeats: two experiments would both be called {name}."
            )
    return plan


def _check_known(selection: Sequence[Pair], dataset: Path) -> None:
    """Reject a task or feature that is in neither the published index nor the data set."""
    index = pairs.known_features()
    repos = sorted({repo for repo, _ in index})
    for pair in selection:
        task_folder = dataset / pair.repo / f"task{pair.task_id}"
        features = index.get((pair.repo, pair.task_id))
        if features is not None and features.issuperset(pair.features):
            continue
        if all((task_folder / f"feature{f}").is_dir() for f in pair.features):
            continue
        if features is not None or task_folder.is_dir():
            numbers = sorted(features or ())
            raise UserError(
                f"dataset.subset: {pair}: the task has no such feature"
                + (f" (it has {listed(numbers)})." if numbers else f" in {task_folder}.")
            )
        tasks = sorted(task for repo, task in index if repo == pair.repo)
        tasks = tasks or sorted(
            int(path.name.removeprefix("task"))
            for path in (dataset / pair.repo).glob("task*")
            if path.name.removeprefix("task").isdigit()
        )
        if tasks:
            raise UserError(
                f"dataset.subset: {pair.repo} has no task {pair.task_id} (it has {listed(tasks)}),"
                f" and {task_folder} does not exist."
            )
        raise UserError(
            f"dataset.subset: repo {pair.repo} is not known and {dataset / pair.repo} does "
            f"not exist. Known: {listed(repos)}.{suggest(pair.repo, repos)}"
        )
