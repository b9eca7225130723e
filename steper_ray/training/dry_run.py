"""A dry run of a training: what it would take, from its data and a few measured steps.

The memory at other ZeRO stages is measured too, by a step with the largest micro-batch: what ZeRO gathers
and buffers for a while is no simple function of the model's size. A stage whose weights, gradients and
optimizer states alone (`state_bytes`) have no room is not tried.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import StageError
from steper_ray.models.loading import load_model_config
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.ray_runtime.logs import LaunchLog, launch
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.folder import RunFolder
from steper_ray.run.lock import locked
from steper_ray.selection.abilities import STEPER, AbilityScheme
from steper_ray.training.batches import MicroBatch, epoch_batches
from steper_ray.training.objective import ability_parts, count_abilities
from steper_ray.training.preparation import Progress
from steper_ray.training.probe import Probe, run_probe
from steper_ray.training.rank_data import RankData
from steper_ray.training.settings import AbilityMeans, TrainConfig
from steper_ray.training.storage import check_storage
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.train import check_settings, prepare_data
from steper_ray.training.trainer import run_workers
from steper_ray.training.worker_spec import WorkerTask, worker_task

if TYPE_CHECKING:
    from collections.abc import Sequence

STORAGE: Final = "dry-run"
"""Folder below the run's checkpoints, while the steps are measured."""


