"""What `bench_train.py` measures: the data, the model, and every contender in its setting.

Each `run_…` is the whole of a process: it builds the model, trains for a few steps, and returns
{"seconds": of a step, "losses": of the examples before the first update, "peak": bytes, …}; the worker
loops return {"tokens_per_second": …, "peak": bytes, …}.
"""

import json
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from train_settings import Setting

STEPS: Final = 5
PASSAGE_TOKENS: Final = 400
QUESTION_TOKENS: Final = 20
TARGET_TOKENS: Final = 30
VOCABULARY: Final = 32_000
LR: Final = 1e-4


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


def make_chains(setting: Setting) -> list[list[np.ndarray]]:
    """The data of every contender."""
    rng = np.random.default_rng(0)
    return [make_chain(rng) for _ in range(setting.chains)]


def make_model(setting: Setting) -> Any:
    """The model of every contender, the same random weights, built where it will be trained."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.key_value_heads,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device(setting.device):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if setting.bf16 else torch.float32
        )


def now(setting: Setting) -> float:
    """Seconds on a clock, everything that was started being done."""
    if setting.gpu:
        import torch

        torch.cuda.synchronize()
    return time.monotonic()


def peak_memory(setting: Setting) -> int:
    """Most bytes that this process has held: as tensors on the GPU, or else in all."""
    if setting.gpu:
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_ours(setting: Setting, packed: bool) -> dict[str, Any]:
    """Our loss, in a plain loop."""
    import torch

    from steper_ray.training.attention import ATTENTION
    from steper_ray.training.packing import prefix_tree
    from steper_ray.training.student import StudentLoss
    from steper_ray.training.tensors import packed_batch, padded_batch
    from steper_ray.training.tokenization import TokenExample

    model = make_model(setting)
    if packed:
        model.set_attn_implementation(ATTENTION)
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    student = StudentLoss(model)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0, fused=True)
    chains = [
        [TokenExample(str(c), s, 0, ids, TARGET_TOKENS) for s, ids in enumerate(chain)]
        for c, chain in enumerate(make_chains(setting))
    ]
    weight = 1 / (setting.chains * STEPS)
    device = torch.device(setting.device)
    loss_of: dict[tuple[str, int], float] = {}
    seconds = []
    for step in range(setting.steps):
        started = now(setting)
        for first in range(0, setting.chains, setting.together):
            group = chains[first : first + setting.together]
            # Examples of the same step are equally long, so that none is filled up.
            layouts = (
                [group]
                if packed
                else [[[e] for e in examples] for examples in zip(*group, strict=True)]
            )
            for layout in layouts:
                examples = [example for part in layout for example in part]
                weights = [weight] * len(examples)
                if packed:
                    trees = [prefix_tree([example.ids for example in part]) for part in layout]
                    batch = packed_batch(layout, trees, weights, 0, device)
                else:
                    batch = padded_batch(examples, weights, 0, device)
                loss, nll_E, _ = student(batch)
                loss.backward()
                if step == 0:
                    places = [(example.chain_id, example.step) for example in examples]
                    loss_of |= zip(places, nll_E.tolist(), strict=True)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now(setting) - started)
    ids = [[example.ids for example in chain] for chain in chains]
    return {
        "seconds": statistics.median(seconds[1:]),
        "losses": [
            loss_of[example.chain_id, example.step] for chain in chains for example in chain
        ],
        "peak": peak_memory(setting),
    } | utilisation(setting, model, ids if packed else split(ids), seconds)


def split(chains: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """Every example on its own."""
    return [[ids] for chain in chains for ids in chain]


def utilisation(
    setting: Setting, model: Any, units: Sequence[Sequence[np.ndarray]], seconds: Sequence[float]
) -> dict[str, Any]:
    """Model FLOPs of a step's tokens, and the rate of plain matrix products in this process.

    units: the examples that share their prefixes
    """
    import torch

    from steper_ray.training.flops import model_flops, peak_flops
    from steper_ray.training.packing import packed_length, prefix_tree, visible_pairs

    trees = [prefix_tree(unit) for unit in units]
    layers = model.base_model.layers
    flops = model_flops(
        model.config,
        weights=sum(p.numel() for p in layers.parameters() if p.dim() == 2),
        tokens=sum(packed_length(tree) for tree in trees),
        pairs=sum(visible_pairs(tree) for tree in trees),
        supervised=setting.chains * STEPS * TARGET_TOKENS,
    )
    size = setting.product
    a, b = (torch.randn(size, size, dtype=model.dtype, device=setting.device) for _ in range(2))
    times = []
    for _ in range(20):
        started = now(setting)
        torch.mm(a, b)
        times.append(now(setting) - started)
    rate = 2 * size**3 / statistics.median(times)
    device = torch.cuda.get_device_name() if setting.gpu else f"{torch.get_num_threads()} threads"
    peak = peak_flops(device) if setting.gpu else None
    done = flops / statistics.median(seconds[1:])
    return {
        "flops": flops,
        "mm_rate": rate,
        "mfu": done / rate,
        "mfu_of_stated_peak": None if peak is None else done / peak,
        "device": device,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def run_trl(setting: Setting, packing: bool, batch: int) -> dict[str, Any]:
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
    units = split(make_chains(setting))
    examples = [ids for (ids,) in units]
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
            seconds.append(-now(setting))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += now(setting)

    with tempfile.TemporaryDirectory() as folder:
        # A packed row holds as many examples as fit the longest.
        lengths = sorted((len(ids) for ids in examples), reverse=True)
        rows_a_step = len(examples) if not packing else count_bins(lengths, longest)
        trainer = SFTTrainer(
            model=make_model(setting),
            args=SFTConfig(
                output_dir=folder,
                use_cpu=not setting.gpu,
                bf16=setting.bf16,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=rows_a_step // batch,
                max_steps=setting.trl_steps,
                optim="adamw_torch_fused",
                max_grad_norm=0.0,
                learning_rate=LR,
                lr_scheduler_type="constant",
                completion_only_loss=True,
                packing=packing,
                max_length=longest,
                gradient_checkpointing=setting.gradient_checkpointing,
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
                    inputs = {
                        name: value.to(setting.device)
                        for name, value in trainer.data_collator([row]).items()
                    }
                    losses.append(trainer.compute_loss(trainer.model, inputs).item())
        trainer.train()
    return {
        "seconds": statistics.median(seconds[1:]),
        "losses": losses,
        "peak": peak_memory(setting),
    } | utilisation(setting, trainer.model, units, seconds)


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


def write_run(setting: Setting, folder: Path) -> Any:
    """A run of the toy world with the true chains as step-wise examples."""
    import random
    from dataclasses import asdict

    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.reasoning.frameworks.ircot import render_prompt, render_target
    from steper_ray.run.loading import load_config
    from steper_ray.schema import StepExample
    from steper_ray.selection.abilities import STEPER
    from steper_ray.toy.pretrain_rows import rationales
    from steper_ray.toy.world import make_world
    from steper_ray.toy.write import MODELS

    world, rng, rows = make_world(1), random.Random(0), []
    for number in range(240):
        chain = world.random_chain(rng, 2 + number % 3)
        sentences, question = rationales(world, chain), world.question_text(chain)
        copies = setting.passage_copies
        passages = tuple(world.passage(fact.subject) for fact in chain for _ in range(copies))
        rows += [
            StepExample(
                id=f"{number}/{step}",
                chain_id=str(number),
                step=step,
                ability=STEPER.of(step, len(chain)),
                question=question,
                passages=passages[: step * copies],
                reasoning=sentences[: step - 1],
                forced=False,
                prompt=render_prompt(question, passages[: step * copies], sentences[: step - 1]),
                target=render_target(sentences[step - 1], forced=False),
            )
            for step in range(1, len(chain) + 1)
        ]
    base = MODELS / "base"
    if setting.own_student:
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / "base")
        base = folder / "base"
        make_model(setting).save_pretrained(base)
    config = load_config(TOY_RUN_FILE, [f"run.dir={folder}", f"train.model={base}", *setting.train])
    config.folder.examples.mkdir(parents=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], STEP_EXAMPLE_SCHEMA)
    pq.write_table(table, config.folder.examples / "examples.parquet")
    return config


def run_loop_without_ray(setting: Setting) -> dict[str, Any]:
    """The worker's loop under ZeRO-3, started by hand."""
    from steper_ray.training.rank import RankTraining
    from steper_ray.training.tokenization import stepwise_files
    from steper_ray.training.worker import prepare_process
    from steper_ray.training.worker_spec import worker_task

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(setting, Path(folder))
        task = worker_task(
            config.train,
            stepwise_files(config.folder.examples),
            out=config.folder.root,
            seed=config.run.seed,
            reasoning=config.reasoning,
            corpus_version="",
        )
        prepare_process(task)
        import torch

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if setting.gpu:
            torch.cuda.set_device(setting.device)
        torch.distributed.init_process_group("nccl" if setting.gpu else "gloo")
        training = RankTraining(task, 0, 1, torch.device(setting.device))
        metrics = [training.train_step().as_row() for _ in range(training.steps)]
        torch.distributed.destroy_process_group()
    return loop_outcome(metrics)


