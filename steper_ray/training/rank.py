"""The training of a student as one rank sees it: optimizer steps, validations, checkpoints.

All ranks run the same code on the same data order and differ only in which micro-batches they
compute. Per global batch they exchange, beside ZeRO's own traffic, the sums of example losses and
accuracies by ability; from these every rank knows L_j exactly and moves σ by itself.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from steper_ray.models.loading import load_model_config
from steper_ray.models.student_settings import student_settings
from steper_ray.training.all_ranks import agreed, check_finite, largest
from steper_ray.training.deepspeed_engine import start_engine, update_weights
from steper_ray.training.flops import peak_memory, seconds_at_peak
from steper_ray.training.loss_sums import ability_means, add_losses, zero_sums
from steper_ray.training.metrics import StepMetrics
from steper_ray.training.objective import (
    PerAbility,
    WeightInputs,
    ability_parts,
    example_weights,
    global_loss,
    gradient_shares,
    objective_named,
    with_mix,
)
from steper_ray.training.rank_data import GlobalBatch, RankData
from steper_ray.training.schedule import learning_rate
from steper_ray.training.sigma import Sigma
from steper_ray.training.tokenization import TokenExample
from steper_ray.training.validation import Validations, validation_loss, validations_at
from steper_ray.training.worker_spec import STOP_FILE, WorkerTask

ASK_EVERY_S: Final = 5.0
"""Seconds between two questions to Ray whether a node is about to be taken away; it looks as often."""


MAX_EXPONENT: Final = 700.0
"""Of a loss in nats, for its perplexity: beyond it a float overflows."""


class RankTraining:
    """The training of one run, as one rank sees it."""

    def __init__(
        self, task: WorkerTask, rank: int, ranks: int, device: Any, resume: Path | None = None
    ) -> None:
        """resume: a checkpoint to resume from, written by any number of workers

        Raises AllRanksError for one that a newer version has written, and for a model whose loss cannot be
        learned from.
        """
        import torch

        self.task, self.rank, self.ranks, self.device = task, rank, ranks, device
        self.objective = objective_named(task.train.objective)
        state, sigma_state = agreed(lambda: self._open(resume), ranks)
        torch.manual_seed(task.seed)
        self.engine = start_engine(task, packed=self.data.packed)
        self._check_loss()
        train = task.train
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
        self._example_losses: list[tuple[list[TokenExample], Any]] = []
        """Of the step at work: each micro-batch's examples, and their NLL on the device."""
        self.saved = time.monotonic()
        """When the newest checkpoint was written."""
        self.asked = time.monotonic()
        """When Ray was last asked whether a node is about to be taken away."""
        self.save_due = self.stop_due = self.ask_due = False
        """What rank 0 found to be due, the same on every rank: a checkpoint, by the clock; to stop, as the
        user wants; to ask Ray about its nodes."""
        torch.manual_seed(task.seed + rank)
        if resume is not None:
            assert state is not None
            assert sigma_state is not None
            self._restore(resume, state, sigma_state)

    def _open(self, resume: Path | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Open the training data, and the checkpoint: the state that ranks share, and that of σ."""
        from steper_ray.training.checkpoints import load_state

        self._open_data()
        return load_state(resume) if resume else (None, None)

    def _open_data(self) -> None:
        """Open the training data, hold chains out, and decide whether chains are packed."""
        from steper_ray.training.attention import packing_obstacle

        task, train = self.task, self.task.train
        model_config = load_model_config(train.model, task.hub, train.revision)
        self.model_config = model_config.get_text_config()
        obstacle = packing_obstacle(model_config)
        self.separate_because = obstacle if train.packing else "train.packing is false"
        packed = self.separate_because is None
        self.data = RankData(task, rank=self.rank, ranks=self.ranks, packed=packed)
        self.student_settings = student_settings(
            task.reasoning,
            task.corpus_version,
            chat=self.data.stored.about["chat"],
            base=task.base_model,
            abilities=task.scheme.record(),
        )

    def _check_loss(self) -> None:
        """Compute the loss in ways that are right for this model; see `head_check.py`."""
        from steper_ray.training.head_check import check_loss

        stored, device = self.data.stored, self.device

        def check() -> str | None:
            return check_loss(
                self.engine,
                stored.example(self.data.chains[0][0]),
                model=self.task.train.model,
                packed=self.data.packed,
                pad=stored.about["pad"],
                device=device,
                agree=lambda value: largest(value, device),
            )

        if (obstacle := agreed(check, self.ranks)) is not None:
            self.separate_because, self.data.packed = obstacle, False

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.data.steps

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or patience has run out."""
        return self.step == self.steps or self.validations.exhausted

    @property
    def _clipped_steps(self) -> int:
        """How many of the steps so far had their gradient clipped; older checkpoints do not say."""
        return 0 if self.last is None else round((self.last.clipped_share or 0.0) * self.step)

    @property
    def validation_due(self) -> bool:
        """Whether a validation follows the last step."""
        every = self._validate_every
        return bool(self.data.held_out) and (self.step % every == 0 or self.step == self.steps)

    @property
    def validations_done(self) -> int:
        """Number of validations so far, those before a resumed checkpoint included."""
        if not self.data.held_out:
            return 0
        return validations_at(self.step, self.steps, self._validate_every)

    @property
    def _validate_every(self) -> int:
        return self.task.train.validate_every_steps or self.data.steps_per_epoch

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint follows the last step; the same on every rank."""
        every = self.task.train.checkpoint_every_steps
        return (
            self.finished
            or self.save_due
            or self.stop_due
            or (every > 0 and self.step % every == 0)
        )

    def train_step(self) -> StepMetrics:
        """One global batch: forward, backward and update of the weights, then of σ.

        Raises AllRanksError if the loss or the gradient is not finite; nothing was saved then.
        """
        train, data = self.task.train, self.data
        started = time.monotonic()
        batch = data.global_batch(self.step)
        count_A = batch.count_by_ability(len(self.task.scheme.names))
        part_A = ability_parts(count_A, data.trained_A, batch.chain_share, train.ability_means)
        sigma_A = self.sigma.value_A
        weight_A = self.objective.weights(
            WeightInputs(sigma_A, train.fixed_weights, self.step, self.steps)
        )
        shares = zip(gradient_shares(weight_A, data.trained_A), part_A, strict=True)
        share_A = tuple(share * part for share, part in shares)
        if train.mix is not None:
            share_A = with_mix(share_A, train.mix.weight)
        weight_E = example_weights([example.ability for example in batch.examples], share_A)
        lr = self._set_learning_rate()

        sums = self._sum_over_ranks(self._forward_backward(batch, weight_E))
        loss_A, accuracy_A = ability_means(sums, count_A)
        loss = global_loss(self.objective, loss_A, part_A, sigma_A, weight_A)
        mix_loss = None
        if train.mix is not None:
            mix_loss = float(sums[0, -1]) / batch.mix_rows
            loss += train.mix.weight * mix_loss
        self._check_finite("loss", loss)
        keeps_norm = train.zero_stage > 0 or self.task.bf16
        grad_norm = update_weights(self.engine, keeps_norm=keeps_norm)
        self._check_finite("gradient norm", grad_norm)
        if self.objective.learns_sigma:
            self.sigma.update(loss_A, part_A)
        clipped = self._clipped_steps + (grad_norm > (train.max_grad_norm or math.inf))
        self.step += 1
        names = self.task.scheme.names
        losses = self._by_ability(loss_A, count_A)
        self.last = StepMetrics(
            step=self.step,
            steps=self.steps,
            epoch=(self.step - 1) // data.steps_per_epoch + 1,
            loss=loss,
            mix_loss=mix_loss,
            L=losses,
            perplexity={
                a: None if L is None else math.exp(min(L, MAX_EXPONENT)) for a, L in losses.items()
            },
            accuracy=self._by_ability(accuracy_A, count_A),
            sigma=dict(zip(names, self.sigma.value_A, strict=True)),
            lr=lr,
            grad_norm=grad_norm,
            clipped_share=clipped / self.step,
            **self._speed(batch, time.monotonic() - started),
            validation_loss=None,
            validation=dict.fromkeys(names),
        )
        return self.last

    def _set_learning_rate(self) -> float:
        """Set the learning rate of the step that comes; returns it."""
        train = self.task.train
        peak, warmup = train.peak_lr, train.warmup_ratio
        lr = learning_rate(self.step, self.steps, peak=peak, warmup_ratio=warmup)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _speed(self, batch: GlobalBatch, seconds: float) -> dict[str, Any]:
        """Fields of StepMetrics about a step's work, and the machine's."""
        model, examples = self.engine.module.model, len(batch.examples) - batch.mix_rows
        at_peak = seconds_at_peak(model, self.model_config, batch.units, self.device)
        return {
            "tokens_per_second": sum(len(example.ids) for example in batch.examples) / seconds,
            "computed_tokens_per_second": sum(batch.lengths) / seconds,
            "examples_per_second": examples / seconds,
            # The peak is that of bf16.
            "mfu": at_peak / seconds / self.ranks if at_peak and self.task.bf16 else None,
            "peak_memory_gib": peak_memory(self.device) / 2**30,
            "examples": examples,
            "seconds": seconds,
        }

    def validate(self) -> StepMetrics:
        """L_j over the held-out chains; writes the student to `candidates/` if it is one of the best.

        Returns the metrics of the last step, with the validation's.
        """
        import torch

        assert self.last is not None
        batch = self.data.validation_batch()
        sums = self._zero_sums()
        self.engine.eval()
        with torch.no_grad():
            for micro_batch, tensors, _ in self.data.micro_batches(batch, None, self.device):
                _, nll_E, right_E = self.engine(tensors)
                examples = batch.examples_of(micro_batch)
                add_losses(sums, examples, nll_E, right_E, counted=micro_batch.counted)
        self.engine.train()
        count_A = batch.count_by_ability(len(self.task.scheme.names))
        loss_A, _ = ability_means(self._sum_over_ranks(sums), count_A)
        loss = validation_loss(loss_A, count_A)
        if self.validations.add(loss, self.step):
            self.export()
        self.last = replace(
            self.last, validation_loss=loss, validation=self._by_ability(loss_A, count_A)
        )
        return self.last

    def _by_ability(self, value_A: PerAbility, count_A: Sequence[int]) -> dict[str, float | None]:
        """Each mean by the ability's name; None for an absent ability, and for whole paths."""
        names = self.task.scheme.names
        if self.objective.whole_path:
            return dict.fromkeys(names)
        return {
            name: value if count else None
            for name, value, count in zip(names, value_A, count_A, strict=True)
        }

    def _forward_backward(self, batch: GlobalBatch, weight_E: Sequence[float]) -> Any:
        """Compute the gradients of this rank's share; returns its sums, as `zero_sums` has them."""
        sums = self._zero_sums()
        self._example_losses = []
        for micro_batch, tensors, last in self.data.micro_batches(batch, weight_E, self.device):
            self.engine.set_gradient_accumulation_boundary(last)
            loss, nll_E, right_E = self.engine(tensors)
            self.engine.backward(loss)
            examples = batch.examples_of(micro_batch)
            add_losses(sums, examples, nll_E, right_E, counted=micro_batch.counted)
            self._example_losses.append((examples, nll_E))
        return sums

    def _zero_sums(self) -> Any:
        return zero_sums(len(self.task.scheme.names), self.device)

    def _sum_over_ranks(self, sums: Any) -> Any:
        """Sums of all ranks, on the CPU; also sets what is due on all ranks.

        In one all-reduce: every step waits for it.
        """
        import torch
        import torch.distributed as dist

        due = self._due() if self.rank == 0 else (False, False, False)
        shared = torch.cat([sums.flatten(), sums.new_tensor(due)])
        dist.all_reduce(shared)
        shared = shared.cpu()
        self.save_due, self.stop_due, self.ask_due = (shared[-len(due) :] > 0).tolist()
        return shared[: -len(due)].view(sums.shape)

    def _due(self) -> tuple[bool, bool, bool]:
        """Whether a checkpoint is due by the clock, whether to stop, and whether to ask Ray."""
        now, minutes = time.monotonic(), self.task.train.checkpoint_every_minutes
        stop = (Path(self.task.training_dir) / STOP_FILE).exists()
        return 0 < minutes < (now - self.saved) / 60, stop, now - self.asked > ASK_EVERY_S

    def _check_finite(self, quantity: str, value: float) -> None:
        """See `check_finite`; of the step at work."""
        folder, losses = Path(self.task.training_dir), self._example_losses
        check_finite(quantity, value, self.step + 1, losses=losses, rank=self.rank, folder=folder)

    def save(self, folder: Path) -> None:
        """Write this rank's part of a checkpoint."""
        from steper_ray.training.checkpoints import (
            save_random_state,
            save_shards,
            save_state,
            shards_of,
        )

        assert self.last is not None
        save_shards(self.engine, folder)
        save_random_state(folder, self.rank)
        if self.rank == 0:
            state = {
                "workers": self.ranks,
                "shards": shards_of(self.task.train),
                "abilities": self.task.scheme.record(),
                "validations": self.validations.state_dict(),
                "last": self.last.as_row(),
            }
            save_state(folder, state, self.sigma.state_dict())
        self.saved = time.monotonic()

    def _restore(self, folder: Path, state: dict[str, Any], sigma_state: dict[str, Any]) -> None:
        """Restore weights, optimizer, σ, the position in the data, validations and random states."""
        from steper_ray.training.candidates import has_candidate
        from steper_ray.training.checkpoints import fits, load_random_state, load_shards

        self.last = StepMetrics.from_row(state["last"], self.task.scheme.names)
        if fits(folder, state, self.task.train, self.ranks):
            load_shards(self.engine, folder)
        else:
            from steper_ray.training.conversion import load_converted

            scratch = Path(self.task.training_dir)
            load_converted(self.engine, folder, step=self.last.step, scratch=scratch)
        self.sigma.load_state_dict(sigma_state)
        self.validations.load_state_dict(state["validations"])
        best = self.validations.best
        self.validations.best = [one for one in best if has_candidate(self.task, one[1])]
        self.step = self.last.step
        load_random_state(folder, self.rank)

    def export(self) -> None:
        """Write the student of this step to `candidates/`; every rank takes part."""
        from steper_ray.training.candidates import export_candidate

        model, settings = self.engine.module.model, self.student_settings
        export_candidate(model, self.task, self.step, settings, rank=self.rank)
