"""`steper select` for a run: selection with the data set's card and pictures, and its upload."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.models.push import check_repo_name, push_folder
from steper_ray.reports.dataset_card import write_card
from steper_ray.reports.histograms import write_histograms
from steper_ray.run.secrets import public_settings
from steper_ray.selection.select import SelectionSummary, select_examples

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


SETTINGS: Final = ("corpus", "questions", "reasoning", "engine", "build", "select")
"""Sections of the run file that `stats.json` and the card show."""


def select_run(config: "RunConfig", usage: Mapping[str, Any] | None = None) -> SelectionSummary:
    """Write verdicts, examples, statistics and card of a run, and upload them by `build.push_to_hub`.

    usage: the engines' usage in the build of the chains; None keeps that in `stats.json`
    Raises InputError as `select_examples` does, and if `build.push_to_hub` is no name of a repository.
    """
    check_push(config)
    sections = {name: getattr(config, name).model_dump(mode="json") for name in SETTINGS}
    selected = select_examples(
        config.select,
        chains=config.folder.chains,
        out=config.folder.dataset,
        stats=config.folder.stats,
        reasoning=config.reasoning,
        teachers=config.build.teachers,
        task=config.questions.task,
        usage=usage,
        recorded=public_settings(sections),
        decorate=add_card,
    )
    if config.build.push_to_hub is None:
        return selected
    address = push_folder(config.folder.dataset, config.build.push_to_hub, kind="dataset")
    return replace(selected, pushed=address)


def add_card(dataset: Path, stats: Mapping[str, Any]) -> None:
    """Write a data set's pictures, and its card that shows them, from its statistics."""
    write_histograms(stats["tokens"], dataset)
    write_card(dataset, stats, STEP_EXAMPLE_SCHEMA.names)


def check_push(config: "RunConfig") -> None:
    """Raises InputError if `build.push_to_hub` is no name of a repository."""
    if config.build.push_to_hub is not None:
        check_repo_name(config.build.push_to_hub, "build.push_to_hub")
