"""Speed of the builder, side by side: Ray Data's actors, a bare loop over an engine, lockstep builders.

    python jobs/bench/build.py [--json results.json]

The bundled teacher answers toy questions in each of them, with the same engine settings and one actor; the
start of engines is left out. Each contender runs in a process of its own, in turn, and the best of its
rounds counts. On 2 cores it takes about 15 minutes.

* *builder*: what `steper build` runs
* *bare loop*: one AsyncLLM without Ray, driven with the very prompts that the builder had, so nothing is
  searched, rendered or parsed
* *lockstep*: as many questions at a time as the engine takes; all of them search, then all write a step,
  until the last of them is done; with vLLM's prefix cache and without

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

QUESTIONS: Final = 512
"""Of the side-by-side runs, and the smaller number of `scaling`."""
MANY: Final = 2_048
ROUNDS: Final = 2

TARGETS: Final = {
    "engine_efficiency": 0.9,
    "vs_lockstep_uncached": 2.5,
    "vs_lockstep_cached": 1.5,
    "scaling": 0.95,
}


def load(folder: Path) -> Any:
    """The run file of the toy world in a folder."""
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.run.loading import load_config

    return load_config(TOY_RUN_FILE, [f"run.dir={folder}", "build.limit=null"])


def prepare(folder: Path) -> None:
    """The toy world and its index."""
    from steper_ray.pipeline.execute import run_stage
    from steper_ray.ray_runtime.session import ray_session

    with ray_session():
        for stage in ("toy", "index"):
            run_stage(stage, load(folder))


def run_builder(folder: Path, count: int) -> dict[str, Any]:
    """The first so many questions through Ray Data."""
    from steper_ray.chains.attempts import MissingAttempts
    from steper_ray.chains.stream import write_chains
    from steper_ray.chains.teachers import find_teachers
    from steper_ray.data.questions import load_questions
    from steper_ray.ray_runtime.session import ray_session

    config = load(folder)
    (teacher,) = find_teachers(
        config.build, reasoning=config.reasoning, engine=config.engine, hub=config.hub
    )
    out = folder / f"builder-{count}"
    with ray_session():
        before = peak_memory()
        ran = write_chains(
            [
                MissingAttempts(question)
                for question in load_questions(config.questions, "train", config.folder.inputs)[
                    :count
                ]
            ],
            out,
            reasoner=teacher,
            corpus=config.folder.corpus,
            log=config.folder.log("build"),
        )
        grown = peak_memory() - before
    return {
        "questions": count,
        "seconds": ran.engine_seconds,
        "generated": ran.generated_tokens,
        "cached": ran.cached_tokens / ran.prompt_tokens,
        "cpu": ran.cpu_seconds,
        "driver_mib": grown / 2**20,
    }


def run_bare(folder: Path, _count: int) -> dict[str, Any]:
    """The builder's own prompts, encoded beforehand, as fast as one engine takes them."""
    from transformers import AutoTokenizer

    from steper_ray.chains.rows import read_chains
    from steper_ray.reasoning.encoder import PromptEncoder
    from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR
    from steper_ray.reasoning.prompts import fit_prompt, split_searches

    config = load(folder)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(config.build.teacher))
    prompts = []
    for chain in read_chains(folder / f"builder-{QUESTIONS}"):
        searches = split_searches(chain.passages, [len(step.passage_ids) for step in chain.steps])
        rationales = [step.rationale for step in chain.steps]
        fitted = [
            fit_prompt(
                config.reasoning,
                chain.question,
                searches[:number],
                rationales[: number - 1],
                forced=chain.answer_forced and number == len(chain.steps),
                counter=encoder,
            )
            for number in range(1, len(chain.steps) + 1)
        ]
        prompts.append([encoder.encode(one.prompt) for one in fitted])

    async def run(engine: Any) -> dict[str, Any]:
        places = asyncio.Semaphore(config.engine.max_num_seqs)

        async def ask(steps: Sequence[list[int]]) -> list[Any]:
            async with places:
                return [
                    await engine.generate_after(
                        ids, stop=(STEP_TERMINATOR,), max_tokens=config.reasoning.max_step_tokens
                    )
                    for ids in steps
                ]

        return await timed(asyncio.gather(*(ask(steps) for steps in prompts)), len(prompts))

    return with_engine(config, run)


def run_lockstep(folder: Path, count: int, *, cached: bool) -> dict[str, Any]:
    """Batches of questions, in each of which no question goes on before all have written their step."""
    from steper_ray.data.questions import load_questions
    from steper_ray.retrieval import open_retriever

    config = load(folder)
    retriever = open_retriever(config.folder.corpus)
    questions = [
        question.question
        for question in load_questions(config.questions, "train", config.folder.inputs)[:count]
    ]

    async def run(engine: Any) -> dict[str, Any]:
        async def answer_all() -> list[list[Any]]:
            size, batches = config.engine.max_num_seqs, []
            for start in range(0, count, size):
                batch = questions[start : start + size]
                batches.append(await lockstep(batch, engine, retriever, config.reasoning))
            return [[one for batch in batches for one in batch]]

        return await timed(answer_all(), count)

    return with_engine(config, run, enable_prefix_caching=cached)


