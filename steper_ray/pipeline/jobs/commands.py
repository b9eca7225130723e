"""The subcommands of `steper` for jobs on a cluster, and for runs that were started by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.pipeline.command import Command
from steper_ray.pipeline.stage import Option

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def run_submit(
    config: "RunConfig",
    *,
    stage: str,
    address: str | None,
    detach: bool,
    wait_for_room: str | None,
    pip_lock: bool,
    shared: Sequence[str],
    run_file: Path,
    overrides: Sequence[str],
) -> int:
    """Submit a stage or a range of stages to a cluster."""
    from steper_ray.pipeline.jobs.submit import seconds_of, submit
    from steper_ray.run.loading import load_values

    given = list(overrides)
    if wait_for_room is not None:
        given.append(f"run.wait_for_room_minutes={seconds_of(wait_for_room) / 60}")
    return submit(
        config,
        load_values(run_file, given),
        stage=stage,
        address=address,
        detach=detach,
        pip_lock=pip_lock,
        shared=shared,
    )


def run_status(config: "RunConfig", *, job: str, address: str | None, json: bool) -> int:
    """Show how far the stages of a run are."""
    from steper_ray.pipeline.jobs.status import show_status

    return show_status(config, job or None, address, as_json=json)


def run_logs(config: "RunConfig", *, job: str, address: str | None, follow: bool) -> int:
    """Print the log of a job, or of the newest stage."""
    from steper_ray.pipeline.jobs.status import show_log

    return show_log(config, job or None, address, follow_it=follow)


def run_stop(config: "RunConfig", *, job: str, address: str | None) -> int:
    """Stop a job, or the stage that runs on this machine."""
    from steper_ray.pipeline.jobs.status import stop

    return stop(config, job or None, address)


ADDRESS: Final = Option(
    "--address",
    "the cluster's dashboard, as http://host:8265; default: RAY_API_SERVER_ADDRESS or "
    "RAY_DASHBOARD_ADDRESS",
    metavar="URL",
)


JOB: Final = Option(
    "job",
    "id of a job; default: the newest of this run.dir. Without a cluster's address: what was started by "
    "hand in this run.dir",
    metavar="JOB",
    default="",
)


JOB_COMMANDS: Final = {
    "submit": Command(
        help="run a stage, or several (a..b), as a job of a Ray cluster, and follow it",
        packages=("pipeline/jobs",),
        sections=(),
        writes=("submitted",),
        options=(
            Option(
                "stage", "a stage, a range a..b as of steper run, demo or serve", metavar="STAGE"
            ),
            ADDRESS,
            Option("--detach", "do not follow the job's log"),
            Option(
                "--wait-for-room",
                "how long a stage waits for resources before it gives up, as 30m or 2h",
                metavar="TIME",
            ),
            Option(
                "--pip-lock",
                "have the job install the packages of this machine, with this steper_ray",
            ),
            Option(
                "--shared",
                "a folder that the cluster mounts at the same path: nothing of it is carried; may be given "
                "several times",
                metavar="FOLDER",
                repeated=True,
            ),
        ),
        has_job=False,
        run=run_submit,
        takes_run_file=True,
    ),
    "status": Command(
        help="how far the stages of a run are: jobs of a cluster, or what was started by hand",
        packages=("pipeline/jobs",),
        sections=(),
        options=(JOB, ADDRESS, Option("--json", "print it as JSON, for programs")),
        has_job=False,
        run=run_status,
    ),
    "logs": Command(
        help="print the log of a job, or of the newest stage that was started by hand",
        packages=("pipeline/jobs",),
        sections=(),
        options=(JOB, ADDRESS, Option("--follow", "go on until it ends", short="-f")),
        has_job=False,
        run=run_logs,
    ),
    "stop": Command(
        help="stop a job, or the stage that runs here; a training writes a checkpoint first",
        packages=("pipeline/jobs",),
        sections=(),
        options=(JOB, ADDRESS),
        has_job=False,
        run=run_stop,
    ),
}
"""These commands by name."""
