"""What the runs to do may cost and take: from the runs done, else from stated assumptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cooperflow import atomic
from cooperflow.experiment.keys import Assumptions
from cooperflow.experiment.plan import Experiment, Plan, Run
from cooperflow.start import model_check

# Between the lowest and the highest of an assumption, and the figure itself.
ASSUMED_FACTOR = 3.0
# So many finished runs of an experiment are needed to speak from them.
ENOUGH = 3


@dataclass(frozen=True)
class Range:
    """A figure with a low and a high one around it."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def scaled(self, factor: float) -> Range:
        return Range(self.low * factor, self.mid * factor, self.high * factor)


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """Of one experiment. cost None: the model's price is not known."""

    name: str
    runs: int
    cost: Range | None
    seconds: Range  # of all runs, one after the other
    basis: str
    replay: bool = False


def from_sample(values: Sequence[float], count: int) -> Range:
    """Return the sum of ``count`` more draws, from those seen, with a range of 95 %.

    The range holds both how unsure the mean is and how much single runs differ: Student's t
    interval for the sum of ``count`` new observations (a prediction interval).
    """
    from scipy import stats

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return assumed(mean, count)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    wide = float(stats.t.ppf(0.975, n - 1)) * spread * math.sqrt(count**2 / n + count)
    return Range(max(count * mean - wide, 0.0), count * mean, count * mean + wide)


def assumed(each: float, count: int) -> Range:
    """Return the sum of ``count`` runs of which nothing is known but an assumption."""
    whole = each * count
    return Range(whole / ASSUMED_FACTOR, whole, whole * ASSUMED_FACTOR)


def make(plan: Plan, to_do: Iterable[Run]) -> list[Estimate]:
    """Return an estimate for each experiment that has runs to do."""
    waiting = list(to_do)
    prices = atomic.read_json(plan.results.state / "preflight.json") or {}
    found = []
    for one in plan.experiments:
        count = sum(run.experiment == one for run in waiting)
        if count:
            if one.model_name not in prices and one.model.replay is None:
                told = model_check.probe(one.model, None, call=False)
                prices[one.model_name] = {"told": told}
            price = (prices.get(one.model_name, {}).get("told") or {}).get("price")
            found.append(_one(plan, one, count, price))
    return found


def _one(plan: Plan, one: Experiment, count: int, price: Sequence[float] | None) -> Estimate:
    done = list(_done(plan, one))
    replay = one.model.replay is not None
    if len(done) >= ENOUGH:
        costs, seconds = ([d[i] for d in done] for i in (0, 1))
        basis = f"from {len(done)} finished runs of it"
        cost = from_sample(costs, count)
        return Estimate(one.run_name, count, cost, from_sample(seconds, count), basis, replay)
    guess = plan.config.assume
    each = _assumed_cost(guess, one, price)
    agents = 1 if one.setting.mode == "solo" else 2
    basis = (
        f"assumed: {agents * guess.calls} calls of {guess.input_tokens} tokens in and "
        f"{guess.output_tokens} out"
    )
    cost_range = None if each is None else assumed(each, count)
    limit = float(min(guess.run_seconds, plan.config.limits.run_seconds))
    return Estimate(one.run_name, count, cost_range, assumed(limit, count), basis, replay)


def _assumed_cost(
    guess: Assumptions, one: Experiment, price: Sequence[float] | None
) -> float | None:
    if not price or not price[0]:
        return None
    agents = 1 if one.setting.mode == "solo" else 2
    per_call = guess.input_tokens * price[0] + guess.output_tokens * (price[1] or 0.0)
    return agents * guess.calls * per_call


def _done(plan: Plan, one: Experiment) -> Iterator[tuple[float, float]]:
    """Return cost and seconds of the finished runs of an experiment, of whatever pairs."""
    folder = plan.results.runs / one.run_name / one.setting.mode
    for path in sorted(folder.glob("*_task/*/f*_f*/result.json")):
        told = (atomic.read_json(path) or {}).get("workflow") or {}
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
