"""Convert a finished experiment to recordings that can be replayed without a key or cost.

A recording contains the agents' answers that became turns, in order, with their recorded tokens. In
a replay, an answer waits until the other agent has progressed as far as in the run, so that
messages and pushed branches arrive in the same order.
"""

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cooperflow import atomic_io, layout
from cooperflow.attempt import child_process
from cooperflow.errors import UserError
from cooperflow.experiment import dataset
from cooperflow.experiment.config import CONFIG_DIR
from cooperflow.experiment.plan import Plan, Run
from cooperflow.jobs import entry_points
from cooperflow.outcomes import judgement, usage
from cooperflow.outcomes.run_result import EvalRecord
from cooperflow.upstream import trajectory
from cooperflow.upstream.trajectory import Command, Trajectory

SCHEMA = 1
# Commands by which an agent ends.
SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
# Command for an agent that was still working at its time limit.
AT_WORK = "sleep 7200"


def main() -> int:
    parser = entry_points.config_parser(__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    arguments = parser.parse_args()
    child_process.prepare_environment()
    summary = write(entry_points.load_plan(arguments.configfile), arguments.to)
    for line in summary.left_out:
        print(f"left out: {line}")
    print(f"Recorded {summary.runs} runs of {summary.pairs} pairs in {summary.folder}. Replay:")
    print(f"  .venv/bin/snakemake -j 4 all --configfile {summary.folder / 'replay.yaml'}")
    return 0


@dataclass(frozen=True)
class Answer:
    """An answer that became a turn. Times are seconds since the epoch, None if not recorded."""

    text: str
    commands: tuple[str, ...]
    asked: float | None = None
    answered: float | None = None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RecordingSummary:
    """Summary of a recording: numbers of runs and pairs, and omitted runs with reasons."""

    folder: Path
    runs: int
    left_out: tuple[str, ...]
    pairs: int


def turns_of_trajectory(read: Trajectory, records: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Return an agent's turns from its trajectory.

    Args:
        records: the attempt's call log, for times and tokens.
    """
    starts = {r["id"]: float(r["time"]) for r in records if r.get("event") == "start"}
    ends = {r.get("response_id"): r for r in records if r.get("event") == "end"}
    answers = []
    for turn in read.turns:
        if turn.answer_id:
            call = ends.get(turn.answer_id) or {}
            asked = starts.get(call.get("id"))
            answers.append(_answer(turn.text, turn.commands, call, asked))
    return answers


def turns_of_calls(records: Sequence[Mapping[str, Any]], agent: str) -> list[Answer]:
    """Return the turns of an agent without a trajectory from the call log."""
    calls = {
        r["id"]: float(r["time"])
        for r in records
        if r.get("event") == "start" and r.get("agent", "") == agent
    }
    answers = [
        _recorded_answer(r, calls[r["id"]])
        for r in records
        if r.get("event") == "end" and r.get("id") in calls and r.get("kind") == usage.ANSWERED
    ]
    # An answer without a command is not a turn: it was a summary, or the agent refused it.
    return [answer for answer in answers if answer.commands]


def _recorded_answer(record: Mapping[str, Any], asked: float) -> Answer:
    message = record.get("message") or {}
    text = trajectory.text_of(message.get("content"))
    return _answer(text, trajectory.commands_of(message), record, asked)


def _answer(
    text: str, commands: Iterable[Command], call: Mapping[str, Any], asked: float | None
) -> Answer:
    tokens: tuple[int, ...] = (
        int(call.get("input_tokens") or 0),
        int(call.get("output_tokens") or 0),
    )
    billed = (call.get("billed_input_tokens"), call.get("billed_output_tokens"))
    if None not in billed and billed != tokens:
        tokens += tuple(int(count or 0) for count in billed)
    return Answer(
        text=text,
        commands=tuple(command.text for command in commands if command.is_shell),
        asked=asked,
        answered=float(call["time"]) if "time" in call else None,
        tokens=tokens if any(tokens) else None,
    )


def turns(agent: str, answers: Mapping[str, Sequence[Answer]], reason: str) -> list[dict[str, Any]]:
    """Return an agent's turns in the format of a recording. Pure.

    Args:
        agent: name of the agent.
        answers: the answers of all agents of the run.
        reason: the reason of the run's outcome, which implies the event after the last answer.
    """
    entries: list[dict[str, Any]] = []
    reached: dict[str, int] = {}
    for answer in answers[agent]:
        turn: dict[str, Any] = {"text": answer.text, "commands": list(answer.commands)}
        if answer.tokens is not None:
            turn["tokens"] = list(answer.tokens)
        after = {
            other: sum(a.asked is not None and a.asked <= answer.answered for a in other_answers)
            for other, other_answers in answers.items()
            if other != agent and answer.answered is not None
        }
        after = {other: count for other, count in after.items() if count > reached.get(other, 0)}
        if after:
            turn["after"] = after
            reached |= after
        entries.append(turn)
    done = bool(entries) and any(SUBMIT in command for command in entries[-1]["commands"])
    if reason == judgement.TIMEOUT and not done:
        entries.append({"text": "Still working at the time limit.", "commands": [AT_WORK]})
    if reason == judgement.CONTEXT_LIMIT and not done:
        entries.append({"text": "", "commands": [], "full": True})
    return entries


def write(plan: Plan, to: Path) -> RecordingSummary:
    """Write the recordings of all finished runs to ``to``, with a config that replays them.

    Raises:
        UserError: the folder is not empty or not writable, or no run can be recorded.
    """
    try:
        if to.exists() and any(to.iterdir()):
            raise UserError(f"{to} is not empty. Name another folder (TO=...), or remove it first.")
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as directory:
            fresh = Path(directory) / "new"
            fresh.mkdir()
            recorded = _write(plan, to, fresh)
            fresh.rename(to.resolve())
    except OSError as error:
        raise UserError(
            f"{to}: cannot be written ({error}). Name another folder: TO=..."
        ) from error
    return recorded


def _write(plan: Plan, to: Path, fresh: Path) -> RecordingSummary:
    """Write all files to ``fresh``, which will be renamed to ``to``."""
    left_out: list[str] = []
    runs_by_pair: dict[str, list[Run]] = {}
    first = [run for run in plan.runs if run.experiment.repeat == 1]
    for run in first:
        reason = _record(plan, run, fresh)
        if reason:
            left_out.append(f"{run.key}: {reason}")
        else:
            runs_by_pair.setdefault(run.pair.folder, []).append(run)
    if plan.config.repeats > 1:
        left_out.append("repeats: only the first is recorded")
    settings = len({run.experiment.run_name for run in first})
    pairs = [pair for pair in plan.pairs if len(runs_by_pair.get(pair.folder, ())) == settings]
    partly = [pair for pair in plan.pairs if 0 < len(runs_by_pair.get(pair.folder, ())) < settings]
    left_out += [f"{pair}: not recorded in every setting, so not replayed" for pair in partly]
    if not pairs:
        raise UserError("No pair is finished in every setting: nothing to record.")
    table = [f"{p.repo},{p.task_id},{p.features[0]},{p.features[1]}" for p in pairs]
    atomic_io.write_text(
        fresh / "pairs.csv", "\n".join(["repo,task_id,feature_a,feature_b", *table]) + "\n"
    )
    config = yaml.safe_dump(replay_config(plan, to), sort_keys=False)
    shown = _in_checkout(str(to / "replay.yaml")) or "THIS_FILE"
    atomic_io.write_text(
        fresh / "replay.yaml",
        f"{_HEAD.format(path=shown)}{config}",
    )
    runs = sum(len(runs_by_pair[pair.folder]) for pair in pairs)
    return RecordingSummary(to, runs, tuple(left_out), len(pairs))


_HEAD = """\
# A recorded experiment: recordings replace the model, so it needs no key and costs nothing. Its
# results are labelled replay.
#   snakemake -j 4 all --configfile {path}
# The folder may be moved: CONFIG_DIR/ is the folder of this file. dataset.dir names the data set.
"""


def _record(plan: Plan, run: Run, to: Path) -> str:
    """Write the recordings of a run; return the reason if it cannot be recorded, else empty."""
    folder = run.folder(plan.results)
    final = EvalRecord.read(atomic_io.read_json(folder.eval))
    if final.outcome not in judgement.GRADED:
        return f"it is {final.outcome or 'unfinished'} {final.reason}"
    answers = agent_answers(run, folder)
    agents = ["solo"] if run.experiment.setting.mode == "solo" else ["agent1", "agent2"]
    if sorted(answers) != agents or not all(answers.values()):
        return "the record of its agents' answers is incomplete"
    features = {"solo": list(run.pair.sorted_features)} | {
        f"agent{i}": [feature] for i, feature in enumerate(run.pair.sorted_features, start=1)
    }
    pair = layout.recordings(to / run.experiment.model_name, run.pair)
    for agent in agents:
        atomic_io.write_json(
            pair / run.experiment.setting.name / f"{agent}.json",
            {
                "schema": SCHEMA,
                **run.pair.identity,
                "asked": features[agent],
                "kind": _kind(run),
                "agent": agent,
                "outcome": " ".join(filter(None, (getattr(final, k) for k in _OUTCOME))),
                "shows": f"recorded from {run.key}",
                "titles": [_title(plan, run, feature) for feature in features[agent]],
                "turns": turns(agent, answers, final.reason),
            },
        )
    return ""


_OUTCOME = ("outcome", "reason", "caveat")


def _kind(run: Run) -> str:
    """Return the kind of the run's prompts, as the replay server recognizes it."""
    setting = run.experiment.setting
    if setting.mode == "solo":
        return "solo"
    return "coop-nocomm" if "--no-messaging" in setting.flags else "coop-comm"


def agent_answers(run: Run, folder: layout.RunFolder) -> dict[str, list[Answer]]:
    """Return each agent's answers in the attempt that made the result."""
    numbers = [n for n in folder.attempt_numbers() if (folder.attempt(n) / layout.RESULT).exists()]
    records = atomic_io.read_lines(folder.attempt(numbers[-1]) / layout.CALLS) if numbers else []
    documents = atomic_io.read_documents(folder.path, trajectory.is_trajectory)
    answers = {
        agent: turns_of_trajectory(read, records)
        for agent, read in trajectory.parse(documents).items()
    }
    if answers:
        return answers
    solo = run.experiment.setting.mode == "solo"
    names = {"solo": ""} if solo else {name: name for name in ("agent1", "agent2")}
    return {name: turns_of_calls(records, agent_key) for name, agent_key in names.items()}


def _title(plan: Plan, run: Run, feature: int) -> str:
    """Return the line of a feature's text by which its conversation is identified.

    Raises:
        UserError: the data set lacks the text.
    """
    root = Path(plan.config.dataset.dir)
    task = dataset.task_folder(root, run.pair.repo, run.pair.task_id)
    path = task / f"feature{feature}" / "feature.md"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    return next((line for line in lines if line.startswith("**Title**")), lines[0])


def replay_config(plan: Plan, to: Path) -> dict[str, Any]:
    """Return the config that replays the recordings under new run names."""
    config = plan.config.model_dump(mode="json", exclude_defaults=True)
    for key in ("accept", "repeats", "providers", "assume", "preflight"):
        config.pop(key, None)
    shipped = yaml.safe_load(layout.CONFIG_FILE.read_text(encoding="utf-8"))
    models_by_name = {run.experiment.model_name: run.experiment.model for run in plan.runs}
    models: dict[str, Any] = dict.fromkeys(shipped["models"])
    free = False
    for name, model in models_by_name.items():
        litellm_name, priced = replay_model(model.model)
        free |= not priced
        models[f"{name}-replay"] = {"model": litellm_name, "replay": f"{CONFIG_DIR}{name}"}
    settings: dict[str, Any] = dict.fromkeys(shipped["settings"])
    settings |= {setting.name: list(setting.flags) for setting in plan.settings}
    config |= {"results": f"results/{to.name}", "models": models, "settings": settings}
    data = _in_checkout(plan.config.dataset.dir) or "dataset"
    config["dataset"] = {"dir": data, "subset": f"{CONFIG_DIR}pairs.csv"}
    images = config.get("images") or {}
    for key in ("archive", "lock"):
        if images.get(key) and _in_checkout(images[key]) is None:
            del images[key]
    if free:
        agent = config.setdefault("agent", {}).setdefault("config", {})
        agent.setdefault("model", {}).setdefault("cost_tracking", "ignore_errors")
    return config


def _in_checkout(path: str) -> str | None:
    """Return a path relative to the checkout, None if it is outside."""
    full = Path(path).resolve()
    root = layout.REPOSITORY.resolve()
    return str(full.relative_to(root)) if full.is_relative_to(root) else None


def replay_model(model: str) -> tuple[str, bool]:
    """Return the model's litellm name for the replay, and whether it has a price.

    The server supports Cohere's and OpenAI's formats; other providers' models use OpenAI's.
    """
    import litellm

    try:
        name, provider, _, _ = litellm.get_llm_provider(model)
    except Exception:  # litellm raises various exceptions for an unknown name
        return f"openai/{model}", False
    if provider in ("cohere", "cohere_chat"):
        return model, True
    return f"openai/{name}", provider == "openai" and name in litellm.model_cost


if __name__ == "__main__":
    entry_points.run_command(main)