def run_loop_under_ray(setting: Setting) -> dict[str, Any]:
    """The train stage, as users run it."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.ray_runtime.session import ray_session

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(setting, Path(folder))
        with ray_session():
            train_student(config)
        lines = config.folder.metrics.read_text(encoding="utf-8").splitlines()
    return loop_outcome([json.loads(line) for line in lines])


def loop_outcome(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a worker loop without its first two steps; MFU is of the GPU's stated peak."""
    late = metrics[2:]
    return {
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in late),
        "mfu_of_stated_peak": late[0]["mfu"] and statistics.median(step["mfu"] for step in late),
        "peak": int(late[-1]["peak_memory_gib"] * 2**30),
    }


CONTENDERS: Final[dict[str, Callable[[Setting], dict[str, Any]]]] = {
    "packed chains": lambda setting: run_ours(setting, packed=True),
    "separate examples": lambda setting: run_ours(setting, packed=False),
    "TRL, whole chains at a time": lambda setting: run_trl(
        setting, packing=False, batch=setting.together * STEPS
    ),
    "TRL, an example at a time": lambda setting: run_trl(setting, packing=False, batch=1),
    "TRL, packing": lambda setting: run_trl(setting, packing=True, batch=1),
    "worker loop without Ray": run_loop_without_ray,
    "worker loop under Ray Train": run_loop_under_ray,
}
