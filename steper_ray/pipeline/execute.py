"""Running stages under Ray: one, or a chain of them."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from steper_ray.errors import StageError, is_full_disk
from steper_ray.models.hub import use_hub
from steper_ray.pipeline.check import checked_session
from steper_ray.pipeline.jobs.live_state import reported
from steper_ray.pipeline.messages import write_summary
from steper_ray.pipeline.stages import ORDER, STAGES
from steper_ray.ray_runtime.logs import launch, stderr_to
from steper_ray.ray_runtime.progress import stage_done, stage_progress
from steper_ray.ray_runtime.waiting import telling_of_waits
from steper_ray.reasoning.demonstrations import check_room
from steper_ray.run.lock import check_free
from steper_ray.tasks import task_named

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


logger = logging.getLogger(__name__)


def run_stage(name: str, config: "RunConfig") -> float:
    """Run one stage under a progress line, in a running Ray if it needs one; returns its seconds."""
    stage = STAGES[name]
    started = time.monotonic()
    with (
        stage_progress(name, stage.doing) as progress,
        launch(config.folder.log(name), config.run.log_format) as log,
        stderr_to(log),
        telling_of_waits(name, limit_s=_seconds(config.run.wait_for_room_minutes)),
        reported(name, progress, log.folder),
    ):
        logger.info("steper %s starts in %s", name, config.folder.root)
        try:
            result = stage.run(config, progress)
        except Exception as error:
            logger.exception("steper %s failed", name)
            if is_full_disk(error):
                raise StageError(
                    f"{name}: no space left on the disk of {config.folder.root} or of Ray's temporary "
                    "folder; make room and give the same command again, it goes on from what is written"
                ) from error
            raise
        seconds = time.monotonic() - started
        logger.info("steper %s is done after %.0f s: %s", name, seconds, "; ".join(result.lines))
    write_summary(config.folder.summary(name), name, seconds, result.counts)
    stage_done(name, seconds, result.lines)
    return seconds


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes


def run_stages(names: Sequence[str], config: "RunConfig") -> None:
    """Run stages one after the other, in one Ray if any of them needs it."""
    from steper_ray.pipeline.ledger import forget  # which runs stages itself

    prepare(config, names)
    needs_ray = any(STAGES[name].needs_ray(config) for name in names)
    with checked_session(config) if needs_ray else nullcontext():
        for name in names:
            forget(name, config)
            run_stage(name, config)


def prepare(config: "RunConfig", stages: Sequence[str] = ()) -> None:
    """Reach the Hub as the settings say, and refuse before Ray starts what stages cannot run with.

    That is settings, and another command that writes to what they write.
    """
    use_hub(config.hub)
    check_room(config.reasoning)
    task_named(config.questions.task)
    if set(stages) & set(ORDER):
        check_free(config.folder.ledger)
    for name in stages:
        if (lease := STAGES[name].lease) is not None:
            check_free(getattr(config.folder, lease))
        if (check := STAGES[name].check) is not None:
            check(config)
