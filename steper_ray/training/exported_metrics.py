"""Metrics of a training for Prometheus, set by rank 0 after each step; `metrics.jsonl` is the record.

`cluster/grafana-training.json` draws them.
"""

from typing import Final

from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.metrics import Metric, RayMetrics
from steper_ray.training.metrics import StepMetrics

BY_ABILITY: Final = {
    "L": Metric("gauge", "L_j: mean loss of an ability's examples, in nats.", ("ability",)),
    "accuracy": Metric("gauge", "Share of target tokens that were likeliest.", ("ability",)),
    "sigma": Metric("gauge", "sigma_j after the step.", ("ability",)),
    "validation": Metric("gauge", "L_j over the held-out chains.", ("ability",)),
}
"""Fields of StepMetrics with a value for each ability."""


SINGLE: Final = {
    "step": Metric("gauge", "Optimizer steps done."),
    "steps": Metric("gauge", "Optimizer steps planned."),
    "loss": Metric("gauge", "L of the step."),
    "mix_loss": Metric("gauge", "Mean loss of the rows of train.mix, in nats."),
    "validation_loss": Metric("gauge", "Mean of L_j over the held-out chains, without sigma."),
    "lr": Metric("gauge", "Learning rate."),
    "grad_norm": Metric("gauge", "Gradient's norm before clipping."),
    "clipped_share": Metric("gauge", "Share of the steps so far whose gradient was clipped."),
    "tokens_per_second": Metric("gauge", "Tokens a second, as the examples have them."),
    "computed_tokens_per_second": Metric("gauge", "Tokens a second that went through the model."),
    "mfu": Metric("gauge", "Model FLOPs utilisation; on GPUs only."),
    "peak_memory_gib": Metric("gauge", "Most memory that rank 0 has held, in GiB."),
    "seconds": Metric("gauge", "Seconds of the step, without its validation."),
}
"""Fields of StepMetrics with one value."""


CHECKPOINT_SECONDS: Final = "steper_train_checkpoint_seconds"


def exported_name(field: str) -> str:
    """The metric of a field of StepMetrics; lower case, as the exporter makes all names."""
    return f"steper_train_{'ability_loss' if field == 'L' else field}"


METRICS: Final = {
    **{exported_name(field): metric for field, metric in (*BY_ABILITY.items(), *SINGLE.items())},
    CHECKPOINT_SECONDS: Metric("gauge", "Seconds that the newest checkpoint took."),
}


def training_metrics(log: LaunchLog) -> RayMetrics:
    """The metrics of a training of a launch."""
    return RayMetrics(METRICS, run=log.run)


def record_step(record: RayMetrics, metrics: StepMetrics) -> None:
    """Set what is known after a step; what it does not have (a validation) stays as it was."""
    for name in SINGLE:
        if (value := getattr(metrics, name)) is not None:
            record(exported_name(name), value)
    for name in BY_ABILITY:
        for ability, value in getattr(metrics, name).items():
            if value is not None:
                record(exported_name(name), value, ability=ability)
