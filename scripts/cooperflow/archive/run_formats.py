"""Conversion of runs to other formats: ATIF trajectories of agents, inspect_ai logs.

ATIF is the Agent Trajectory Interchange Format, v1.7. Source: harbor's RFC 0001 and its pydantic
models (package harbor 0.26, harbor.models.trajectories), which refuse unknown fields. The models
of v1.7 and v1.8 differ only in audio.

A log has the structure of inspect_ai's EvalLog (version 2, inspect_ai 0.3) in its JSON format, with
one sample per run; `inspect view` opens it. inspect_ai itself is needed only to convert it to
`.eval`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cooperflow import layout
from cooperflow.analysis.history import Command, Event, History
from cooperflow.analysis.run_files import RunFiles
from cooperflow.errors import UserError
from cooperflow.outcomes import judgement

ATIF_VERSION = "ATIF-v1.7"
REPLAY_NOTE = "Replay: recorded answers were played instead of a model. Not a result of any model."


def atif_trajectory(
    history: History, agent: str, run: str, about: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return an agent's trajectory document, None if no event is recorded.

    Args:
        run: the run's name, which is the `session_id` of all its agents.
        about: ATIF's object `agent`: name, version and model_name.
        extra: facts about the run; `replay` causes a note.
    """
    steps = _steps(history, agent)
    if not steps:
        return None
    metrics = [step["metrics"] for step in steps if "metrics" in step]
    document = {
        "schema_version": ATIF_VERSION,
        "session_id": run,
        "trajectory_id": f"{run}/{agent}",
        "agent": dict(about),
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, start=1)],
        "final_metrics": {
            "total_prompt_tokens": sum(m["prompt_tokens"] for m in metrics),
            "total_completion_tokens": sum(m["completion_tokens"] for m in metrics),
            "total_cost_usd": round(sum(m["cost_usd"] for m in metrics), 6),
            "total_steps": len(steps),
        },
        "extra": dict(extra),
    }
    notes = [REPLAY_NOTE] if extra.get("replay") else []
    if not history.complete:
        notes.append("From the log of model calls: the outputs of commands were not recorded.")
    return {**document, "notes": " ".join(notes)} if notes else document


def model_name(name: str, replay: bool) -> str:
    """Return the name of a model, labelled if it was replayed."""
    return f"{name} (replay)" if replay else name


def _steps(history: History, agent: str) -> list[dict[str, Any]]:
    task = history.task.get(agent, "")
    steps: list[dict[str, Any]] = [{"source": "user", "message": task}] if task else []
    for event in history.events:
        if event.agent == agent and event.kind in _MAKERS:
            step = _MAKERS[event.kind](event)
            if event.time is not None:
                moment = datetime.fromtimestamp(event.time, UTC)
                step = {"timestamp": moment.isoformat(timespec="milliseconds"), **step}
            steps.append(step)
    return steps


def _turn(event: Event) -> dict[str, Any]:
    calls = [
        {
            "tool_call_id": call_id(event, n),
            "function_name": function_name(command),
            "arguments": arguments(command),
        }
        for n, command in enumerate(event.commands, start=1)
    ]
    results = [
        {
            "source_call_id": call_id(event, n),
            "content": command.output,
            **({} if command.code is None else {"extra": {"exit_code": command.code}}),
        }
        for n, command in enumerate(event.commands, start=1)
        if command.output is not None
    ]
    step = {
        "source": "agent",
        "message": event.text,
        "llm_call_count": 1,
        "metrics": _metrics(event),
    }
    if event.thought:
        step["reasoning_content"] = event.thought
    if calls:
        step["tool_calls"] = calls
    if results:
        step["observation"] = {"results": results}
    return step


def _summary(event: Event) -> dict[str, Any]:
    return {
        "source": "agent",
        "message": event.text,
        "llm_call_count": 1,
        "metrics": _metrics(event),
        "extra": {"kind": "summary that replaced older messages"},
    }


def _received(event: Event) -> dict[str, Any]:
    return {"source": "user", "message": event.text}


def _error(event: Event) -> dict[str, Any]:
    return {"source": "system", "message": f"model call failed: {event.text}"}


# Messages are not separate steps, because the commands that sent them are included.
_MAKERS = {"step": _turn, "summary": _summary, "received": _received, "error": _error}


