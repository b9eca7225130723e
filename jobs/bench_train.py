"""Training speed, side by side: packed chains, separate examples, TRL's SFTTrainer, with and without Ray.

    pip install '.[bench]'
    python jobs/bench_train.py [--json results.json]

Shapes as in the paper: 5 steps, 4 passages of about 100 tokens a step, targets of about 30 tokens; a
Llama of 4 layers × 256 with a vocabulary of 32,000; same random tokens, same AdamW, fp32, one worker each.
Every contender runs in a process of its own, one after the other, and says its losses before the first
update, so that all are seen to train on the same. On 2 cores it takes about 8 minutes.

TRL is given as much at a time as we are (a chain), and one example at a time, which is leaner; the speed
is held against the faster of the two, the memory against the former.

The last line is one JSON object: {figure: {"value": …, "target": …, "holds": …}}.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

STEPS: Final = 5
PASSAGE_TOKENS: Final = 400
QUESTION_TOKENS: Final = 20
TARGET_TOKENS: Final = 30
LAYERS, HIDDEN, HEADS, INTERMEDIATE, VOCABULARY = 4, 256, 4, 704, 32_000
LR: Final = 1e-4
CHAINS: Final = 2
"""Chains, of `STEPS` examples each, in one optimizer step."""

TARGETS: Final = {
    "vs_trl": (10.0, "at least"),
    "vs_trl_packed": (5.0, "at least"),
    "memory_vs_trl": (0.3, "at most"),
    "vs_separate": (2.0, "at least"),
    "ray_efficiency": (0.95, "at least"),
}


def make_chain(rng: np.random.Generator) -> list[np.ndarray]:
    """One example a step, laid out as IRCoT does: passages so far, question, reasoning so far, target."""
    passages = rng.integers(3, VOCABULARY, STEPS * PASSAGE_TOKENS)
    question = rng.integers(3, VOCABULARY, QUESTION_TOKENS)
    reasoning = rng.integers(3, VOCABULARY, STEPS * TARGET_TOKENS)
    return [
        np.concatenate(
            [passages[: s * PASSAGE_TOKENS], question, reasoning[: s * TARGET_TOKENS]]
        ).astype(np.int32)
        for s in range(1, STEPS + 1)
    ]


def make_chains() -> list[list[np.ndarray]]:
    """The data of every contender."""
    rng = np.random.default_rng(0)
    return [make_chain(rng) for _ in range(CHAINS)]


def make_model() -> Any:
    """The model of every contender, the same random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def peak_memory() -> int:
    """Most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_ours(packed: bool, steps: int = 6) -> dict[str, Any]:
    """Our loss, in a plain loop."""
    import torch

    from steper_ray.training.attention import ATTENTION
    from steper_ray.training.batch import packed_batch, padded_batch
    from steper_ray.training.data import TokenExample
    from steper_ray.training.packing import prefix_tree
    from steper_ray.training.student import StudentLoss

    model = make_model()
    if packed:
        model.set_attn_implementation(ATTENTION)
    student = StudentLoss(model)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR)
    chains = [
        [TokenExample(str(c), s, 0, ids, TARGET_TOKENS) for s, ids in enumerate(chain)]
        for c, chain in enumerate(make_chains())
    ]
    weights = [1 / (CHAINS * STEPS)] * STEPS
    device = torch.device("cpu")
    seconds, losses, batch = [], [], None
    for step in range(steps):
        started = time.monotonic()
        for chain in chains:
            if packed:
                tree = prefix_tree([example.ids for example in chain])
                parts = [packed_batch([chain], [tree], weights, 0, device)]
            else:
                parts = [
                    padded_batch([e], [w], 0, device) for e, w in zip(chain, weights, strict=True)
                ]
            for batch in parts:
                loss, nll_E, _ = student(batch)
                loss.backward()
                losses += nll_E.tolist() if step == 0 else []
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - started)
    outcome = {"seconds": statistics.median(seconds[1:]), "losses": losses, "peak": peak_memory()}
    if packed:
        outcome |= utilisation(model, chains, seconds)
    return outcome


def utilisation(model: Any, chains: Any, seconds: list[float]) -> dict[str, Any]:
    """Model FLOPs of the tokens computed, and the rate of plain matrix products in this process."""
    import torch

    from steper_ray.training.flops import model_flops
    from steper_ray.training.packing import packed_length, prefix_tree, visible_pairs

    trees = [prefix_tree([example.ids for example in chain]) for chain in chains]
    flops = model_flops(
        model.config,
        weights=LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE),
        tokens=sum(packed_length(tree) for tree in trees),
        pairs=sum(visible_pairs(tree) for tree in trees),
        supervised=len(chains) * STEPS * TARGET_TOKENS,
    )
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        started = time.monotonic()
        torch.mm(a, b)
        times.append(time.monotonic() - started)
    rate = 2 * 1024**3 / statistics.median(times)
    return {"flops": flops, "mm_rate": rate, "mfu": flops / statistics.median(seconds[1:]) / rate}


def run_trl(packing: bool, batch: int, steps: int = 3) -> dict[str, Any]:
    """TRL's SFTTrainer on the flattened examples, loss on completions only.

    batch: examples (rows, if packing) that go through the model together
    """
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        eos_token="w2",
        pad_token="w0",
    )
    examples = [ids for chain in make_chains() for ids in chain]
    rows = [
        {
            "input_ids": ids.tolist(),
            "completion_mask": [0] * (len(ids) - TARGET_TOKENS) + [1] * TARGET_TOKENS,
        }
        for ids in examples
    ]
    longest = max(len(ids) for ids in examples)
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-time.monotonic())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += time.monotonic()

    with tempfile.TemporaryDirectory() as folder:
        # A packed row holds as many examples as fit the longest.
        lengths = sorted((len(ids) for ids in examples), reverse=True)
        rows_a_step = len(examples) if not packing else count_bins(lengths, longest)
        trainer = SFTTrainer(
            model=make_model(),
            args=SFTConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=rows_a_step // batch,
                max_steps=steps,
                learning_rate=LR,
                lr_scheduler_type="constant",
                completion_only_loss=True,
                packing=packing,
                max_length=longest,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        losses = []
        if not packing:
            with torch.no_grad():
                for row in trainer.train_dataset:
                    inputs = trainer.data_collator([row])
                    losses.append(trainer.compute_loss(trainer.model, inputs).item())
        trainer.train()
    return {"seconds": statistics.median(seconds[1:]), "losses": losses, "peak": peak_memory()}


def count_bins(lengths: list[int], size: int) -> int:
    """Rows that best-fit-decreasing packing needs, which is TRL's own strategy."""
    free: list[int] = []
    for length in lengths:
        fitting = [room for room in free if room >= length]
        if fitting:
            free.remove(best := min(fitting))
            free.append(best - length)
        else:
            free.append(size - length)
    return len(free)