MEANS: Final[tuple[AbilityMeans, ...]] = ("batch", "expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingForecast:
    """What a training would take; tokens and steps are of all workers together."""

    chains: int
    held_out_chains: int
    examples: Mapping[str, int]
    """Examples by ability, those of held-out chains included."""
    other_examples: int
    """Examples that are not trained on: of other abilities, or the steps of whole paths."""
    dropped_passages: int
    example_tokens: Mapping[str, int]
    """`median`, `p95` and `longest` tokens of an example, its target included."""
    token_limit: int | None
    """Tokens that the model takes at most; None where its configuration does not say."""
    tokens: int
    """Of the examples of an epoch, and of its rows of `train.mix`."""
    computed_tokens: int
    """That go through the model in an epoch, shared prefixes once."""
    steps: int
    epochs: int
    waiting_share: float
    """Share of the workers' time that is spent waiting for the one with the longest micro-batch."""
    weight_variation: Mapping[int, Mapping[AbilityMeans, float]]
    """Chains in a batch → `weight_variation` with each way of taking the abilities' means."""
    probe: Probe
    zero_stage: int
    stage_bytes: Mapping[int, int | None]
    """Peak of a worker's memory by ZeRO stage; None where it does not fit."""
    hours: float
    """Of the optimizer steps, without validations and checkpoints."""


def dry_run(
    settings: TrainConfig,
    *,
    examples: Path,
    out: Path,
    seed: int = 0,
    reasoning: ReasoningConfig | None = None,
    hub: HubConfig = DEFAULTS,
    scheme: AbilityScheme = STEPER,
    prepared: Path | None = None,
    on_prepared: Progress | None = None,
) -> TrainingForecast:
    """What `train` would take with these arguments; Ray must be running.

    Prepares the training data, which `train` then finds, and measures a few steps on the workers.
    Raises the errors of `train`.
    """
    check_settings(settings)
    folder = RunFolder(out, out)
    with locked(folder.training):
        files = stepwise_files(examples)
        task = worker_task(
            settings.model_copy(update={"max_restarts": 0, "trackers": ()}),
            files,
            out=out,
            seed=seed,
            reasoning=reasoning or ReasoningConfig(),
            corpus_version="",
            hub=hub,
            scheme=scheme,
        )
        check_storage(out, None)
        task = prepare_data(task, prepared or folder.prepared, on_prepared)
        steps = measured_steps(
            RankData(task, rank=0, ranks=settings.max_workers, packed=_packs(task))
        )
        with launch(folder.log("train")) as log:
            probe = _probe(task, steps, folder, log)
            stage_bytes = {
                stage: probe.peak_bytes
                if stage == settings.zero_stage
                else _peak_at(stage, task, probe, steps[1:2], folder, log)
                for stage in _stages(task)
            }
    return forecast(task, probe, stage_bytes, sum(_rows(file) for file in files))


def _probe(task: WorkerTask, steps: "Sequence[int]", folder: RunFolder, log: LaunchLog) -> Probe:
    storage = folder.checkpoints.absolute() / STORAGE
    try:
        loop = partial(run_probe, steps=steps)
        return run_workers(task, loop, storage=storage, log=log, stoppable=False)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _stages(task: WorkerTask) -> "Sequence[int]":
    """ZeRO stages whose memory is measured; with offloading only the one that is set, with 4 bits no 3."""
    train = task.train
    if train.lora is not None and train.lora.quantize:
        return sorted({1, 2, train.zero_stage})
    offloads = train.offload_optimizer != "none" or train.offload_weights != "none"
    return [train.zero_stage] if offloads else sorted({1, 2, 3, train.zero_stage})


def _peak_at(
    stage: int,
    task: WorkerTask,
    probe: Probe,
    steps: "Sequence[int]",
    folder: RunFolder,
    log: LaunchLog,
) -> int | None:
    """Peak of a worker's memory at another ZeRO stage; None where it does not fit.

    probe: of the stage that is set
    """
    state = state_bytes(
        stage,
        trained=probe.trained_parameters,
        frozen=probe.frozen_parameters,
        workers=probe.workers,
        bf16=task.bf16,
    )
    if state > probe.room_bytes:
        return None
    other = replace(task, train=task.train.model_copy(update={"zero_stage": stage}))
    try:
        return _probe(other, steps, folder, log).peak_bytes
    except StageError as error:
        if "out of memory" not in str(error).lower():
            raise
        return None


def _packs(task: WorkerTask) -> bool:
    """Whether chains are probably packed, by the model's configuration."""
    from steper_ray.training.attention import packing_obstacle

    train = task.train
    config = load_model_config(train.model, task.hub, train.revision)
    return train.packing and packing_obstacle(config) is None


def _rows(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def measured_steps(data: RankData) -> list[int]:
    """Steps of the first epoch: one to warm up, the one with the largest micro-batch, and others.

    Where an epoch has one step, it is measured after itself.
    """
    sizes = [max(size for turn in _turns(data, step) for size in turn) for step in _epoch(data)]
    heaviest = max(_epoch(data), key=lambda step: sizes[step])
    others = [step for step in (0, len(sizes) // 3, 2 * len(sizes) // 3) if step != heaviest]
    return [0, heaviest, *dict.fromkeys(others)]


def _epoch(data: RankData) -> range:
    return range(data.steps_per_epoch)


def _turns(data: RankData, step: int) -> "list[list[int]]":
    """Tokens, padding included, that each rank computes in each turn of a step."""
    lengths = data.lengths(step)

    def size(batch: MicroBatch) -> int:
        own = [lengths[unit] for unit in batch.units]
        return sum(own) if data.packed else len(own) * max(own)

    return [
        [size(batch) if batch.counted else 0 for batch in turn]
        for turn in zip(*data.cut(lengths), strict=True)
    ]


def waiting_share(data: RankData) -> float:
    """Share of time that workers wait for the longest micro-batch of a turn; time is taken as tokens."""
    turns = [turn for step in _epoch(data) for turn in _turns(data, step)]
    return 1 - sum(map(sum, turns)) / sum(len(turn) * max(turn) for turn in turns)


def weight_variation(data: RankData, chains_per_batch: int, means: AbilityMeans) -> float:
    """How much the weights of examples vary between batches of so many chains.

    Standard deviation over an epoch, relative to the mean weight of the example's ability.
    """
    import numpy as np

    chains, trained_A = data.chains, data.trained_A
    weights_A: list[list[float]] = [[] for _ in trained_A]
    for batch in epoch_batches(len(chains), chains_per_batch, seed=0, epoch=0):
        index_E = [index for number in batch for index in chains[number]]
        count_A = count_abilities(data.stored.ability_E[index_E].tolist(), len(trained_A))
        part_A = ability_parts(count_A, trained_A, len(batch) / len(chains), means)
        for weights, count, part in zip(weights_A, count_A, part_A, strict=True):
            weights += [part / count] * count if count else []
    relative = [np.array(weights) / np.mean(weights) for weights in weights_A if weights]
    return float(np.concatenate(relative).std())


def forecast(
    task: WorkerTask, probe: Probe, stage_bytes: Mapping[int, int | None], rows: int
) -> TrainingForecast:
    """What a training would take, from its data and its measured steps.

    rows: of the step-wise examples on disk
    """
    import numpy as np

    train = task.train
    data = RankData(task, rank=0, ranks=probe.workers, packed=probe.separate_because is None)
    index_E = [index for chain in data.chains for index in chain]
    length_E = data.stored.length_E[index_E]
    computed = sum(sum(data.lengths(step)) for step in _epoch(data))
    mix = computed - sum(data.stored.unit_lengths(data.chains, packed=data.packed))
    about = data.stored.about
    examples = {name: about["examples"].get(name, 0) for name in task.scheme.names}
    config = load_model_config(train.model, task.hub, train.revision).get_text_config()
    median, p95 = (int(value) for value in np.quantile(length_E, (0.5, 0.95), method="higher"))
    return TrainingForecast(
        chains=len(data.chains),
        held_out_chains=len(data.held_out),
        examples=examples,
        other_examples=rows - sum(examples.values()),
        dropped_passages=data.stored.dropped_passages,
        example_tokens={"median": median, "p95": p95, "longest": int(length_E.max())},
        token_limit=getattr(config, "max_position_embeddings", None),
        tokens=int(length_E.sum()) + mix,
        computed_tokens=computed,
        steps=data.steps,
        epochs=train.epochs,
        waiting_share=waiting_share(data),
        weight_variation={
            chains: {means: weight_variation(data, chains, means) for means in MEANS}
            for chains in sorted({8, 32, train.chains_per_batch})
        },
        probe=probe,
        zero_stage=train.zero_stage,
        stage_bytes=stage_bytes,
        hours=train.epochs * computed / probe.tokens_per_second / 3600,
    )


def state_bytes(stage: int, *, trained: int, frozen: int, workers: int, bf16: bool) -> int:
    """Bytes of weights, gradients and optimizer states on one worker (docs/training.md, "Memory").

    trained, frozen: parameters; Adam's two moments, the master weights that ZeRO keeps, and the sum of the
    gradients are fp32
    """
    weight = 2 if bf16 else 4
    sharded = {0: 0, 1: 12, 2: 16, 3: 16 + weight}[stage]
    whole = {0: weight + 12, 1: weight + 4, 2: weight, 3: 0}[stage]
    frozen_bytes = frozen * weight / (workers if stage == 3 else 1)
    return round(trained * (whole + sharded / workers) + frozen_bytes)
