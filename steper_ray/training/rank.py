"""The training of a student as one rank sees it: steps, validation, checkpoints, export.

All ranks run the same code on the same data order and differ only in which micro-batches they
compute. Per global batch they exchange, beside ZeRO's own traffic, the sums of example losses and
accuracies by ability; from these every rank knows L_j exactly and moves σ by itself.
"""

import json
import math
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.student_settings import student_settings
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.training.batches import (
    MicroBatch,
    cut_micro_batches,
    epoch_batches,
    hold_out,
    steps_per_epoch,
)
from steper_ray.training.deepspeed_config import deepspeed_config
from steper_ray.training.flops import model_flops, peak_flops
from steper_ray.training.metrics import StepMetrics
from steper_ray.training.objective import (
    Triple,
    ability_weights,
    count_abilities,
    example_weights,
    global_loss,
)
from steper_ray.training.packing import packed_length, visible_pairs
from steper_ray.training.schedule import learning_rate
from steper_ray.training.sigma import Sigma
from steper_ray.training.tokenization import TokenExample
from steper_ray.training.training_data import Unit, prepare_data
from steper_ray.training.validation import Validations, validation_loss
from steper_ray.training.worker_spec import WorkerTask, candidate_dir

if TYPE_CHECKING:
    from steper_ray.training.student import StudentLoss
    from steper_ray.training.tensors import Batch


BAD_BATCH_FILE: Final = "bad_batch.json"


