"""`steper submit`: a stage, or a range of them, as a job of a Ray cluster."""

import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, Final

import steper_ray
from steper_ray.errors import InputError
from steper_ray.pipeline.jobs.client import (
    INTERRUPTED,
    RUN_DIR,
    STAGE,
    cluster_gpus,
    connect,
    exit_code,
    follow,
    ray_version,
    refusals,
    write_out,
)
from steper_ray.pipeline.jobs.files import (
    CarriedFiles,
    find_carried,
    run_folder,
    size_text,
    write_package,
)
from steper_ray.pipeline.jobs.live_state import JOB_ID
from steper_ray.pipeline.jobs.start import version_lines
from steper_ray.pipeline.stage_range import stages_of
from steper_ray.pipeline.stages import STAGES
from steper_ray.run.section import did_you_mean
from steper_ray.text import short_message

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

    from steper_ray.run.config import RunConfig

STOP_S: Final = 900
"""Seconds that a job has to end by itself when it is stopped; Ray gives three. A training writes a
checkpoint after the step under way, and one of a large model takes minutes."""


ALONE: Final = ("demo", "serve")
"""Commands besides stages that a job may run."""


UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


NOT_LOCKED: Final = {"ray", "pip", "setuptools", "wheel", "steper-ray"}
"""Distributions that the cluster has its own of, or that a job carries otherwise."""


def submit(
    config: "RunConfig",
    values: Mapping[str, Any],
    *,
    stage: str,
    address: str | None,
    detach: bool = False,
    pip_lock: bool = False,
    shared: Sequence[str] = (),
) -> int:
    """Submit a stage or a range of stages and follow its log; the job's own exit code.

    config, values:  the run file, with defaults and without
    pip_lock:        whether the job installs the packages of this machine
    shared:          folders that the cluster mounts at the same path, from which nothing is carried

    Raises InputError for what cannot be submitted.
    """
    command = job_command(stage)
    run_dir = run_folder(values)
    environment = job_environment(config)
    client = connect(address)
    carried = find_carried(values, shared)
    print(f"submit  {carried_line(carried)}", flush=True)
    versions = own_versions()
    for line in version_lines(versions, [], {"ray": ray_version(client)}):
        print(f"submit  {line}", flush=True)
    job = f"steper-{stage.replace('..', '-')}-{secrets.token_hex(3)}"
    runtime: dict[str, Any] = {"env_vars": {**environment, JOB_ID: job}}
    if pip_lock:
        runtime["pip"] = requirements = locked_requirements()
        if (remark := cpu_builds_line(requirements, cluster_gpus(client))) is not None:
            print(f"submit  {remark}", flush=True)
        runtime["py_modules"] = [str(Path(steper_ray.__file__).parent)]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "job.zip"
        write_package(
            package,
            values,
            carried,
            command=command,
            versions=versions,
            packages=needed_packages(),
        )
        with refusals(client.get_address()):
            client.submit_job(
                entrypoint="python start.py",
                submission_id=job,
                runtime_env={**runtime, "working_dir": str(package)},
                metadata={STAGE: stage, RUN_DIR: run_dir},
            )
    print(f"submit  job {job} on {client.get_address()}", flush=True)
    if detach:
        print(f"submit  {how_to_follow(job, client)}", flush=True)
        return 0
    return follow_until_end(client, job)


def job_command(stage: str) -> list[str]:
    """What the job gives `steper`, for a stage or a range. Raises InputError for what no job runs."""
    if ".." in stage:
        stages_of(stage)
        return ["run", stage]
    names = (*STAGES, *ALONE)
    if stage not in names:
        hint = (
            did_you_mean(stage, names) or f"a job runs one of {', '.join(names)}, or a range a..b"
        )
        raise InputError(f"submit: no stage {stage!r}; {hint}")
    return [stage]


def job_environment(config: "RunConfig") -> dict[str, str]:
    """Environment variables of the job: limits, and secrets that settings name and that are set here."""
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), "RAY_USAGE_STATS_ENABLED": "0"}
    for name in sorted(_variable_names(config.model_dump(mode="json"))):
        if value := os.environ.get(name):
            environment[name] = value
    return environment


def _variable_names(value: Any, key: str = "") -> set[str]:
    """The values of all settings whose name ends with `_env`."""
    if isinstance(value, Mapping):
        return {name for key, inner in value.items() for name in _variable_names(inner, str(key))}
    if isinstance(value, list | tuple):
        return {name for inner in value for name in _variable_names(inner, key)}
    return {value} if key.endswith("_env") and isinstance(value, str) and value else set()