def write_run(folder: Path) -> Any:
    """A run of the toy world with the true chains as step-wise examples."""
    import random
    from dataclasses import asdict

    import pyarrow as pa
    import pyarrow.parquet as pq

    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.config import load_config
    from steper_ray.reasoning.ircot import render_prompt, render_target
    from steper_ray.schema import STEP_EXAMPLE_SCHEMA, StepExample
    from steper_ray.stepwise.select import stage_of
    from steper_ray.toy.pretrain import rationales
    from steper_ray.toy.stage import MODELS
    from steper_ray.toy.world import make_world

    world, rng, rows = make_world(1), random.Random(0), []
    for number in range(240):
        chain = world.random_chain(rng, 2 + number % 3)
        sentences, question = rationales(world, chain), world.question_text(chain)
        passages = tuple(world.passage(fact.subject) for fact in chain)
        rows += [
            StepExample(
                id=f"{number}/{step}",
                chain_id=str(number),
                step=step,
                stage=stage_of(step, len(chain)),
                question=question,
                passages=passages[:step],
                reasoning=sentences[: step - 1],
                forced=False,
                prompt=render_prompt(question, passages[:step], sentences[: step - 1]),
                target=render_target(sentences[step - 1], forced=False),
            )
            for step in range(1, len(chain) + 1)
        ]
    config = load_config(
        TOY_RUN_FILE, [f"run.dir={folder}", f"train.model={MODELS / 'base'}", "train.workers=1"]
    )
    config.stepwise_dir.mkdir(parents=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], STEP_EXAMPLE_SCHEMA)
    pq.write_table(table, config.stepwise_dir / "examples.parquet")
    return config


