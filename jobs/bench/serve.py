"""The server under load, beside a bare loop over the same engine and index; loopback only.

    python jobs/bench/serve.py [--only speed steps prefixes overload faults soak] [--json results.json]

The bundled teacher is served with the toy corpus. On 2 cores all of it takes about 35 minutes.

* *speed*: questions/s at 1, 8 and 32 at a time of a server in each layout, in turns with a process that
  runs the same reasoning loop over one AsyncLLM and one Retriever, without Ray. No question is asked twice.
  Clients, servers and bare loop share the cores; who is not measured is idle.
* *steps*: time to the first token, and of each step
* *prefixes*: two LLM replicas and the prefix-aware router: what is found in their caches
* *overload*: eight times as many clients as places
* *faults*: SIGKILL of each kind of replica under load
* *soak*: ten minutes of everything, bad requests and clients that go away included

The last line is one JSON object: {figure: {"value": …, "target": …, "holds": …}}.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
from serve_load import (
    ask_server,
    each,
    faults,
    load,
    overload,
    quantile,
    say,
    server,
    soak,
)

AT_ONCE: Final = (1, 8, 32)
"""Concurrencies."""
ASKED: Final = {1: 24, 8: 96, 32: 320}
"""Questions of a round at each."""
ROUNDS: Final = 3
LAYOUTS: Final = ("fused", "apart")


def prepare(folder: Path) -> list[str]:
    """The toy world and its index; returns its questions."""
    from steper_ray.data.questions import load_questions
    from steper_ray.pipeline.execute import run_stage
    from steper_ray.ray_runtime.session import ray_session

    config = load(folder)
    with ray_session():
        for stage in ("toy", "index"):
            run_stage(stage, config)
    return [
        question.question
        for question in load_questions(config.questions, "train", config.folder.inputs)
    ]


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
    from steper_ray.chains.teachers import model_reasoning
    from steper_ray.engines.vllm_engine import VLLMEngine
    from steper_ray.reasoning.loop import reason
    from steper_ray.retrieval import open_retriever
    from steper_ray.serving.session import served_model

    config = load(folder)
    model = served_model(config)
    asked = model_reasoning(model, build=config.build, reasoning=config.reasoning)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints

    async def serve() -> None:
        engine, retriever = (
            VLLMEngine(model, config.engine, asked),
            open_retriever(config.folder.corpus),
        )
        print("ready", file=out, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            questions, at_once = json.loads(line)
            steps = 0

            async def ask(question: str) -> None:
                nonlocal steps
                done = await reason(question, engine=engine, retriever=retriever, config=asked)
                steps += len(done.steps)

            started = time.monotonic()
            await each(questions, at_once, ask)
            seconds = time.monotonic() - started
            print(json.dumps({"seconds": seconds, "steps": steps}), file=out, flush=True)
        engine.shutdown()

    asyncio.run(serve())


def speed(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Each layout alone beside the bare loop, in turns; the median round of each counts.

    A second server takes time of the first one's cores where nobody asks it either.
    """
    fresh = iter(questions)
    cached = [0.0, 0.0]
    rates: dict[str, Any] = {}
    bare = Bare(folder)
    for layout in LAYOUTS:
        run = folder / layout
        run.mkdir()
        (run / "corpus.lance").symlink_to((folder / "corpus.lance").resolve())
        both: dict[str, dict[int, list[float]]] = {
            who: {at_once: [] for at_once in AT_ONCE} for who in ("bare", layout)
        }
        with server(folder, f"run.dir={run}", f"serve.layout={layout}") as url:
            bare.ask([next(fresh) for _ in range(32)], 32)
            ask_server(url, [next(fresh) for _ in range(32)], 32)
            for at_once in [at_once for _ in range(ROUNDS) for at_once in AT_ONCE]:
                for who in both:
                    asked = [next(fresh) for _ in range(ASKED[at_once])]
                    if who == "bare":
                        outcome = bare.ask(asked, at_once)
                    else:
                        outcome = ask_server(url, asked, at_once)
                        cached[0] += outcome["cached"]
                        cached[1] += outcome["prompt"]
                    both[who][at_once].append(len(asked) / outcome["seconds"])
                    say(f"{who}, {at_once} at a time: {both[who][at_once][-1]:.2f} questions/s")
        rates[layout] = {who: {n: median(r) for n, r in of.items()} for who, of in both.items()}
    bare.close()
    return {"rates": rates, "cached": cached[0] / cached[1]}


