#!/usr/bin/env python3
"""Start the replay server, a test component that plays recordings over HTTP without a model.

It serves Cohere's v2 chat (POST /v2/chat) and OpenAI's chat completions (POST
/v1/chat/completions), so that the real benchmark and the real client library work with it without a
key, network or cost. Its answers were written in advance, so results are not evidence about any
model. demo/README.md describes the options and the format of recordings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from replay.delays import Delay
from replay.faults import Faults
from replay.judge import Judge
from replay.ledger import Ledger
from replay.players import Player, RecordingPlayer, ScriptPlayer
from replay.recordings import load
from replay.scripts import SCRIPTS
from replay.server import Replay


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recordings", type=Path, help="directory of recordings to play")
    parser.add_argument("--script", choices=sorted(SCRIPTS), help="play a script instead")
    parser.add_argument("--dataset", type=Path, help="data set whose tasks a script plays")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: a free one)")
    parser.add_argument("--port-file", type=Path, help="file to write the port to, once listening")
    parser.add_argument("--ledger", type=Path, help="file to append a line to for each call")
    parser.add_argument(
        "--delay",
        default="0",
        help="seconds an answer takes: S, lognormal:MEDIAN:SIGMA or uniform:A:B, "
        "with ,tail:P:FACTOR for slow conversations",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the delays")
    parser.add_argument("--faults", type=Path, help="JSON file of fault rules that apply at once")
    return parser.parse_args(argv)


def player_of(args: argparse.Namespace) -> Player:
    """Return the requested player; ValueError unless exactly one is requested."""
    if bool(args.recordings) == bool(args.script):
        raise ValueError("give either --recordings DIR or --script NAME with --dataset DIR")
    if args.recordings:
        return RecordingPlayer(load(args.recordings))
    if not args.dataset:
        raise ValueError("--script needs --dataset DIR")
    return ScriptPlayer(args.dataset, SCRIPTS[args.script])


def write_port(path: Path, port: int) -> None:
    """Write the port atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{port}\n")
    os.replace(name, path)


async def serve(args: argparse.Namespace, replay: Replay) -> None:
    """Listen until SIGTERM or SIGINT; calls in progress are then dropped."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    runner = web.AppRunner(replay.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, args.host, args.port)
        await site.start()
        port = runner.addresses[0][1]
        print(f"replay server at http://{args.host}:{port} (no model, recordings only)", flush=True)
        if args.port_file:
            write_port(args.port_file, port)
        await end.wait()
    finally:
        await runner.cleanup()
        replay.ledger.close()
        if args.port_file:
            args.port_file.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; return 0 after a signal, 2 for an invalid command line or file."""
    args = arguments(argv)
    try:
        faults = Faults([])
        if args.faults:
            faults = Faults.from_json(json.loads(args.faults.read_text(encoding="utf-8")))
        replay = Replay(
            player_of(args),
            Ledger(args.ledger),
            Delay.parse(args.delay, args.seed),
            faults,
            Judge.load(args.recordings),
        )
        asyncio.run(serve(args, replay))
    except (OSError, ValueError) as error:
        print(f"replay server: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