def run_loop_without_ray() -> dict[str, Any]:
    """The worker's loop under ZeRO-3, started by hand."""
    from steper_ray.training.data import stepwise_files
    from steper_ray.training.run import StudentTraining
    from steper_ray.training.trainer import worker_task
    from steper_ray.training.worker import prepare_process

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(Path(folder))
        task = worker_task(config, stepwise_files(config.stepwise_dir))
        prepare_process(task)
        import torch

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.distributed.init_process_group("gloo")
        training = StudentTraining(task, 0, 1, torch.device("cpu"))
        rates = [training.train_step().tokens_per_second for _ in range(training.steps)]
        torch.distributed.destroy_process_group()
    return {"tokens_per_second": statistics.median(rates[2:])}


def run_loop_under_ray() -> dict[str, Any]:
    """The train stage, as users run it."""
    from steper_ray.session import ray_session
    from steper_ray.training.trainer import train

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(Path(folder))
        with ray_session():
            train(config)
        lines = config.metrics_file.read_text(encoding="utf-8").splitlines()
        rates = [json.loads(line)["tokens_per_second"] for line in lines]
    return {"tokens_per_second": statistics.median(rates[2:])}


CONTENDERS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "packed chains": lambda: run_ours(packed=True),
    "separate examples": lambda: run_ours(packed=False),
    "TRL, a chain at a time": lambda: run_trl(packing=False, batch=STEPS),
    "TRL, an example at a time": lambda: run_trl(packing=False, batch=1),
    "TRL, packing": lambda: run_trl(packing=True, batch=1),
    "worker loop without Ray": run_loop_without_ray,
    "worker loop under Ray Train": run_loop_under_ray,
}


QUICK: Final = ["packed chains", "separate examples"]
ROUNDS: Final = 3
"""How often the quick ones are run beforehand, in turn; of all their runs the best counts."""


@contextmanager
def outcome_file() -> Iterator[Path]:
    """Where a contender writes what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "outcome.json"


def measure(name: str) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    with outcome_file() as file:
        command = [sys.executable, __file__, "--contender", name, "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        outcome: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return outcome


def figures(outcomes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The ratios that the targets are about."""
    ours, separate, chain, single, trl_packed, plain, under_ray = (
        outcomes[name] for name in CONTENDERS
    )
    values = {
        "vs_trl": min(chain["seconds"], single["seconds"]) / ours["seconds"],
        "vs_trl_packed": trl_packed["seconds"] / ours["seconds"],
        "memory_vs_trl": ours["peak"] / chain["peak"],
        "vs_separate": separate["seconds"] / ours["seconds"],
        "ray_efficiency": under_ray["tokens_per_second"] / plain["tokens_per_second"],
    }
    out: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        target, kind = TARGETS[name]
        holds = value >= target if kind == "at least" else value <= target
        out[name] = {"value": round(value, 3), "target": target, "holds": holds}
    out["mfu"] = {"value": round(ours["mfu"], 3), "target": None, "holds": None}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=list(CONTENDERS), help="run only this one, here")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.contender:
        arguments.json.write_text(json.dumps(CONTENDERS[arguments.contender]()))
        return
    outcomes: dict[str, dict[str, Any]] = {}
    examples = CHAINS * STEPS
    for name in [*QUICK * ROUNDS, *CONTENDERS]:
        outcome = measure(name)
        if name not in outcomes or outcome["seconds"] < outcomes[name]["seconds"]:
            outcomes[name] = outcome
    for name, outcome in outcomes.items():
        if "seconds" in outcome:
            rate, peak = examples / outcome["seconds"], outcome["peak"] / 2**30
            print(f"{name:<28} {rate:8.2f} examples/s  {peak:6.2f} GiB peak", flush=True)
        else:
            print(f"{name:<28} {outcome['tokens_per_second']:8,.0f} tokens/s", flush=True)
    reference = np.array(outcomes["packed chains"]["losses"])
    for name in ("separate examples", "TRL, a chain at a time", "TRL, an example at a time"):
        apart = np.abs(np.array(outcomes[name]["losses"]) / reference - 1).max()
        print(f"losses of {name} and of packed chains differ by at most {apart:.1e}")
        assert apart < 1e-4, (outcomes[name]["losses"], reference)
    ours = outcomes["packed chains"]
    print(
        f"packed chains: {ours['flops'] / ours['seconds'] / 1e9:.0f} GFLOP/s of model work, plain "
        f"1,024 × 1,024 products {ours['mm_rate'] / 1e9:.0f} GFLOP/s"
    )
    results = figures(outcomes)
    if arguments.json:
        arguments.json.write_text(json.dumps({"outcomes": outcomes, "figures": results}, indent=2))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
