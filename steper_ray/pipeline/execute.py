"""Runs one stage, or the command that `steper` was given, under Ray."""

import time
from typing import TYPE_CHECKING

from steper_ray.errors import StageError, is_full_disk
from steper_ray.models.hub import use_hub
from steper_ray.pipeline.stages import STAGES, is_small
from steper_ray.ray_runtime.logs import stderr_to
from steper_ray.ray_runtime.progress import stage_done, stage_progress
from steper_ray.ray_runtime.session import ray_session
from steper_ray.reasoning.demonstrations import complete_reasoning

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def run_stage(name: str, config: "RunConfig") -> float:
    """Run one stage under a progress line; returns its seconds."""
    stage = STAGES[name]
    started = time.monotonic()
    with stage_progress(name, stage.doing) as progress, stderr_to(config.folder.log(name)):
        try:
            lines = stage.run(config, progress)
        except Exception as error:
            if is_full_disk(error):
                raise StageError(
                    f"{name}: no space left on the disk of {config.folder.root} or of Ray's temporary "
                    "folder; make room and give the same command again, it goes on from what is written"
                ) from error
            raise
    seconds = time.monotonic() - started
    stage_done(name, seconds, lines)
    return seconds


def run_command(name: str, config: "RunConfig", *, update: bool = False) -> None:
    """Run a subcommand of `steper`.

    update: of `serve`: change the server that is running instead of starting one
    """
    use_hub(config.hub)
    complete_reasoning(config.reasoning)  # what is wrong with it is said before Ray starts
    if update:
        from steper_ray.serving.session import find_cluster, update_server

        find_cluster(config)
        with ray_session():
            update_server(config)
        return
    if name == "sweep":
        from steper_ray.sweep.space import check_space

        check_space(config.sweep, config.train)  # at once: Ray takes seconds to start
    if name == "toy" or (name == "select" and is_small(config.folder.chains)):
        run_stage(name, config)
        return
    with ray_session():
        if name == "demo":
            from steper_ray.pipeline.demo import demo

            demo(config)
        elif name == "serve":
            from steper_ray.serving.session import serve_until_interrupted

            serve_until_interrupted(config)
        else:
            run_stage(name, config)
