"""The server under load, beside a bare loop over the same engine and index; loopback only.

    python jobs/bench_serve.py [--only speed overload faults soak] [--json results.json]

The bundled teacher is served with the toy corpus. On 2 cores all of it takes about 25 minutes.

* *speed*: questions/s at 1, 8 and 32 at a time, in turns with a process that runs the same reasoning loop
  over one AsyncLLM and one Retriever, without Ray. No question is asked twice. Clients, server and bare loop
  share the cores; who is not measured is idle.
* *overload*: many more clients than places
* *faults*: replicas killed under load
* *soak*: ten minutes of everything

The last line is one JSON object: {figure: {"value": …, "target": …, "holds": …}}.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

AT_ONCE: Final = (1, 8, 32)
"""Concurrencies."""
ASKED: Final = {1: 24, 8: 96, 32: 320}
"""Questions of a round at each."""
ROUNDS: Final = 3


def settings(folder: Path, *more: str) -> list[str]:
    """Overrides of the toy's run file."""
    model = folder / "toy/models/teacher"
    return [f"run.dir={folder}", f"serve.model={model}", "toy.train=4000", *more]


def load(folder: Path) -> Any:
    """The run file."""
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.config import load_config

    return load_config(TOY_RUN_FILE, settings(folder))


def prepare(folder: Path) -> list[str]:
    """The toy world and its index; returns its questions."""
    from steper_ray.questions import load_questions
    from steper_ray.session import ray_session
    from steper_ray.stages import run_stage

    config = load(folder)
    with ray_session():
        for stage in ("toy", "index"):
            run_stage(stage, config)
    return [question.question for question in load_questions(config, "train")]


@contextlib.contextmanager
def server(folder: Path, *more: str) -> Iterator[str]:
    """`steper serve` in a process of its own; yields its URL."""
    from steper_ray.cli import TOY_RUN_FILE

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "steper_ray.cli", "serve", "--config", str(TOY_RUN_FILE)]
    for one in settings(folder, f"serve.port={port}", *more):
        command += ["--set", one]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "Ctrl-C ends it" not in (line := process.stdout.readline()):
            if not line:
                raise SystemExit("the server did not come up")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Bare:
    """The process of the bare loop."""

    def __init__(self, folder: Path) -> None:
        # Ray gives an engine of one core one thread, so both have one
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        for name in ("LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS"):
            env[name] = "1"
        command = [sys.executable, __file__, "--bare", str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()).strip() != "ready":
            if not line:
                raise SystemExit("the bare loop did not come up")

    def ask(self, questions: list[str], at_once: int) -> dict[str, float]:
        """Answer questions; returns seconds and steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([questions, at_once]) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, float] = json.loads(self._process.stdout.readline())
        return outcome

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run_bare(folder: Path) -> None:
    """The bare loop: reads rounds, a line of JSON each, and says how they went."""
    from steper_ray.models import reasoning_for
    from steper_ray.reasoning.engine import VLLMEngine
    from steper_ray.reasoning.loop import reason
    from steper_ray.retrieval import Retriever
    from steper_ray.serving.settings import served_model

    config = load(folder)
    model = served_model(config)
    asked = reasoning_for(config, model)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints

    async def serve() -> None:
        engine, retriever = VLLMEngine(model, config.engine, asked), Retriever(config.corpus_dir)
        print("ready", file=out, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            questions, at_once = json.loads(line)
            steps = 0

            async def ask(question: str) -> None:
                nonlocal steps
                done = await reason(question, engine=engine, searcher=retriever, config=asked)
                steps += len(done.steps)

            started = time.monotonic()
            await each(questions, at_once, ask)
            seconds = time.monotonic() - started
            print(json.dumps({"seconds": seconds, "steps": steps}), file=out, flush=True)
        engine.shutdown()

    asyncio.run(serve())


async def each(items: list[Any], at_once: int, work: Any) -> None:
    """Work on all of them, so many at a time."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(at_once)))


def ask_server(url: str, questions: list[str], at_once: int) -> dict[str, float]:
    """Answer questions over HTTP; returns seconds, steps and cached prompt tokens."""
    total = {"steps": 0.0, "prompt": 0.0, "cached": 0.0}

    async def run() -> float:
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

            async def ask(question: str) -> None:
                reply = await client.post("/v1/answer", json={"question": question})
                body = reply.raise_for_status().json()
                total["steps"] += len(body["steps"])
                total["prompt"] += body["prompt_tokens"]
                total["cached"] += body["cached_tokens"]

            started = time.monotonic()
            await each(questions, at_once, ask)
            return time.monotonic() - started

    return {"seconds": asyncio.run(run()), **total}


def speed(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Rounds in turns; the median round of each counts."""
    rates: dict[str, dict[int, list[float]]] = {
        who: {at_once: [] for at_once in AT_ONCE} for who in ("bare", "served")
    }
    fresh = iter(questions)
    cached = [0.0, 0.0]
    bare = Bare(folder)
    with server(folder) as url:
        bare.ask([next(fresh) for _ in range(32)], 32)
        ask_server(url, [next(fresh) for _ in range(32)], 32)
        for _ in range(ROUNDS):
            for at_once in AT_ONCE:
                for who in ("bare", "served"):
                    asked = [next(fresh) for _ in range(ASKED[at_once])]
                    if who == "bare":
                        outcome = bare.ask(asked, at_once)
                    else:
                        outcome = ask_server(url, asked, at_once)
                        cached[0] += outcome["cached"]
                        cached[1] += outcome["prompt"]
                    rate = len(asked) / outcome["seconds"]
                    rates[who][at_once].append(rate)
                    say(f"{who}, {at_once} at a time: {rate:.2f} questions/s")
    bare.close()
    middle = {who: {n: sorted(r)[len(r) // 2] for n, r in of.items()} for who, of in rates.items()}
    return {"rates": middle, "cached": cached[0] / cached[1]}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", default=["speed"])
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare(arguments.bare)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = prepare(folder)
        outcome = speed(folder, questions)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