class RankTraining:
    """The training of one run, as one rank sees it."""

    def __init__(
        self, task: WorkerTask, rank: int, ranks: int, device: Any, resume: Path | None = None
    ) -> None:
        """resume: a checkpoint to go on from, written by any number of workers

        Raises InputError for one that a newer version has written.
        """
        import deepspeed
        import torch
        from deepspeed.checkpoint.constants import (
            UNIVERSAL_CHECKPOINT_INFO,
            UNIVERSAL_CHECKPOINT_VERSION_KEY,
            UNIVERSAL_CHECKPOINT_VERSION_VALUE,
        )

        from steper_ray.training.attention import packing_obstacle
        from steper_ray.training.checkpoints import load_state
        from steper_ray.training.student import load_student

        self.task, self.rank, self.ranks, self.device = task, rank, ranks, device
        train = task.train
        tokenizer = load_tokenizer(train.model, task.hub, train.revision)
        self.pad = tokenizer.pad_token_id or 0
        self.student_settings = student_settings(
            task.reasoning,
            task.corpus_version,
            chat=PromptEncoder(tokenizer, task.reasoning.chat).chat,
            base=task.base_model,
        )
        model_config = load_model_config(train.model, task.hub, train.revision)
        self.model_config = model_config.get_text_config()
        obstacle = packing_obstacle(model_config)
        self.separate_because = obstacle if train.packing else "train.packing is false"
        self.packed = self.separate_because is None
        self.prepared = prepare_data(task, tokenizer, self.model_config, packed=self.packed)
        self.data = self.prepared.data
        self.chains, self.held_out = hold_out(self.data, train.validation_chains)
        self.steps_per_epoch = steps_per_epoch(len(self.chains), train.chains_per_batch)
        self.steps = self.steps_per_epoch * train.epochs

        state, sigma = load_state(resume) if resume else (None, None)
        foreign = state is not None and state["workers"] != ranks
        ds_config = deepspeed_config(
            zero_stage=train.zero_stage,
            bf16=task.bf16,
            gpu=train.use_gpu,
            lr=train.lr,
            weight_decay=train.weight_decay,
            max_grad_norm=train.max_grad_norm,
            offload_optimizer=train.offload_optimizer,
            offload_weights=train.offload_weights,
            offload_dir=train.offload_dir,
            universal=foreign and train.zero_stage > 0,
            overrides=train.deepspeed,
        )
        torch.manual_seed(task.seed)
        student: StudentLoss = load_student(
            train.model,
            dtype=torch.bfloat16 if task.bf16 else torch.float32,
            gradient_checkpointing=train.gradient_checkpointing,
            packed=self.packed,
            lora=train.lora,
            liger=train.use_gpu and find_spec("liger_kernel") is not None,
            zero3=ds_config if train.zero_stage == 3 else None,
            hub=task.hub,
            revision=train.revision,
        )
        # DeepSpeed writes it into ZeRO-1 and -2 checkpoints, which only then can be made universal.
        version = {UNIVERSAL_CHECKPOINT_VERSION_KEY: UNIVERSAL_CHECKPOINT_VERSION_VALUE}
        setattr(student, UNIVERSAL_CHECKPOINT_INFO, version)
        self.engine, *_ = deepspeed.initialize(
            model=student,
            model_parameters=[p for p in student.parameters() if p.requires_grad],
            config=ds_config,
        )
        if train.offload_weights != "nvme":
            student.loss_head.stay_gathered()
        self.sigma = Sigma(
            train.sigma_init,
            lr=train.sigma_lr,
            lowest=train.sigma_min,
            highest=train.sigma_max,
            optimizer=train.sigma_optimizer,
        )
        keep = train.num_to_keep if train.best_by == "em" else 1
        self.validations = Validations(keep=keep, patience=train.patience)
        self.step = 0
        self.last: StepMetrics | None = None
        self.saved = time.monotonic()
        """When the newest checkpoint was written."""
        self.save_due = False
        """Whether a checkpoint is due by the clock of rank 0; the same on every rank."""
        torch.manual_seed(task.seed + rank)
        if resume is not None:
            assert state is not None
            assert sigma is not None
            self._load_shards(resume, foreign=foreign)
            self._restore(resume, state, sigma)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or patience has run out."""
        return self.step == self.steps or self.validations.exhausted

    @property
    def validation_due(self) -> bool:
        """Whether the step just done is one to validate after."""
        every = self._validate_every
        return bool(self.held_out) and (self.step % every == 0 or self.step == self.steps)

    @property
    def validations_done(self) -> int:
        """Validations so far, those before a checkpoint included."""
        return -(-self.step // self._validate_every)

    @property
    def _validate_every(self) -> int:
        return self.task.train.validate_every_steps or self.steps_per_epoch

    @property
    def checkpoint_due(self) -> bool:
        """Whether the step just done is one to write a checkpoint after; the same on every rank."""
        every = self.task.train.checkpoint_every_steps
        return self.finished or self.save_due or (every > 0 and self.step % every == 0)

    def train_step(self) -> StepMetrics:
        """One global batch: forward, backward and update of the weights, then of σ.

        Raises StageError if the loss or the gradient is not finite; nothing was saved then.
        """
        train, engine = self.task.train, self.engine
        started = time.monotonic()
        epoch, position = divmod(self.step, self.steps_per_epoch)
        batch = epoch_batches(
            len(self.chains), train.chains_per_batch, seed=self.task.seed, epoch=epoch
        )[position]
        units = self._units([self.chains[place] for place in batch])
        examples = [example for unit in units for example in unit.examples]
        ability_E = [example.ability for example in examples]
        weight_A = ability_weights(train.objective, self.sigma.value_3, train.fixed_weights)
        weights = iter(example_weights(ability_E, weight_A))
        weights_of = [[next(weights) for _ in unit.examples] for unit in units]

        lr = learning_rate(self.step, self.steps, peak=train.lr, warmup_ratio=train.warmup_ratio)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        count_A = count_abilities(ability_E)
        loss_A, accuracy_3 = self._ability_means(self._forward_backward(units, weights_of), count_A)
        loss = global_loss(train.objective, loss_A, count_A, self.sigma.value_3, weight_A)
        self._check_finite("loss", loss, examples)
        grad_norm = self._update()
        self._check_finite("gradient norm", grad_norm, examples)
        if train.objective == "difficulty":
            self.sigma.update(loss_A, [count > 0 for count in count_A])
        self.step += 1
        seconds = time.monotonic() - started

        staged = train.objective != "vanilla-kd"
        L_init, L_exp, L_agg = _where(count_A if staged else (0, 0, 0), loss_A)
        accuracy_init, accuracy_exp, accuracy_agg = _where(
            count_A if staged else (0, 0, 0), accuracy_3
        )
        sigma_init, sigma_exp, sigma_agg = self.sigma.value_3
        self.last = StepMetrics(
            step=self.step,
            steps=self.steps,
            epoch=epoch + 1,
            loss=loss,
            L_init=L_init,
            L_exp=L_exp,
            L_agg=L_agg,
            perplexity_init=None if L_init is None else math.exp(L_init),
            perplexity_exp=None if L_exp is None else math.exp(L_exp),
            perplexity_agg=None if L_agg is None else math.exp(L_agg),
            accuracy_init=accuracy_init,
            accuracy_exp=accuracy_exp,
            accuracy_agg=accuracy_agg,
            sigma_init=sigma_init,
            sigma_exp=sigma_exp,
            sigma_agg=sigma_agg,
            lr=lr,
            grad_norm=grad_norm,
            tokens_per_second=sum(len(example.ids) for example in examples) / seconds,
            examples_per_second=len(examples) / seconds,
            mfu=self._utilisation(units, seconds),
            peak_memory_gib=self._peak_memory() / 2**30,
            examples=len(examples),
            seconds=seconds,
        )
        return self.last

    def validate(self) -> StepMetrics:
        """L_j over the held-out chains; writes the student to `candidates/` if it is one of the best.

        Returns the metrics of the step just done, with the validation's.
        """
        import torch

        assert self.last is not None
        units = self._units(self.held_out)
        sums = torch.zeros(2, 3, device=self.device)
        self.engine.eval()
        with torch.no_grad():
            for micro_batch, batch in self._micro_batches(units, None):
                _, nll_E, right_E = self.engine(batch)
                self._add(sums, micro_batch, units, nll_E, right_E)
        self.engine.train()
        count_A = count_abilities([e.ability for unit in units for e in unit.examples])
        loss_A, _ = self._ability_means(sums, count_A)
        loss = validation_loss(loss_A, count_A)
        kept, given_up = self.validations.add(loss, self.step)
        if kept:
            self.export()
        for step in given_up:
            self._remove_candidate(step)
        staged = self.task.train.objective != "vanilla-kd"
        init, exp, agg = _where(count_A if staged else (0, 0, 0), loss_A)
        self.last = replace(
            self.last,
            validation_loss=loss,
            validation_init=init,
            validation_exp=exp,
            validation_agg=agg,
        )
        return self.last

    def _units(self, chains: Sequence[list[int]]) -> list[Unit]:
        return [unit for chain in chains for unit in self.prepared.units(chain)]

    def _micro_batches(
        self, units: Sequence[Unit], weights_of: Sequence[Sequence[float]] | None
    ) -> "Iterator[tuple[MicroBatch, Batch]]":
        """This rank's share of the units, as tensors.

        weights_of: the weight in the loss of each example of each unit; None: nothing will be learned
        """
        from steper_ray.training.tensors import packed_batch, padded_batch

        lengths = [packed_length(unit.tree) for unit in units]
        micro_batches = cut_micro_batches(
            lengths, self.task.train.micro_batch_tokens, self.ranks, padded=not self.packed
        )[self.rank]
        for number, micro_batch in enumerate(micro_batches, 1):
            chosen = [units[i] for i in micro_batch.units]
            # DeepSpeed averages gradients over the ranks; L is their sum.
            factor = self.ranks * float(micro_batch.counted)
            weights = [
                factor * weight
                for i in micro_batch.units
                for weight in (weights_of[i] if weights_of else [0.0] * len(units[i].examples))
            ]
            last = number == len(micro_batches)
            self.engine.set_gradient_accumulation_boundary(last)
            if self.packed:
                chains = [unit.examples for unit in chosen]
                trees = [unit.tree for unit in chosen]
                yield micro_batch, packed_batch(chains, trees, weights, self.pad, self.device)
            else:
                examples = [example for unit in chosen for example in unit.examples]
                yield micro_batch, padded_batch(examples, weights, self.pad, self.device)

    def _forward_backward(
        self, units: Sequence[Unit], weights_of: Sequence[Sequence[float]]
    ) -> Any:
        """Gradients of this rank's share; (2, 3) fp32 sums of NLL and accuracy of examples by ability."""
        import torch

        sums = torch.zeros(2, 3, device=self.device)
        for micro_batch, batch in self._micro_batches(units, weights_of):
            loss, nll_E, right_E = self.engine(batch)
            self.engine.backward(loss)
            self._add(sums, micro_batch, units, nll_E, right_E)
        return sums

    def _update(self) -> float:
        """Clip the gradient and move the weights; the norm that the gradient had."""
        import torch

        if self.task.train.zero_stage == 0 and not self.task.bf16:
            # There DeepSpeed clips without keeping the norm.
            gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            self.engine.step()
            return norm
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def _add(
        self, sums: Any, micro_batch: MicroBatch, units: Sequence[Unit], nll_E: Any, right_E: Any
    ) -> None:
        import torch

        abilities = [example.ability for i in micro_batch.units for example in units[i].examples]
        values = torch.stack([nll_E, right_E]) * float(micro_batch.counted)
        sums.index_add_(1, torch.tensor(abilities, device=self.device), values)

    def _ability_means(self, sums: Any, count_A: Sequence[int]) -> tuple[Triple, Triple]:
        """L_j and accuracy of the global batch, 0 for an absent ability, the same on every rank."""
        import torch
        import torch.distributed as dist

        minutes = self.task.train.checkpoint_every_minutes
        late = self.rank == 0 and 0 < minutes < (time.monotonic() - self.saved) / 60
        shared = torch.cat([sums.flatten(), sums.new_tensor([late])])
        dist.all_reduce(shared)
        *values, late_ranks = shared.tolist()
        self.save_due = late_ranks > 0
        means = [
            value / max(1, count) for value, count in zip(values, (*count_A, *count_A), strict=True)
        ]
        init, exp, agg, right_init, right_exp, right_agg = means
        return (init, exp, agg), (right_init, right_exp, right_agg)

    def _check_finite(self, what: str, value: float, examples: Sequence[TokenExample]) -> None:
        """Raises StageError, and names the examples in a file, if a step came to no number."""
        if math.isfinite(value):
            return
        file = Path(self.task.training_dir) / BAD_BATCH_FILE
        if self.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            ids = [f"{example.chain_id}/{example.step}" for example in examples]
            content = json.dumps({"step": self.step + 1, "examples": ids}, indent=2)
            file.write_text(content + "\n", encoding="utf-8")
        raise StageError(
            f"train: the {what} of step {self.step + 1} is {value}; lower train.lr; "
            f"{file} has the examples, and the last checkpoint is kept"
        )

    def _utilisation(self, units: Sequence[Unit], seconds: float) -> float | None:
        """MFU; None on a CPU, on a GPU whose peak is not known, and for models with experts."""
        import torch

        if self.device.type != "cuda" or not self.task.bf16:
            return None
        peak = peak_flops(torch.cuda.get_device_name(self.device))
        if peak is None or getattr(self.model_config, "num_experts", None):
            return None
        model = self.engine.module.model
        tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        flops = model_flops(
            self.model_config,
            weights=sum(
                getattr(p, "ds_numel", p.numel()) for p in model.parameters() if id(p) not in tables
            ),
            tokens=sum(packed_length(unit.tree) for unit in units),
            pairs=sum(visible_pairs(unit.tree) for unit in units),
            supervised=sum(e.target_tokens for unit in units for e in unit.examples),
        )
        return flops / seconds / (peak * self.ranks)

    def _peak_memory(self) -> int:
        """Most bytes that this rank has held: of the GPU if it has one, else of the process."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def save(self, folder: Path) -> None:
        """Write this rank's part of a checkpoint."""
        from steper_ray.training.checkpoints import SHARDS_TAG, save_random_state, save_state

        assert self.last is not None
        self.engine.save_checkpoint(str(folder), tag=SHARDS_TAG)
        save_random_state(folder, self.rank)
        if self.rank == 0:
            state = {
                "workers": self.ranks,
                "validations": self.validations.state_dict(),
                "last": self.last.as_dict(),
            }
            save_state(folder, state, self.sigma.state_dict())
        self.saved = time.monotonic()

    def _load_shards(self, folder: Path, *, foreign: bool) -> None:
        """Weights and optimizer; `foreign` shards were written by another number of workers."""
        import torch.distributed as dist

        from steper_ray.training.checkpoints import SHARDS_TAG, UNIVERSAL_TAG, to_universal

        if not foreign or self.task.train.zero_stage == 0:
            self.engine.load_checkpoint(str(folder), tag=SHARDS_TAG)
            return
        between = Path(self.task.training_dir) / "universal"
        if self.rank == 0:
            shutil.rmtree(between, ignore_errors=True)
            between.mkdir(parents=True)
            to_universal(folder, between)
        dist.barrier()
        self.engine.load_checkpoint(str(between), tag=UNIVERSAL_TAG)
        dist.barrier()
        if self.rank == 0:
            shutil.rmtree(between)

    def _restore(self, folder: Path, state: dict[str, Any], sigma: dict[str, Any]) -> None:
        """σ, the place in the data, the record of validations, and the random states."""
        from steper_ray.training.checkpoints import load_random_state

        self.sigma.load_state_dict(sigma)
        self.validations.load_state_dict(state["validations"])
        self.last = StepMetrics(**state["last"])
        self.step = self.last.step
        load_random_state(folder, self.rank)

    def export(self) -> None:
        """Write the student to `candidates/` as a Hugging Face folder; every rank takes part."""
        from steper_ray.training.lora import merge_adapters
        from steper_ray.training.student import export_student, gather_weights

        train, model = self.task.train, self.engine.module.model
        weights = gather_weights(model, keep=self.rank == 0)
        if self.rank == 0:
            if train.lora is not None:
                weights = merge_adapters(weights, train.lora)
            export_student(
                weights,
                model.generation_config,
                train.model,
                candidate_dir(self.task.training_dir, self.step),
                self.student_settings,
                self.task.hub,
                train.revision,
            )

    def _remove_candidate(self, step: int) -> None:
        if self.rank == 0:
            shutil.rmtree(candidate_dir(self.task.training_dir, step), ignore_errors=True)


def _where(count_A: Sequence[int], value_3: Triple) -> Iterator[float | None]:
    """Each value, None where there is nothing that it is a mean of."""
    return (value if count else None for value, count in zip(value_3, count_A, strict=True))