def seconds_of(text: str) -> int:
    """Seconds of a duration as `90s`, `30m`, `2h` or `1d`. Raises InputError for others."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", text.strip())
    if match is None or (seconds := round(float(match[1]) * UNITS[match[2]])) < 1:
        raise InputError(f"--wait-for-room: {text!r} is no duration; write it as 90s, 30m or 2h")
    return seconds


def own_versions() -> dict[str, str]:
    """Versions of this machine that should be the cluster's too."""
    return {
        "python": python_version(),
        "ray": metadata.version("ray"),
        "steper_ray": steper_ray.__version__,
    }


def needed_packages() -> list[str]:
    """The distributions that steper_ray needs without any extra, and torch."""
    try:
        required = metadata.requires("steper_ray") or []
    except metadata.PackageNotFoundError:
        required = []
    names = [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in required if "extra ==" not in line]
    return sorted({*names, "torch"})


def locked_requirements() -> list[str]:
    """Packages of this machine with versions: of requirements.lock beside the code, else all installed."""
    lock = Path(steper_ray.__file__).parents[1] / "requirements.lock"
    if lock.is_file():
        lines = [
            line.split("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()
        ]
        pinned = [
            line.split()[0] for line in lines if re.match(r"[A-Za-z0-9._-]+(\[.*\])?==", line)
        ]
    else:
        pinned = [f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions()]
    kept = {line for line in pinned if _distribution(line) not in NOT_LOCKED}
    return sorted(kept, key=str.lower)


def cpu_builds_line(requirements: Sequence[str], gpus: float) -> str | None:
    """What is to be said of packages that are built for CPUs only; None where there is none.

    gpus: of the cluster
    Raises InputError on a cluster with GPUs, which these packages would leave idle.
    """
    builds = [line for line in requirements if re.search(r"\+cpu\b|^[^=]*-cpu(\[.*\])?==", line)]
    if not builds:
        return None
    if gpus:
        raise InputError(
            f"--pip-lock: {', '.join(builds)}: builds for CPUs, which would not use the {gpus:g} GPUs of "
            "the cluster; submit from an environment with the extra gpu, or leave --pip-lock out and "
            "install the packages on the cluster"
        )
    return (
        f"the job installs builds for CPUs: {', '.join(builds)}; no node that is up has a GPU, and pip "
        "on the cluster needs an index that has them"
    )


def _distribution(requirement: str) -> str:
    """The normal name of the distribution that a requirement asks for."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! ]", requirement)[0]).lower()


def carried_line(carried: Sequence[CarriedFiles]) -> str:
    """What a job carries, in words."""
    if not carried:
        return "carries the run file alone"
    count = sum(len(one.named.files) for one in carried)
    size = sum(one.named.size for one in carried)
    names = ", ".join(f"{one.named.setting} ({size_text(one.named.size)})" for one in carried)
    files = "file" if count == 1 else "files"
    return f"carries the run file and {count:,} {files}, {size_text(size)}: {names}"


def how_to_follow(job: str, client: "JobSubmissionClient") -> str:
    """What to type to follow a job later."""
    return f"follow it with: steper logs -f {job} --address {client.get_address()} --config …"


def follow_until_end(client: "JobSubmissionClient", job: str) -> int:
    """Follow the log of a job on standard output; its exit code. Ctrl-C stops or leaves it."""
    try:
        details = follow(client, job, write_out)
    except KeyboardInterrupt:
        return _stop_or_detach(client, job)
    if details.driver_exit_code is None and (message := details.message):
        print(f"submit  job {job}: {short_message(message, longest=500)}", file=sys.stderr)
    return exit_code(details)


def _stop_or_detach(client: "JobSubmissionClient", job: str) -> int:
    """After Ctrl-C: ask whether the job shall end; without a terminal leave it."""
    stop = False
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            stop = (
                input(f"\nstop the job {job}, or leave it running? [s/L] ").strip().lower() == "s"
            )
        except (KeyboardInterrupt, EOFError):
            print()
    if stop:
        return stop_job(client, job)
    print(f"submit  job {job} goes on; {how_to_follow(job, client)}", flush=True)
    return INTERRUPTED


def stop_job(client: "JobSubmissionClient", job: str) -> int:
    """Stop a job and wait for its end, with its log's last lines; its exit code."""
    with refusals(client.get_address()):
        running = client.stop_job(job)
    if not running:
        print(f"  stop  job {job} has ended already", flush=True)
        return exit_code(client.get_job_info(job))
    print(f"  stop  job {job} gets SIGTERM; a training writes a checkpoint first", flush=True)
    details = wait_for_end(client, job)
    print(f"  stop  job {job} has ended ({details.status.value.lower()})", flush=True)
    return exit_code(details)


def wait_for_end(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """The details of a job once it has ended."""
    while True:
        with refusals(client.get_address()):
            details = client.get_job_info(job)
        if details.status.is_terminal():
            return details
        time.sleep(1)
