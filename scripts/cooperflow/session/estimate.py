"""Estimate of cost and duration of pending runs, from finished runs and an assumption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cooperflow import atomic_io
from cooperflow.experiment.config_schema import Assumptions
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.outcomes import judgement
from cooperflow.outcomes.run_result import RunRecord
from cooperflow.session import model_check
from cooperflow.tables import stats
from cooperflow.tables.stats import NOTHING, Range
from cooperflow.upstream import published


@dataclass(frozen=True)
class Estimate:
    """Estimate of one experiment. cost None: the model's price is unknown."""

    name: str
    runs: int
    cost: Range | None
    seconds: Range  # all runs, one after the other
    basis: str
    replay: bool = False


def make(plan: Plan, pending: Iterable[Run]) -> list[Estimate]:
    """Return an estimate for each experiment with pending runs."""
    runs = list(pending)
    prices = _Prices(plan)
    estimates = []
    for experiment in plan.experiments:
        count = sum(run.experiment == experiment for run in runs)
        if count:
            price = prices.of(experiment)
            estimates.append(_estimate_experiment(plan, experiment, count, price))
    return estimates


def assumptions(plan: Plan) -> dict[str, float | None]:
    """Return the assumed cost of a run of each paid experiment, None without a price."""
    prices = _Prices(plan)
    return {
        experiment.run_name: assumed_cost(plan.config.assume, experiment, prices.of(experiment))
        for experiment in plan.experiments
        if experiment.model.replay is None and not experiment.adopted
    }


class _Prices:
    """Prices of models, USD per token, from the last preflight or from litellm."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._prices: dict[str, Sequence[float] | None] = {}  # by the model's name in the config

    def of(self, experiment: Experiment) -> Sequence[float] | None:
        name = experiment.model_name
        if name not in self._prices:
            self._prices[name] = self._find(experiment)
        return self._prices[name]

    def _find(self, experiment: Experiment) -> Sequence[float] | None:
        answer = model_check.last_answer(self._plan, experiment)
        if answer is None and experiment.model.replay is None:
            model = experiment.model.model
            price = model_check.listed_price(model)
            answer = {"price": price} if price else model_check.probe(model, None, {}, call=False)
        return (answer or {}).get("price")


def _estimate_experiment(
    plan: Plan, experiment: Experiment, count: int, price: Sequence[float] | None
) -> Estimate:
    finished = list(_finished_runs(plan, experiment))
    costs, seconds = [cost for cost, _ in finished], [duration for _, duration in finished]
    assume = plan.config.assume
    expected = assumed_cost(assume, experiment, price)
    has_cost = expected is not None or any(costs)
    run_seconds = float(min(assume.run_seconds, plan.config.limits.run_seconds))
    basis = (
        f"assumed: {_agents(experiment) * _calls(assume, experiment):g} calls of"
        f" {assume.input_tokens} tokens in and {assume.output_tokens} out"
    )
    if finished:
        basis = f"from its {len(finished)} finished runs and the assumption"
    return Estimate(
        experiment.run_name,
        count,
        stats.forecast_total(expected, costs, count) if has_cost else None,
        stats.forecast_total(run_seconds, seconds, count) or NOTHING,
        basis,
        experiment.model.replay is not None,
    )


def _agents(experiment: Experiment) -> int:
    return 1 if experiment.setting.mode == "solo" else 2


def _calls(assume: Assumptions, experiment: Experiment) -> float:
    """Return the assumed number of model calls of one agent."""
    if assume.calls is not None:
        return assume.calls
    return published.mean_calls(experiment.setting.mode == "solo", experiment.setting.messaging)


def assumed_cost(
    assume: Assumptions, experiment: Experiment, price: Sequence[float] | None
) -> float | None:
    """Return the assumed cost of one run, None without a price. A price of 0 counts."""
    if not price or price[0] is None:
        return None
    call_cost = assume.input_tokens * price[0] + assume.output_tokens * (price[1] or 0.0)
    return _agents(experiment) * _calls(assume, experiment) * call_cost


def _finished_runs(plan: Plan, experiment: Experiment) -> Iterator[tuple[float, float]]:
    """Yield cost and seconds of an experiment's finished runs, including those outside the plan."""
    folder = plan.results.runs / experiment.run_name / experiment.setting.mode
    for path in sorted(folder.glob("*_task/*/f*_f*/result.json")):
        record = RunRecord.read(atomic_io.read_json(path))
        if record is not None and record.outcome != judgement.INFRA_ERROR:
            yield record.usage.cost_usd, record.seconds


def describe(estimates: Sequence[Estimate], slots: int) -> list[str]:
    """Return the lines of the estimates, with a total at the end."""
    if not estimates:
        return ["estimate: no runs pending"]
    lines = [f"{'estimate':<28}{'runs':>6}{'USD':>24}{'minutes':>24}"]
    for estimate in estimates:
        label = f"{estimate.name} (replay)" if estimate.replay else estimate.name
        minutes = _format_range(estimate.seconds.scaled(1 / 60 / slots), 0)
        cost = "price unknown" if estimate.cost is None else _format_range(estimate.cost, 2)
        lines.append(f"{label:<28}{estimate.runs:>6}{cost:>24}{minutes:>24}   {estimate.basis}")
    if len(estimates) > 1:
        costs = [estimate.cost for estimate in estimates if estimate.cost is not None]
        is_partial = len(costs) < len(estimates)
        cost = _format_range(sum(costs, NOTHING), 2) + (" +?" if is_partial else "")
        seconds = sum((estimate.seconds for estimate in estimates), NOTHING)
        minutes = _format_range(seconds.scaled(1 / 60 / slots), 0)
        runs = sum(estimate.runs for estimate in estimates)
        lines.append(f"{'total':<28}{runs:>6}{cost:>24}{minutes:>24}   {slots} at a time")
    if any(estimate.replay for estimate in estimates):
        lines.append("A replay is free: its USD are the price of the recorded tokens.")
    return lines


def _format_range(value: Range, digits: int) -> str:
    return f"{value.mid:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
