"""How fast step-wise examples become training data: as every rank once did it, and prepared once for all.

    python jobs/bench/prepare.py [--model FOLDER] [--chains 6000] [--in-chains 1]

Chains of 2 to 5 steps with 4 passages a step, as `steper build` writes them, from the passages of the
sample in tests/data. With --in-chains 1 no two chains share a passage (their words are in another order in
each); with N every passage is in N chains. Before: each rank rendered and encoded every prompt whole, one
after the other (kept here). Now: `steper_ray.training.preparation` on all cores of this machine, the start
of Ray's processes included. Memory is what a node of 8 ranks holds: the mapped files once, and what each
rank has beside them.

The last line is one JSON object: {figure: {"value": …, "target": …, "holds": …}}.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from train_chains import PASSAGES_PER_STEP, chain_of

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.models.loading import load_tokenizer
from steper_ray.ray_runtime.session import ray_session
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.prompts import fit_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain, Passage
from steper_ray.selection.examples import step_examples
from steper_ray.selection.shards import CHAINS_PER_ROW_GROUP, CHAINS_PER_SHARD
from steper_ray.toy.write import MODELS
from steper_ray.training.preparation import prepare
from steper_ray.training.settings import TrainConfig
from steper_ray.training.tokenization import read_rows
from steper_ray.training.training_data import TrainingData
from steper_ray.training.worker_spec import WorkerTask, worker_task

SAMPLE: Final = Path(__file__).parents[2] / "tests" / "data" / "hotpotqa_distractor_40.json"
REASONING: Final = complete_reasoning(
    ReasoningConfig(passages_per_step=PASSAGES_PER_STEP, max_steps=5, max_prompt_tokens=6144)
)
MEASURED_BEFORE: Final = 400
"""Chains that are tokenized the old way; a rate needs no more."""


RANKS: Final = 8


def write_examples(folder: Path, count: int, in_chains: int) -> list[Path]:
    """Step-wise examples of so many chains, in shards and row groups as a build has them."""
    questions = json.loads(SAMPLE.read_text(encoding="utf-8"))
    passages = [
        (title, "".join(text)) for question in questions for title, text in question["context"]
    ]
    rng = random.Random(0)
    folder.mkdir()
    files = []
    for first in range(0, count, CHAINS_PER_SHARD):
        file = folder / f"train-{first:06d}.parquet"
        with pq.ParquetWriter(file, STEP_EXAMPLE_SCHEMA) as writer:
            for start in range(first, min(count, first + CHAINS_PER_SHARD), CHAINS_PER_ROW_GROUP):
                numbers = range(start, min(count, start + CHAINS_PER_ROW_GROUP))
                rows = [
                    asdict(example)
                    for number in numbers
                    for example in step_examples(
                        _chain(number, passages, questions, in_chains, rng), REASONING
                    )
                ]
                writer.write_table(pa.Table.from_pylist(rows, STEP_EXAMPLE_SCHEMA))
        files.append(file)
    return files


def _chain(
    number: int,
    passages: Sequence[tuple[str, str]],
    questions: Sequence[dict[str, Any]],
    in_chains: int,
    rng: random.Random,
) -> Chain:
    steps = rng.choice([2, 3, 3, 4, 5])
    found = []
    for place in range(PASSAGES_PER_STEP * steps):
        name = (number // in_chains, place)
        own = random.Random(repr(name))
        title, text = own.choice(passages)
        words = text.split()
        own.shuffle(words)
        found.append(Passage("-".join(map(str, name)), title, " ".join(words)))
    first_of_step = found[::PASSAGES_PER_STEP]
    rationales = [" ".join(passage.text.split()[:25]) + "." for passage in first_of_step]
    question = questions[number % len(questions)]["question"]
    return chain_of(number, question, found, rationales)


def chains_per_second_before(files: Sequence[Path], model: str) -> float:
    """Every prompt rendered and encoded whole, one after the other, as each rank did at its start."""
    import numpy as np

    encoder = PromptEncoder(load_tokenizer(model))
    rows = _rows_of(files, MEASURED_BEFORE)
    started = time.perf_counter()
    examples = []
    for row in rows:
        fitted = fit_prompt(
            REASONING,
            row["question"],
            split_searches([Passage(**passage) for passage in row["passages"]], row["found"] or ()),
            row["reasoning"],
            forced=row["forced"],
            counter=encoder,
        )
        target_ids = encoder.encode_target(fitted.prompt, row["target"])
        examples.append(np.array([*encoder.encode(fitted.prompt), *target_ids], dtype=np.int32))
    return MEASURED_BEFORE / (time.perf_counter() - started)


def _rows_of(files: Sequence[Path], chains: int) -> list[dict[str, Any]]:
    """The rows of the first chains."""
    rows = []
    seen: set[str] = set()
    for row in read_rows(files, ("init", "exp", "agg")):
        seen.add(row["chain_id"])
        if len(seen) > chains:
            break
        rows.append(row)
    return rows


def measure_reader(folder: Path) -> dict[str, float]:
    """Seconds to a rank's first micro-batch, and the bytes that it holds after a pass over everything."""
    code = (
        "import json, sys, time\n"
        "import numpy, torch, pyarrow\n"
        "from pathlib import Path\n"
        "from steper_ray.training.tensors import packed_batch\n"
        "from steper_ray.training.training_data import TrainingData\n"
        "def held():\n"
        "    lines = open('/proc/self/smaps_rollup').read().splitlines()\n"
        "    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Anonymous:'))\n"
        "TrainingData(Path(sys.argv[1]))\n"  # with which libraries set themselves up
        "before = held()\n"
        "started = time.perf_counter()\n"
        "data = TrainingData(Path(sys.argv[1]))\n"
        "(unit,) = data.units(data.chains[0], packed=True)\n"
        "weights = [1.0] * len(unit.examples)\n"
        "packed_batch([unit.examples], [unit.tree], weights, 0, torch.device('cpu'))\n"
        "seconds = time.perf_counter() - started\n"
        "for chain in data.chains:\n"
        "    for unit in data.units(chain, packed=True):\n"
        "        sum(int(example.ids.sum()) for example in unit.examples)\n"
        "own = held() - before\n"
        "print(json.dumps({'seconds': seconds, 'own': own}))\n"
    )
    reader = [sys.executable, "-c", code, str(folder)]
    shown = subprocess.run(reader, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, float] = json.loads(shown.splitlines()[-1])
    return found


