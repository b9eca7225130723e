"""What each Ray Train worker runs: ZeRO training of the student, from first step to export.

All workers run the same code on the same data order and differ only in which micro-batches they
compute. Per global batch they exchange, beside ZeRO's own traffic, three sums of example losses;
from these every rank knows L_j exactly and moves σ by itself.

`ray.train.report` holds all ranks for about 2 s, so it is called only with a checkpoint; rank 0
writes the metrics of every step (see `steper_ray.training.metrics`).
"""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError
from steper_ray.schema import Stage
from steper_ray.session import redirect_output
from steper_ray.training.data import (
    TokenExample,
    TokenizedData,
    check_examples,
    cut_micro_batches,
    epoch_batches,
    steps_per_epoch,
    tokenize_examples,
)
from steper_ray.training.deepspeed_config import ZeroStage, deepspeed_config, learning_rate
from steper_ray.training.metrics import MetricsWriter, StepMetrics
from steper_ray.training.objective import (
    Mode,
    Sigma,
    Triple,
    count_stages,
    example_weights,
    global_loss,
    stage_weights,
)
from steper_ray.training.packing import packed_length, prefix_tree

if TYPE_CHECKING:
    from steper_ray.training.student import StudentLoss

STATE_FILE: Final = "state.json"
BAD_BATCH_FILE: Final = "bad_batch.json"
SHARDS_TAG: Final = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """Everything a worker needs to know, in plain values."""

    stepwise_files: tuple[str, ...]
    training_dir: str
    student_dir: str
    model: str
    seed: int
    instruction: str
    max_prompt_tokens: int
    student_settings: dict[str, Any]
    """What is written beside the student as `steper.json`."""
    objective: Mode
    stages: tuple[Stage, ...]
    fixed_weights: Triple
    sigma_init: Triple
    sigma_lr: float
    sigma_min: float
    sigma_max: float
    lr: float
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    epochs: int
    chains_per_batch: int
    micro_batch_tokens: int
    zero_stage: ZeroStage
    gradient_checkpointing: bool
    packing: bool
    use_gpu: bool
    threads: int
    """CPU threads of torch in one worker."""
    checkpoint_every_steps: int
    log: str
    """File for what the workers print."""


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What rank 0 hands back to the driver."""

    last: StepMetrics
    examples: dict[str, int]
    """Training examples of each stage."""
    dropped_passages: int
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""


class StudentTraining:
    """The training of one run, as one rank sees it."""

    def __init__(self, task: WorkerTask, rank: int, ranks: int, device: Any) -> None:
        import deepspeed
        import torch
        from transformers import AutoConfig, AutoTokenizer

        from steper_ray.training.attention import packing_obstacle
        from steper_ray.training.student import load_student

        self.task, self.rank, self.ranks, self.device = task, rank, ranks, device
        tokenizer = AutoTokenizer.from_pretrained(task.model)
        self.pad = tokenizer.pad_token_id or 0
        config = AutoConfig.from_pretrained(task.model).get_text_config()
        obstacle = packing_obstacle(config)
        self.separate_because = obstacle if task.packing else "train.packing is false"
        self.packed = self.separate_because is None
        self.data: TokenizedData = tokenize_examples(
            [Path(file) for file in task.stepwise_files],
            tokenizer,
            instruction=task.instruction,
            max_prompt_tokens=task.max_prompt_tokens,
            stages=task.stages,
            whole_path=task.objective == "vanilla-kd",
        )
        check_examples(
            self.data.examples,
            vocabulary=config.vocab_size,
            positions=getattr(config, "max_position_embeddings", sys.maxsize),
        )
        self.steps_per_epoch = steps_per_epoch(len(self.data.chains), task.chains_per_batch)
        self.steps = self.steps_per_epoch * task.epochs
        ds_config = deepspeed_config(
            zero_stage=task.zero_stage,
            bf16=task.use_gpu,
            lr=task.lr,
            weight_decay=task.weight_decay,
            max_grad_norm=task.max_grad_norm,
        )
        torch.manual_seed(task.seed)
        student: StudentLoss = load_student(
            task.model,
            dtype=torch.bfloat16 if task.use_gpu else torch.float32,
            gradient_checkpointing=task.gradient_checkpointing,
            packed=self.packed,
            zero3=ds_config if task.zero_stage == 3 else None,
        )
        self.engine, *_ = deepspeed.initialize(
            model=student, model_parameters=student.parameters(), config=ds_config
        )
        self.sigma = Sigma(
            task.sigma_init, lr=task.sigma_lr, lowest=task.sigma_min, highest=task.sigma_max
        )
        self.step = 0
        self.last: StepMetrics | None = None

    def train_step(self) -> StepMetrics:
        """One global batch: forward, backward and update of the weights, then of σ.

        Raises StageError if the loss or the gradient is not finite; no weight was changed then.
        """
        task, engine = self.task, self.engine
        started = time.monotonic()
        epoch, position = divmod(self.step, self.steps_per_epoch)
        batch = epoch_batches(
            len(self.data.chains), task.chains_per_batch, seed=task.seed, epoch=epoch
        )[position]
        units = [unit for chain in batch for unit in self._units(chain)]
        examples = [example for unit in units for example in unit]
        stage_E = [example.stage for example in examples]
        weight_3 = stage_weights(task.objective, self.sigma.value_3, task.fixed_weights)
        weights = iter(example_weights(stage_E, weight_3))
        weighted = [(unit, [next(weights) for _ in unit]) for unit in units]

        lr = learning_rate(self.step, self.steps, peak=task.lr, warmup_ratio=task.warmup_ratio)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        sums = self._forward_backward(weighted)
        count_3 = count_stages(stage_E)
        loss_3, accuracy_3 = self._stage_means(sums, count_3)
        loss = global_loss(task.objective, loss_3, count_3, self.sigma.value_3, weight_3)
        if not math.isfinite(loss):
            raise StageError(
                f"train: the loss of step {self.step + 1} is {loss}; lower train.lr; "
                f"{self._write_bad_batch(examples)} has the examples, and the last checkpoint is kept"
            )
        engine.step()
        grad_norm = float(engine.get_global_grad_norm())
        if not math.isfinite(grad_norm):
            raise StageError(
                f"train: the gradient of step {self.step + 1} is not finite; lower train.lr; "
                f"{self._write_bad_batch(examples)} has the examples, and the last checkpoint is kept"
            )
        if task.objective == "difficulty":
            self.sigma.update(loss_3, [count > 0 for count in count_3])
        self.step += 1
        seconds = time.monotonic() - started
        shown_3 = [count > 0 and task.objective != "vanilla-kd" for count in count_3]
        L_init, L_exp, L_agg = _where(shown_3, loss_3)
        accuracy_init, accuracy_exp, accuracy_agg = _where(shown_3, accuracy_3)
        sigma_init, sigma_exp, sigma_agg = self.sigma.value_3
        self.last = StepMetrics(
            step=self.step,
            steps=self.steps,
            epoch=epoch + 1,
            loss=loss,
            L_init=L_init,
            L_exp=L_exp,
            L_agg=L_agg,
            accuracy_init=accuracy_init,
            accuracy_exp=accuracy_exp,
            accuracy_agg=accuracy_agg,
            sigma_init=sigma_init,
            sigma_exp=sigma_exp,
            sigma_agg=sigma_agg,
            lr=lr,
            grad_norm=grad_norm,
            tokens_per_second=sum(len(example.ids) for example in examples) / seconds,
            examples=len(examples),
            seconds=seconds,
        )
        return self.last

    def _units(self, chain: int) -> list[list[TokenExample]]:
        """What is laid out together: a chain's examples where they are packed, else each alone."""
        examples = [self.data.examples[index] for index in self.data.chains[chain]]
        return [examples] if self.packed else [[example] for example in examples]

    def _forward_backward(self, units: Sequence[tuple[list[TokenExample], list[float]]]) -> Any:
        """Gradients of this rank's share; (2, 3) fp32 sums of NLL and accuracy of examples by stage.

        units: of the global batch, with the weight of each example
        """
        import torch

        from steper_ray.training.batch import packed_batch, padded_batch

        packed = self.packed
        trees = [prefix_tree([example.ids for example in unit]) for unit, _ in units]
        lengths = [packed_length(tree) for tree in trees]
        micro_batches = cut_micro_batches(
            lengths, self.task.micro_batch_tokens, self.ranks, padded=not packed
        )[self.rank]
        sums = torch.zeros(2, 3, device=self.device)
        for number, micro_batch in enumerate(micro_batches, 1):
            chosen = [units[i] for i in micro_batch.units]
            examples = [example for unit, _ in chosen for example in unit]
            counted = float(micro_batch.counted)
            # DeepSpeed averages gradients over the ranks; L is their sum.
            weights = [self.ranks * counted * weight for _, unit in chosen for weight in unit]
            batch = (
                packed_batch(
                    [unit for unit, _ in chosen],
                    [trees[i] for i in micro_batch.units],
                    weights,
                    self.pad,
                    self.device,
                )
                if packed
                else padded_batch(examples, weights, self.pad, self.device)
            )
            self.engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            loss, nll_E, right_E = self.engine(batch)
            self.engine.backward(loss)
            stages = torch.tensor([example.stage for example in examples], device=self.device)
            sums.index_add_(1, stages, torch.stack([nll_E, right_E]) * counted)
        return sums

    def _write_bad_batch(self, examples: Sequence[TokenExample]) -> Path:
        """Name the examples of a global batch whose loss is no number."""
        file = Path(self.task.training_dir) / BAD_BATCH_FILE
        if self.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            ids = [f"{example.chain_id}/{example.step}" for example in examples]
            content = json.dumps({"step": self.step + 1, "examples": ids}, indent=2)
            file.write_text(content + "\n", encoding="utf-8")
        return file

    def _stage_means(self, sums: Any, count_3: Sequence[int]) -> tuple[Triple, Triple]:
        """L_j and accuracy of the global batch, 0 for an absent stage, the same on every rank."""
        import torch
        import torch.distributed as dist

        dist.all_reduce(sums)
        counts = torch.tensor(count_3, device=sums.device).clamp(min=1)
        (init, exp, agg), (right_init, right_exp, right_agg) = (sums / counts).tolist()
        return (init, exp, agg), (right_init, right_exp, right_agg)

    def save(self, folder: Path) -> None:
        """Write this rank's part of a checkpoint."""
        assert self.last is not None
        self.engine.save_checkpoint(str(folder), tag=SHARDS_TAG)
        if self.rank == 0:
            state = {
                "workers": self.ranks,
                "sigma": self.sigma.state_dict(),
                "last": self.last.as_dict(),
            }
            (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint: weights, optimizer, σ, and the place in the data."""
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state["workers"] != self.ranks:
            raise StageError(
                f"train: the checkpoint was written by {state['workers']} workers and cannot be "
                f"read by {self.ranks}; set train.workers to {state['workers']}"
            )
        self.engine.load_checkpoint(str(folder), tag=SHARDS_TAG)
        self.sigma.load_state_dict(state["sigma"])
        self.last = StepMetrics(**state["last"])
        self.step = self.last.step

    def export(self) -> None:
        """Write the student as a Hugging Face folder; every rank takes part."""
        from steper_ray.training.student import export_student, gather_weights

        model = self.engine.module.model
        weights = gather_weights(model, keep=self.rank == 0)
        if self.rank == 0:
            task = self.task
            folder = Path(task.student_dir)
            export_student(
                weights, model.generation_config, task.model, folder, task.student_settings
            )


def _where(shown_3: Sequence[bool], value_3: Triple) -> Iterator[float | None]:
    return (value if shown else None for value, shown in zip(value_3, shown_3, strict=True))


def prepare_process(task: WorkerTask) -> None:
    """Settings of this process that must precede the first use of torch or DeepSpeed."""
    if not task.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Subprocesses of libraries that compile at first use look for ninja beside python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    import deepspeed.ops
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(task.threads)
    if not task.use_gpu:
        # Asked only whether DeepSpeed's shared-memory collective, for inference, can be compiled.
        # The question itself runs compilers for seconds; gloo does the work.
        deepspeed.ops.__compatible_ops__ = {}


def run_worker(task: WorkerTask) -> WorkerOutcome:
    """The Ray Train loop of one worker."""
    redirect_output(Path(task.log))
    prepare_process(task)
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    training = StudentTraining(task, rank, ranks, ray.train.torch.get_device())
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.restore(Path(folder))
    writer = MetricsWriter(Path(task.training_dir), training.step) if rank == 0 else None
    while training.step < training.steps:
        metrics = training.train_step()
        if writer is not None:
            writer.write(metrics)
        every = task.checkpoint_every_steps
        if training.step == training.steps or (every and training.step % every == 0):
            _report(training, metrics)
    if writer is not None:
        writer.close()
    training.export()
    assert training.last is not None
    data = training.data
    return WorkerOutcome(
        training.last, data.stage_counts, data.dropped_passages, training.separate_because
    )


def _report(training: StudentTraining, metrics: StepMetrics) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        training.save(Path(folder))
        ray.train.report(metrics.as_dict(), checkpoint=ray.train.Checkpoint.from_directory(folder))
