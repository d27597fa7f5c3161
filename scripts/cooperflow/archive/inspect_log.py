"""Experiments as logs of inspect_ai, one sample per run.

The document has the form of inspect_ai's EvalLog (version 2, inspect_ai 0.3), as its JSON format
writes it; `inspect view` opens it. inspect_ai itself is needed only to pack it as `.eval`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cooperflow import layout
from cooperflow.analysis.run_files import Source
from cooperflow.analysis.story import Event
from cooperflow.archive import atif
from cooperflow.errors import UserError
from cooperflow.outcomes import judgement

SCORER = "cooperbench"
TOOLS = layout.REPOSITORY / ".tools" / "inspect" / "bin" / "python"
# Runs in an interpreter that has inspect_ai and not this package.
_PACK = """
import sys
from inspect_ai.log import read_eval_log, write_eval_log
write_eval_log(read_eval_log(sys.argv[1]), sys.argv[2], format="eval")
"""
_TIMEOUT = 1800  # seconds; a log of 652 long runs takes minutes


def interpreter() -> str | None:
    """Return a Python with inspect_ai: this one or that of `make inspect`; None: neither."""
    if importlib.util.find_spec("inspect_ai") is not None:
        return sys.executable
    return str(TOOLS) if TOOLS.exists() else None


def pack(python: str, document: Path, target: Path) -> None:
    """Write a JSON log as `.eval`.

    Raises:
        UserError: inspect_ai refuses the log.
    """
    done = subprocess.run(
        [python, "-X", "utf8", "-c", _PACK, str(document), str(target)],
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


def log(
    rows: Sequence[Mapping[Any, Any]],
    sources: Sequence[Source],
    experiment: Mapping[Any, Any],
    subset: str,
    packages: Mapping[str, str],
) -> dict[str, Any]:
    """Return the log of an experiment.

    Args:
        rows: its rows of runs.csv.
        sources: the files of the same runs.
        experiment: its row of summary.csv.
        subset: of the data set, in words.
        packages: name -> version of the packages that made the runs.
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
                "note": atif.REPLAY_NOTE if "replay" in labels else "",
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


def _model(sources: Sequence[Source], rows: Sequence[Mapping[Any, Any]]) -> str:
    """Return the model's name at litellm; the config's name where it is not recorded."""
    recorded = next((str(s.result["model"]) for s in sources if s.result.get("model")), "")
    name = recorded or str(rows[0]["model"] if rows else "unknown")
    return atif.model_name(name, any(bool(row["replay"]) for row in rows))


def _sample(row: Mapping[Any, Any], source: Source, model: str) -> dict[str, Any]:
    key = f"{row['repo']}/{row['task_id']}/{row['features']}"
    messages = _messages(source, key)
    evaluated = row["outcome"] in (judgement.PASS, judgement.FAIL)
    words = {n: str(row[n]) for n in ("outcome", "reason", "caveat", "setting", "merge_status")}
    sample: dict[str, Any] = {
        "id": key,
        "epoch": 1,
        "input": _input(messages) or key,
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


def _input(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the prompt of the first agent."""
    return next((str(m["content"]) for m in messages if m["role"] == "user"), "")


def _messages(source: Source, key: str) -> list[dict[str, Any]]:
    """Return prompts, answers and command outputs of all agents, in order of time."""
    story = source.story
    made: list[dict[str, Any]] = []
    for agent in story.agents:
        if task := story.task.get(agent, ""):
            made.append({"role": "user", "content": _by(story.agents, agent, task)})
    for event in story.events:
        made += _of_event(event, story.agents)
    return [{"id": f"{_digest(key)[:12]}-{n}", **message} for n, message in enumerate(made)]


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
            "id": atif.call_id(event, n),
            "function": atif.function_name(command),
            "arguments": atif.arguments(command),
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
    """Return a text with its agent, where several took part."""
    return f"[{agent}] {text}" if len(agents) > 1 else text


def _usage(row: Mapping[Any, Any]) -> dict[str, Any]:
    read, written = int(row["cached_tokens"]), int(row["cache_write_tokens"])
    total_in, total_out = int(row["input_tokens"]), int(row["output_tokens"])
    return {
        # inspect counts cached tokens beside the input.
        "input_tokens": max(total_in - read - written, 0),
        "output_tokens": total_out,
        "total_tokens": total_in + total_out,
        "input_tokens_cache_read": read,
        "input_tokens_cache_write": written,
        "reasoning_tokens": int(row["reasoning_tokens"]),
        "total_cost": float(row["cost_usd"]),
    }


def _total_usage(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    usages = [_usage(row) for row in rows]
    return {key: sum(usage[key] for usage in usages) for key in (usages[0] if usages else {})}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:22]