async def lockstep(
    questions: Sequence[str], engine: Any, retriever: Any, settings: Any
) -> list[Any]:
    """What was generated for a batch of questions."""
    from steper_ray.reasoning.frameworks import framework_named
    from steper_ray.reasoning.prompts import fit_prompt

    code, written = framework_named(settings.framework), []
    live: list[dict[str, Any]] = [
        {"q": q, "query": q, "P": [], "R": [], "seen": set()} for q in questions
    ]
    for number in range(1, settings.max_steps + 1):
        forced, prompts = number == settings.max_steps, []
        for one in live:
            (hits,) = await retriever.search([one["query"]], settings.passages_per_step)
            new = [hit.passage for hit in hits if hit.passage.id not in one["seen"]]
            one["seen"].update(passage.id for passage in new)
            one["P"].append(new)
            fitted = fit_prompt(
                settings,
                one["q"],
                one["P"],
                one["R"],
                forced=forced,
                counter=engine,
            )
            prompts.append(fitted.prompt)
        stops = ("\n",) if forced else code.STOPS
        generations = await asyncio.gather(
            *(engine.generate(p, stop=stops, max_tokens=settings.max_step_tokens) for p in prompts)
        )
        written += generations
        for one, generation in zip(live, generations, strict=True):
            said = code.parse(generation.text, forced=forced, whole_line=settings.whole_line)
            one["R"].append(said.rationale)
            one["query"], one["answer"] = said.query, said.answer
        live = [one for one in live if one["answer"] is None]
    return written


def with_engine(config: Any, run: Callable[[Any], Any], **arguments: Any) -> dict[str, Any]:
    """Run something with an engine like the builder's."""
    from steper_ray.engines.vllm_engine import VLLMEngine

    async def start_and_run() -> dict[str, Any]:
        settings = config.engine.model_copy(update={"args": {**config.engine.args, **arguments}})
        engine = VLLMEngine(config.build.teacher, settings, config.reasoning)
        try:
            outcome: dict[str, Any] = await run(engine)
        finally:
            engine.shutdown()
        return outcome

    return asyncio.run(start_and_run())


async def timed(work: Any, questions: int) -> dict[str, Any]:
    """Seconds and tokens of what brings lists of generations."""
    started, cpu = time.monotonic(), time.process_time()
    generations = [one for part in await work for one in part]
    return {
        "questions": questions,
        "seconds": time.monotonic() - started,
        "cpu": time.process_time() - cpu,
        "generated": sum(one.generated_tokens for one in generations),
        "cached": sum(one.cached_tokens or 0 for one in generations)
        / sum(one.prompt_tokens for one in generations),
    }


def peak_memory() -> int:
    """Most bytes that this process had at a time; getrusage would count what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


CONTENDERS: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "builder": lambda folder: run_builder(folder, QUESTIONS),
    "bare loop": lambda folder: run_bare(folder, QUESTIONS),
    "lockstep, cached": lambda folder: run_lockstep(folder, QUESTIONS, cached=True),
    "lockstep, not cached": lambda folder: run_lockstep(folder, QUESTIONS, cached=False),
    "builder, many": lambda folder: run_builder(folder, MANY),
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    file = folder / "outcome.json"
    command = [
        sys.executable,
        __file__,
        "--contender",
        name,
        "--run",
        str(folder),
        "--json",
        str(file),
    ]
    # Ray gives an actor of one core one thread, so all have one.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    outcome: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return outcome


def figures(outcomes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The ratios that the targets are about."""
    rate = {name: one["questions"] / one["seconds"] for name, one in outcomes.items()}
    tokens = {name: one["generated"] / one["seconds"] for name, one in outcomes.items()}
    values = {
        "engine_efficiency": tokens["builder"] / tokens["bare loop"],
        "vs_lockstep_uncached": rate["builder"] / rate["lockstep, not cached"],
        "vs_lockstep_cached": rate["builder"] / rate["lockstep, cached"],
        "scaling": rate["builder, many"] / rate["builder"],
    }
    return {
        name: {"value": round(value, 3), "target": TARGETS[name], "holds": value >= TARGETS[name]}
        for name, value in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=list(CONTENDERS), help="run only this one, here")
    parser.add_argument("--run", type=Path, help="folder with the toy world, for --contender")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.contender:
        arguments.json.write_text(json.dumps(CONTENDERS[arguments.contender](arguments.run)))
        return
    outcomes: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for contender in [*list(CONTENDERS)[:-1] * ROUNDS, "builder, many"]:
            outcome = measure(contender, folder)
            rate = outcome["questions"] / outcome["seconds"]
            print(f"{contender}: {rate:.2f} questions/s", file=sys.stderr, flush=True)
            if contender not in outcomes or outcome["seconds"] < outcomes[contender]["seconds"]:
                outcomes[contender] = outcome
    for contender, one in outcomes.items():
        outside = 1000 * one["cpu"] / one["questions"]
        print(
            f"{contender:<22} {one['questions'] / one['seconds']:6.2f} questions/s  "
            f"{one['generated'] / one['seconds']:7.0f} tokens/s  {100 * one['cached']:3.0f} % of prompts "
            f"cached  {outside:5.1f} ms CPU a question outside the engine",
            flush=True,
        )
    print(
        f"driver's peak memory grew by {outcomes['builder']['driver_mib']:.0f} MiB with {QUESTIONS:,} "
        f"questions, by {outcomes['builder, many']['driver_mib']:.0f} MiB with {MANY:,}"
    )
    result = figures(outcomes)
    if arguments.json:
        arguments.json.write_text(json.dumps({"outcomes": outcomes, "figures": result}, indent=2))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
