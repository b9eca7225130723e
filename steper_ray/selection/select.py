"""The select stage: choose among existing chains and write the step-wise examples."""

from dataclasses import replace
from typing import TYPE_CHECKING

from steper_ray.models.push import check_repo_name, push_folder
from steper_ray.run.lock import locked
from steper_ray.selection.dataset import SelectionSummary, select_chains

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def select_examples(config: "RunConfig") -> SelectionSummary:
    """Choose again among the chains that are there: `steper select`.

    Writes the verdicts into `chains/`, and `stepwise/` and `stats.json` anew; needs no teacher and no Ray,
    but takes the cluster's cores where Ray is connected. Pushes where `build.push_to_hub` says so.

    Raises InputError if there are no chains, they cannot be read, or somebody is writing them.
    """
    check_push(config)
    with locked(config.chains_dir):
        selected = select_chains(config)
    return replace(selected, pushed=push_examples(config))


def check_push(config: "RunConfig") -> None:
    """Raises InputError if `build.push_to_hub` is no name of a repository."""
    if config.build.push_to_hub is not None:
        check_repo_name(config.build.push_to_hub, "build.push_to_hub")


def push_examples(config: "RunConfig") -> str | None:
    """Upload `stepwise/` with its card if `build.push_to_hub` names a repository; returns its address."""
    if config.build.push_to_hub is None:
        return None
    return push_folder(config.dataset_dir, config.build.push_to_hub, kind="dataset")