def steps_in_time(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Streams, 8 at a time: seconds to the first token, of a step's search and of its writing."""
    times: dict[str, list[float]] = {"first token": [], "search": [], "write": [], "step": []}

    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:

            async def ask(question: str) -> None:
                started, first = time.monotonic(), True
                body = {"question": question, "stream": True}
                async with client.stream("POST", "/v1/answer", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if line == "event: token" and first:
                            times["first token"].append(time.monotonic() - started)
                            first = False
                        elif line.startswith('data: {"step":') and "rationale" in line:
                            step = json.loads(line[6:])
                            times["search"].append(step["search_seconds"])
                            times["write"].append(step["generate_seconds"])
                            times["step"].append(step["search_seconds"] + step["generate_seconds"])

            await each(questions, 8, ask)

    with server(folder) as url:
        ask_server(url, questions[:32], 32)
        asyncio.run(run(url))
    return {
        name: {"p50": quantile(of, 0.5), "p99": quantile(of, 0.99)} for name, of in times.items()
    }


def prefixes(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Two LLM replicas: the share of prompt tokens found in a cache, and the questions/s."""
    with server(folder, "serve.llm_replicas=2", "engine.cpus=0.5") as url:
        ask_server(url, questions[:64], 32)
        outcome = ask_server(url, questions[64:384], 32)
    return {"cached": outcome["cached"] / outcome["prompt"], "rate": 320 / outcome["seconds"]}


def figures(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the targets are about; True or a number is reached by being at least, or at most, as stated."""
    found: dict[str, dict[str, Any]] = {}

    def least(name: str, value: float, target: float) -> None:
        found[name] = {"value": round(value, 3), "target": target, "holds": value >= target}

    def most(name: str, value: float, target: float) -> None:
        found[name] = {"value": round(value, 3), "target": target, "holds": value <= target}

    if "speed" in measured:
        rates = measured["speed"]["rates"]
        for at_once in AT_ONCE:
            fused, apart = (
                rates[layout][layout][at_once] / rates[layout]["bare"][at_once]
                for layout in LAYOUTS
            )
            least(f"throughput_c{at_once}_vs_bare", fused, 0.9 if at_once == 1 else 0.85)
            least(f"apart_throughput_c{at_once}_vs_bare", apart, 0.65)
        least("throughput_c32_vs_c1", rates["fused"]["fused"][32] / rates["fused"]["fused"][1], 4)
    if "overload" in measured:
        one = measured["overload"]
        quiet, crowded, _ = one["accepted_p50_s"]
        most("refusal_p95_s", one["refused_p95_s"], 0.25)
        most("accepted_latency_crowded_vs_quiet", crowded / quiet, 1.5)
        most("overload_grown_mib", max(one["grown_mib"].values()), 50)
    if "faults" in measured:
        for kill in ("llm", "retriever"):
            most(f"lost_after_{kill}_killed", measured["faults"][kill]["failed"], 0)
        for kill in ("ingress", "fused"):
            one = measured["faults"][kill]
            most(f"unsafe_after_{kill}_killed", one["failed"] - one["retry-safe"], 0)
        hung = sum(of["streams without an end"] for of in measured["faults"].values())
        most("streams_without_an_end", hung, 0)
    if "soak" in measured:
        most("soak_grown_mib", max(measured["soak"]["grown_mib"].values()), 50)
        most("soak_more_files", max(measured["soak"]["more_files"].values()), 10)
    return found


SECTIONS: Final = ("speed", "steps", "prefixes", "overload", "faults", "soak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--soak-s", type=float, default=600, help="seconds of the soak")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare(arguments.bare)
        return
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = prepare(folder)
        runs = {
            "speed": lambda: speed(folder, questions),
            "steps": lambda: steps_in_time(folder, questions[:200]),
            "prefixes": lambda: prefixes(folder, questions),
            "overload": lambda: overload(folder, questions),
            "faults": lambda: faults(folder, questions),
            "soak": lambda: soak(folder, questions, arguments.soak_s),
        }
        for section in arguments.only:
            measured[section] = runs[section]()
            print(f"{section}: {json.dumps(measured[section])}", flush=True)
    found = figures(measured)
    if arguments.json:
        arguments.json.write_text(json.dumps({"measured": measured, "figures": found}, indent=2))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