def prepared_task(files: Sequence[Path], model: str, out: Path) -> WorkerTask:
    """The task of a training on these files."""
    settings = TrainConfig(model=model)
    task = worker_task(settings, files, out=out, seed=0, reasoning=REASONING, corpus_version="v1")
    return replace(task, base_model={"name": model})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--model", default=str(MODELS / "teacher"), help="whose tokenizer is used"
    )
    arguments.add_argument("--chains", type=int, default=6000)
    arguments.add_argument("--in-chains", type=int, default=1, help="chains that a passage is in")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        out = Path(temporary)
        os.environ["RAY_TMPDIR"] = temporary
        files = write_examples(out / "stepwise", chosen.chains, chosen.in_chains)
        before = chains_per_second_before(files, chosen.model)
        print(f"before, one rank: {before:,.0f} chains a second", flush=True)
        with ray_session():
            task = prepared_task(files, chosen.model, out)
            started = time.perf_counter()
            folder = prepare(task, out / "prepared")
            seconds = time.perf_counter() - started
        data = TrainingData(folder)
        tokens = int(data.about["tokens"])
        now = chosen.chains / seconds
        reader = measure_reader(folder)
        mapped = sum(file.stat().st_size for file in folder.iterdir())
    print(f"now, {os.cpu_count()} cores: {now:,.0f} chains a second ({seconds:.1f} s)")
    print(
        f"{tokens:,} tokens, {data.about['packed_tokens'] / tokens:.2f} of them packed; files "
        f"{mapped / tokens:.2f} bytes a token, a rank {reader['own'] / tokens:.2f} beside them"
    )
    figures = {
        "vs_before": (now / before, 8.0, 1),
        "first_batch_seconds": (reader["seconds"], 5.0, -1),
        "bytes_per_token": ((mapped + RANKS * max(0.0, reader["own"])) / tokens, 6.0, -1),
    }
    print(
        json.dumps(
            {
                name: {"value": value, "target": target, "holds": sign * (value - target) >= 0}
                for name, (value, target, sign) in figures.items()
            }
        )
    )


if __name__ == "__main__":
    main()
