"""Estimate of cost and time of the pending runs: an assumption, corrected by the finished runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cooperflow import atomic_io
from cooperflow.experiment.config_schema import Assumptions
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.outcomes import forecast
from cooperflow.outcomes.forecast import NOTHING, Range
from cooperflow.session import model_check
from cooperflow.upstream import public_run


@dataclass(frozen=True)
class Estimate:
    """Of one experiment. cost None: the model's price is not known."""

    name: str
    runs: int
    cost: Range | None
    seconds: Range  # of all runs, one after the other
    basis: str
    replay: bool = False


def make(plan: Plan, to_do: Iterable[Run]) -> list[Estimate]:
    """Return an estimate for each experiment that has runs to do."""
    waiting = list(to_do)
    prices = _Prices(plan)
    found = []
    for one in plan.experiments:
        count = sum(run.experiment == one for run in waiting)
        if count:
            found.append(_one(plan, one, count, prices.of(one)))
    return found


def assumptions(plan: Plan) -> dict[str, float | None]:
    """Return the assumed cost of one run of each paid experiment, None without a price."""
    prices = _Prices(plan)
    return {
        one.run_name: assumed_cost(plan.config.assume, one, prices.of(one))
        for one in plan.experiments
        if one.model.replay is None and not one.adopted
    }


class _Prices:
    """Prices of models, USD per token: as the last preflight found them, else from litellm."""

    def __init__(self, plan: Plan) -> None:
        self._known = atomic_io.read_json(plan.results.state / "preflight.json") or {}

    def of(self, one: Experiment) -> Sequence[float] | None:
        told = (self._known.get(one.model_name) or {}).get("told")
        if told is None and one.model.replay is None:
            told = model_check.probe(one.model, None, call=False)
            self._known[one.model_name] = {"told": told}
        return (told or {}).get("price")


def _one(plan: Plan, one: Experiment, count: int, price: Sequence[float] | None) -> Estimate:
    finished = list(_done(plan, one))
    costs, seconds = [cost for cost, _ in finished], [lasted for _, lasted in finished]
    guess = plan.config.assume
    expected = assumed_cost(guess, one, price)
    known = expected is not None or any(costs)
    limit = float(min(guess.run_seconds, plan.config.limits.run_seconds))
    basis = (
        f"assumed: {_agents(one) * _calls(guess, one):g} calls of {guess.input_tokens} tokens in "
        f"and {guess.output_tokens} out"
    )
    if finished:
        basis = f"from {len(finished)} finished runs of it and the assumption"
    return Estimate(
        one.run_name,
        count,
        forecast.total(expected, costs, count) if known else None,
        forecast.total(limit, seconds, count) or NOTHING,
        basis,
        one.model.replay is not None,
    )


def _agents(one: Experiment) -> int:
    return 1 if one.setting.mode == "solo" else 2


def _calls(guess: Assumptions, one: Experiment) -> float:
    """Return the model calls of one agent."""
    if guess.calls is not None:
        return guess.calls
    return public_run.calls(one.setting.mode == "solo", one.setting.messaging)


def assumed_cost(
    guess: Assumptions, one: Experiment, price: Sequence[float] | None
) -> float | None:
    """Return the assumed cost of one run, None without a price."""
    if not price or not price[0]:
        return None
    per_call = guess.input_tokens * price[0] + guess.output_tokens * (price[1] or 0.0)
    return _agents(one) * _calls(guess, one) * per_call


def _done(plan: Plan, one: Experiment) -> Iterator[tuple[float, float]]:
    """Return cost and seconds of the finished runs of an experiment, of whatever pairs."""
    folder = plan.results.runs / one.run_name / one.setting.mode
    for path in sorted(folder.glob("*_task/*/f*_f*/result.json")):
        told = (atomic_io.read_json(path) or {}).get("workflow") or {}
        if told and told.get("outcome") != "infra_error":
            yield float(told.get("cost_usd") or 0.0), float(told.get("seconds") or 0.0)


def text(estimates: Sequence[Estimate], slots: int) -> list[str]:
    """Return the estimate in lines, a sum at the end."""
    if not estimates:
        return ["estimate: nothing is to be done"]
    lines = [f"{'estimate':<28}{'runs':>6}{'USD':>24}{'minutes':>24}"]
    for one in estimates:
        label = f"{one.name} (replay)" if one.replay else one.name
        minutes = _range(one.seconds.scaled(1 / 60 / slots), 0)
        cost = "no price is known" if one.cost is None else _range(one.cost, 2)
        lines.append(f"{label:<28}{one.runs:>6}{cost:>24}{minutes:>24}   {one.basis}")
    if len(estimates) > 1:
        costs = [one.cost for one in estimates if one.cost is not None]
        cost = _range(sum(costs, NOTHING), 2) + ("" if len(costs) == len(estimates) else " +?")
        seconds = sum((one.seconds for one in estimates), NOTHING)
        minutes = _range(seconds.scaled(1 / 60 / slots), 0)
        runs = sum(one.runs for one in estimates)
        lines.append(f"{'together':<28}{runs:>6}{cost:>24}{minutes:>24}   {slots} at a time")
    if any(one.replay for one in estimates):
        lines.append("A replay pays nothing: its USD are what the recorded tokens would cost.")
    return lines


def _range(value: Range, digits: int) -> str:
    return f"{value.mid:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