def call_id(event: Event, number: int) -> str:
    """Return the identifier of a command of a turn, unique within its agent."""
    return f"{event.agent}-{event.number}-{number}"


def function_name(command: Command) -> str:
    """Return the tool's name; trajectories do not record names of tools other than the shell."""
    return "bash" if command.is_shell else "tool"


def arguments(command: Command) -> dict[str, Any]:
    return {"command" if command.is_shell else "arguments": command.text}


def _metrics(event: Event) -> dict[str, Any]:
    return {
        "prompt_tokens": event.input_tokens,
        "completion_tokens": event.output_tokens,
        "cost_usd": event.cost,
    }


SCORER = "cooperbench"
INSPECT_PYTHON = layout.REPOSITORY / ".tools" / "inspect" / "bin" / "python"
# Runs in an interpreter that has inspect_ai but not this package.
_PACK_PROGRAM = """
import sys
from inspect_ai.log import read_eval_log, write_eval_log
write_eval_log(read_eval_log(sys.argv[1]), sys.argv[2], format="eval")
"""
_TIMEOUT = 1800  # seconds; a log of 652 long runs takes minutes


def inspect_interpreter() -> str | None:
    """Return a Python with inspect_ai, this one or that of `make inspect`; None without one."""
    if importlib.util.find_spec("inspect_ai") is not None:
        return sys.executable
    return str(INSPECT_PYTHON) if INSPECT_PYTHON.exists() else None


def pack_inspect_log(python: str, document: Path, target: Path) -> None:
    """Convert a JSON log to `.eval`.

    Raises:
        UserError: inspect_ai refuses the log.
    """
    done = subprocess.run(
        [python, "-X", "utf8", "-c", _PACK_PROGRAM, str(document), str(target)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{target}: inspect_ai did not write it ({last}). The same log as JSON is {document};"
            " `inspect view` opens it too."
        )


def inspect_log(
    rows: Sequence[Mapping[Any, Any]],
    sources: Sequence[RunFiles],
    experiment: Mapping[Any, Any],
    subset: str,
    packages: Mapping[str, str],
) -> dict[str, Any]:
    """Return the log of an experiment.

    Args:
        rows: the experiment's rows of runs.csv.
        sources: the files of the same runs.
        experiment: the experiment's row of summary.csv.
        subset: description of the subset.
        packages: versions of the packages that made the runs, by name.
    """
    name = str(experiment["run_name"])
    model = _model(sources, rows)
    samples = [_sample(row, source, model) for row, source in zip(rows, sources, strict=True)]
    started = min((str(row["started"]) for row in rows if row["started"]), default="")
    ended = max((str(row["ended"]) for row in rows if row["ended"]), default="")
    labels = [label for label in ("replay", "adopted") if bool(experiment[label])]
    done = int(experiment["pass"]) + int(experiment["fail"])
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": _digest(name),
            "run_id": _digest(name),
            "created": started or "1970-01-01T00:00:00+00:00",
            "task": f"cooperbench/{experiment['setting']}",
            "task_id": _digest(name),
            "dataset": {
                "name": f"CooperBench {subset}",
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
                "shuffled": False,
            },
            "model": model,
            "config": {"epochs": 1},
            "packages": dict(packages),
            "tags": labels,
            "metadata": {
                "run_name": name,
                "framework": str(rows[0]["framework"]) if rows else "",
                "note": REPLAY_NOTE if "replay" in labels else "",
            },
        },
        "results": {
            "total_samples": len(samples),
            "completed_samples": done,
            "scores": [
                {
                    "name": SCORER,
                    "scorer": SCORER,
                    "scored_samples": done,
                    "unscored_samples": len(samples) - done,
                    "metrics": {
                        key: {"name": key, "value": float(experiment[column])}
                        for key, column in (
                            ("accuracy", "pass_rate"),
                            ("ci_low", "ci_low"),
                            ("ci_high", "ci_high"),
                        )
                        if done
                    },
                }
            ],
        },
        "stats": {
            **({"started_at": started, "completed_at": ended} if started and ended else {}),
            "model_usage": {model: _total_usage(rows)},
        },
        "samples": samples,
    }


def _model(sources: Sequence[RunFiles], rows: Sequence[Mapping[Any, Any]]) -> str:
    """Return litellm's name of the model, or the config's name if it is not recorded."""
    recorded = next((str(s.result["model"]) for s in sources if s.result.get("model")), "")
    name = recorded or str(rows[0]["model"] if rows else "unknown")
    return model_name(name, any(bool(row["replay"]) for row in rows))


