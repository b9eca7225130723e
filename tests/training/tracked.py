"""Metrics of made-up steps, and what trackers show of them."""

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from steper_ray.selection.abilities import STEPER
from steper_ray.training.metrics import BY_ABILITY, StepMetrics


def at(step: int) -> StepMetrics:
    """Metrics of a step: its loss is 1 / step, and it had no exp example."""
    values: dict[str, Any] = {"step": step, "steps": 9, "loss": 1 / step}
    values |= {"L_exp": None, "accuracy_exp": None}
    columns = {field.name: values.get(field.name, 0.5) for field in fields(StepMetrics)}
    columns |= {
        name: {a: values.get(f"{name}_{a}", 0.5) for a in STEPER.names} for name in BY_ABILITY
    }
    return StepMetrics(**columns)


def losses(until: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in range(1, until + 1)]


def single_precision(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """As TensorBoard keeps them."""
    return [(step, float(np.float32(value))) for step, value in points]


def board_points(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """Each scalar's points, and the texts, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not (folder / "tensorboard").is_dir():
        return {}, []
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    scalars = {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }
    texts = [
        event.tensor_proto.string_val[0].decode()
        for name in board.Tags()["tensors"]
        for event in board.Tensors(name)
    ]
    return scalars, texts


def wait_until(true: Callable[[], bool]) -> None:
    """A tracker is told from a thread of its own."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
