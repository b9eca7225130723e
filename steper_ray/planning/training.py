"""A forecast of a training as lines for people."""

from collections.abc import Mapping

from rich.filesize import decimal

from steper_ray.training.dry_run import TrainingForecast, state_bytes
from steper_ray.training.settings import TrainConfig


def forecast_lines(forecast: TrainingForecast, train: TrainConfig) -> list[str]:
    """What a training would take: data, steps, memory, hours."""
    steps = (
        f"steps: {forecast.steps:,}, of {train.chains_per_batch:,} chains (train.chains_per_batch), "
        f"epochs: {forecast.epochs:,}; workers wait {forecast.waiting_share:.1%} of the time for each other"
    )
    return [
        "dry run: nothing was trained",
        *_data_lines(forecast),
        steps,
        _weights_line(forecast),
        _memory_line(forecast, train),
        *_states_lines(forecast, train),
        _time_line(forecast, train),
    ]


def _data_lines(forecast: TrainingForecast) -> list[str]:
    examples = ", ".join(f"{ability} {count:,}" for ability, count in forecast.examples.items())
    held_out = ""
    if forecast.held_out_chains:
        held_out = f", and {forecast.held_out_chains:,} held out (train.validation_chains)"
    other = ""
    if forecast.other_examples:
        other = f"; {forecast.other_examples:,} not used (train.abilities, train.objective)"
    length = forecast.example_tokens
    limit = f" of {forecast.token_limit:,}" if forecast.token_limit is not None else ""
    layout = (
        f"computed {forecast.computed_tokens:,}, {forecast.tokens / forecast.computed_tokens:.2f} times "
        "fewer with common prefixes once"
    )
    if forecast.probe.separate_because is not None:
        layout = f"not packed: {forecast.probe.separate_because}"
    dropped = ""
    if forecast.dropped_passages:
        dropped = (
            f"; {forecast.dropped_passages:,} passages left out of prompts over "
            "reasoning.max_prompt_tokens"
        )
    lengths = (
        f"median {length['median']:,}, 95 % below {length['p95']:,}, longest {length['longest']:,}"
    )
    return [
        f"data: {forecast.chains:,} chains{held_out}; examples: {examples}{other}",
        f"tokens an example: {lengths}{limit}{dropped}",
        f"tokens an epoch: {forecast.tokens:,}; {layout}",
    ]


def _weights_line(forecast: TrainingForecast) -> str:
    parts = [
        f"at {chains:,} chains a batch {variation['batch']:.0%} and {variation['expected']:.0%}"
        for chains, variation in forecast.weight_variation.items()
    ]
    return (
        f"weights of examples vary by (train.ability_means batch and expected): {', '.join(parts)}"
    )


def _memory_line(forecast: TrainingForecast, train: TrainConfig) -> str:
    """Peak of a worker's memory, also at other ZeRO stages."""
    probe = forecast.probe
    where = f"{decimal(probe.room_bytes)} of a GPU" if train.use_gpu else "memory of a worker"
    stages = ", ".join(
        f"{stage}: {'does not fit' if size is None else decimal(size)}"
        for stage, size in forecast.stage_bytes.items()
        if stage != forecast.zero_stage
    )
    others = f"; at other stages {stages}" if stages else ""
    return f"{where}: {decimal(probe.peak_bytes)} at train.zero_stage {forecast.zero_stage}{others}"


def _states_lines(forecast: TrainingForecast, train: TrainConfig) -> list[str]:
    """The computed part of the memory that was measured."""
    probe = forecast.probe
    states = train_states(
        train,
        trained=probe.trained_parameters,
        frozen=probe.frozen_parameters,
        workers=probe.workers,
    )
    return [] if states is None else [states_line(states, train.zero_stage, probe.workers)]


def train_states(
    train: TrainConfig, *, trained: int, frozen: int, workers: int
) -> dict[int, int] | None:
    """ZeRO stage → bytes of weights, gradients and optimizer states on one worker.

    None with offloading and with 4-bit weights, where part of them lies elsewhere or in other types.
    """
    offloads = train.offload_optimizer != "none" or train.offload_weights != "none"
    if offloads or (train.lora is not None and train.lora.quantize is not None):
        return None
    bf16 = train.precision == "bf16" or (train.precision == "auto" and train.use_gpu)
    return {
        stage: state_bytes(stage, trained=trained, frozen=frozen, workers=workers, bf16=bf16)
        for stage in sorted({1, 2, 3, train.zero_stage})
    }


def states_line(stage_bytes: Mapping[int, int], zero_stage: int, workers: int) -> str:
    """Weights, gradients and optimizer states of a worker by ZeRO stage, which are arithmetic."""
    others = ", ".join(
        f"{stage}: {decimal(size)}" for stage, size in stage_bytes.items() if stage != zero_stage
    )
    beside = f" (at other stages {others})" if others else ""
    return (
        f"states of each of {workers} workers (weights, gradients, optimizer; computed): "
        f"{decimal(stage_bytes[zero_stage])} at train.zero_stage {zero_stage}{beside}"
    )


def _time_line(forecast: TrainingForecast, train: TrainConfig) -> str:
    probe = forecast.probe
    every = f"{train.checkpoint_every_minutes:g} minutes (train.checkpoint_every_minutes)"
    if train.checkpoint_every_steps:
        every = f"{train.checkpoint_every_steps:,} steps (train.checkpoint_every_steps)"
    elif not train.checkpoint_every_minutes:
        every = "training, at its end"
    return (
        f"time: {_hours(forecast.hours)} at {probe.tokens_per_second:,.0f} computed tokens a second "
        f"({probe.steps:,} steps measured); a checkpoint, each {every}, takes "
        f"{probe.checkpoint_seconds:.1f} s and {decimal(probe.checkpoint_bytes)}"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"