def _sample(row: Mapping[Any, Any], source: RunFiles, model: str) -> dict[str, Any]:
    key = f"{row['repo']}/{row['task_id']}/{row['features']}"
    messages = _messages(source, key)
    evaluated = row["outcome"] in judgement.GRADED
    words = {n: str(row[n]) for n in ("outcome", "reason", "caveat", "setting", "merge_status")}
    sample: dict[str, Any] = {
        "id": key,
        "epoch": 1,
        "input": next((str(m["content"]) for m in messages if m["role"] == "user"), "") or key,
        "target": "both features pass",
        "messages": messages,
        "metadata": {
            **words,
            "replay": bool(row["replay"]),
            "adopted": bool(row["adopted"]),
            "attempts": int(row["attempts"]),
            "cost_usd": float(row["cost_usd"]),
            "cost_complete": bool(row["cost_complete"]),
            "messages_sent": int(row["messages_sent"]),
        },
        "model_usage": {model: _usage(row)},
        "total_time": float(row["duration_s"]),
        "working_time": max(float(row["duration_s"]) - float(row["waited_s"]), 0.0),
        "uuid": _digest(source.run.key),
    }
    if evaluated:
        passed = row["outcome"] == judgement.PASS
        explanation = " ".join(word for word in (words["reason"], words["caveat"]) if word)
        sample["scores"] = {
            SCORER: {"value": "C" if passed else "I", "explanation": explanation or None}
        }
    else:
        text = f"{words['outcome']}: {words['reason']}"
        sample["error"] = {"message": text, "traceback": "", "traceback_ansi": ""}
    return sample


def _messages(source: RunFiles, key: str) -> list[dict[str, Any]]:
    """Return prompts, answers and command outputs of all agents, ordered by time."""
    history = source.history
    messages: list[dict[str, Any]] = []
    for agent in history.agents:
        if task := history.task.get(agent, ""):
            messages.append({"role": "user", "content": _by(history.agents, agent, task)})
    for event in history.events:
        messages += _of_event(event, history.agents)
    return [{"id": f"{_digest(key)[:12]}-{n}", **message} for n, message in enumerate(messages)]


def _of_event(event: Event, agents: Sequence[str]) -> list[dict[str, Any]]:
    text = _by(agents, event.agent, event.text)
    if event.kind == "received":
        return [{"role": "user", "content": text}]
    if event.kind == "error":
        failed = f"model call failed: {event.text}"
        return [{"role": "system", "content": _by(agents, event.agent, failed)}]
    if event.kind not in ("step", "summary"):
        return []
    calls = [
        {
            "id": call_id(event, n),
            "function": function_name(command),
            "arguments": arguments(command),
        }
        for n, command in enumerate(event.commands, start=1)
    ]
    answer: dict[str, Any] = {"role": "assistant", "content": text}
    if event.thought:
        thought = {"type": "reasoning", "reasoning": event.thought}
        answer["content"] = [thought, {"type": "text", "text": text}]
    outputs = [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "function": call["function"],
            "content": command.output,
        }
        for call, command in zip(calls, event.commands, strict=True)
        if command.output is not None
    ]
    return [{**answer, **({"tool_calls": calls} if calls else {})}, *outputs]


def _by(agents: Sequence[str], agent: str, text: str) -> str:
    """Return a text, with its agent's name if there are several agents."""
    return f"[{agent}] {text}" if len(agents) > 1 else text


def _usage(row: Mapping[Any, Any]) -> dict[str, Any]:
    cache_reads, cache_writes = int(row["cached_tokens"]), int(row["cache_write_tokens"])
    total_in, total_out = int(row["input_tokens"]), int(row["output_tokens"])
    return {
        # inspect_ai does not count cached tokens as part of the input.
        "input_tokens": max(total_in - cache_reads - cache_writes, 0),
        "output_tokens": total_out,
        "total_tokens": total_in + total_out,
        "input_tokens_cache_read": cache_reads,
        "input_tokens_cache_write": cache_writes,
        "reasoning_tokens": int(row["reasoning_tokens"]),
        "total_cost": float(row["cost_usd"]),
    }


def _total_usage(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    usages = [_usage(row) for row in rows]
    return {key: sum(usage[key] for usage in usages) for key in (usages[0] if usages else {})}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:22]
