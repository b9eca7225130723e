"""`steper status`, `steper logs`, `steper stop`: for jobs of a cluster and stages started by hand."""

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.pipeline.jobs.client import (
    STAGE,
    connect,
    exit_code,
    find_address,
    follow,
    job_details,
    job_state,
    jobs_of_run,
    last_line,
    refusals,
    write_out,
)
from steper_ray.pipeline.jobs.live_state import (
    StageState,
    is_running,
    read_states,
)
from steper_ray.run.process import process_runs
from steper_ray.text import short_message

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

    from steper_ray.run.config import RunConfig

DRIVER_LOG: Final = "driver-0.log"


LOOK_EVERY_S: Final = 1.0


OF_JOBS: Final = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
"""Ray's status of a job → ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What is known of a stage: from its job, from its own state, or from both."""

    stage: str
    """A stage; of a job whose stage has not begun, what was submitted."""
    status: str
    """pending, running, done, failed, stopped; `lost` without a sign of life."""
    job: str | None = None
    exit_code: int | None = None
    message: str = ""
    """What ended it, or the last line of its log."""
    state: StageState | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        state = self.state
        values = asdict(state) if state is not None else {}
        values |= {"stage": self.stage, "status": self.status, "job": self.job}
        values |= {"exit_code": self.exit_code, "message": self.message}
        values["per_second"] = state.per_second if state is not None else None
        values.pop("ended", None)
        return values

    def lines(self) -> list[str]:
        """What a person is told."""
        head = f"{self.stage:>6}  {self.status}"
        if self.exit_code:
            head += f" with exit code {self.exit_code}"
        if self.job is not None:
            head += f", job {self.job}"
        rest: list[str] = []
        if (state := self.state) is not None:
            seconds = (time.time() if self.status == "running" else state.updated) - state.started
            head += f", {timedelta(seconds=round(seconds))} on {state.host} (process {state.pid})"
            rest += _state_lines(state, running=self.status == "running")
        if self.message:
            rest.append(self.message)
        return [head, *(f"{'':>6}  {line}" for line in rest)]


def _state_lines(state: StageState, *, running: bool) -> list[str]:
    """Progress, speed and resources of a stage."""
    lines = []
    if state.total:
        progress = f"{state.done:,g} of {state.total:,g}"
        if state.detail:
            progress += f": {state.detail}"
        if (speed := state.per_second) is not None:
            progress += f", {speed:,.3g} a second since the start"
        lines.append(progress)
    if running and (state.granted or state.waits_for):
        lines.append(f"has {_requests(state.granted)}; waits for {_requests(state.waits_for)}")
    return lines


def _requests(requests: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × ({amount})" for amount, count in requests.items()) or "nothing"


def show_status(
    config: "RunConfig", job: str | None, address: str | None, *, as_json: bool = False
) -> int:
    """Print how far the stages of a run are; of a job, if one is given."""
    reports = []
    if find_address(address) is not None:
        client = connect(address)
        run_dir = str(config.folder.root)
        jobs = [job_details(client, job)] if job else jobs_of_run(client, run_dir)
        reports = [_job_report(client, details) for details in jobs]
    elif job:
        raise _no_cluster(job)
    if not job:
        known = {report.job for report in reports}
        states = read_states(config.folder.logs).values()
        reports += [_hand_report(state) for state in states if state.job not in known - {None}]
    if as_json:
        print(json.dumps([report.as_json() for report in reports], ensure_ascii=False, indent=2))
        return 0
    for line in (line for report in reports for line in report.lines()):
        print(line)
    if not reports:
        print(f"nothing has run in {config.folder.root}, as far as is known here")
    return 0


def _no_cluster(job: str) -> InputError:
    return InputError(
        f"{job}: which cluster is it on? give --address http://host:8265, or set RAY_API_SERVER_ADDRESS"
    )


def _job_report(client: "JobSubmissionClient", details: "JobDetails") -> StageReport:
    """What is known of a job."""
    job, status = str(details.submission_id), OF_JOBS[str(details.status.value)]
    state = job_state(client, details)
    ended = details.status.is_terminal()
    message = ""
    silent = state is None or not (state.error or (state.detail and not ended))
    if status in ("failed", "running", "pending") and silent:
        message = last_line(client, job) or short_message(details.message or "")
    elif state is not None and state.error and status == "failed":
        message = state.error
    submitted = (details.metadata or {}).get(STAGE, "job")
    return StageReport(
        stage=state.stage if state is not None else submitted,
        status=status,
        job=job,
        exit_code=exit_code(details) if ended else None,
        message=message,
        state=state,
    )


def _hand_report(state: StageState) -> StageReport:
    """What is known of a stage that was started by hand, or by a job that is not asked about."""
    status = state.ended or ("running" if is_running(state) else "lost")
    message = state.error or ""
    if status == "lost":
        message = "it gives no sign of life: its process was killed, or its machine is gone"
    return StageReport(
        stage=state.stage, status=status, job=state.job, message=message, state=state
    )


def _job_of(
    config: "RunConfig", job: str | None, address: str | None
) -> "tuple[JobSubmissionClient, JobDetails] | None":
    """The job that is meant: the one that is named, else of the run the one that runs, else the newest.

    None where no cluster is named, or where what runs, or ran last, was started by hand.
    Raises InputError for a job that there is not, or that is on a cluster that is not named.
    """
    if find_address(address) is None:
        if job:
            raise _no_cluster(job)
        return None
    client = connect(address)
    if job:
        return client, job_details(client, job)
    jobs = jobs_of_run(client, str(config.folder.root))
    running = [one for one in jobs if not one.status.is_terminal()]
    by_hand = [one for one in read_states(config.folder.logs).values() if one.job is None]
    if not jobs and not by_hand:
        raise InputError(
            f"no job of {config.folder.root} on {client.get_address()}; check run.dir, or give a job's id"
        )
    if running or not by_hand:
        return client, (running or jobs)[-1]
    newer = not jobs or by_hand[-1].started > (jobs[-1].start_time or 0) / 1000
    return None if newer or is_running(by_hand[-1]) else (client, jobs[-1])


def show_log(
    config: "RunConfig", job: str | None, address: str | None, *, follow_it: bool = False
) -> int:
    """Print a log, and follow it to its end; of a job that is followed its exit code, else 0."""
    if (found := _job_of(config, job, address)) is not None:
        client, details = found
        name = str(details.submission_id)
        if follow_it:
            return exit_code(follow(client, name, write_out))
        with refusals(client.get_address()):
            write_out(client.get_job_logs(name))
        return 0
    states = read_states(config.folder.logs)
    if not states:
        raise InputError(f"{config.folder.logs}: no log of a stage; has one run in this run.dir?")
    folder, state = list(states.items())[-1]
    at = _print_from(folder / DRIVER_LOG, 0)
    while follow_it and (is_running(state) or _process_runs(state)):
        time.sleep(LOOK_EVERY_S)
        at = _print_from(folder / DRIVER_LOG, at)
        newest, state = list(read_states(config.folder.logs).items())[-1]
        if newest != folder:  # the next stage of the same command
            folder, at = newest, 0
    if follow_it:
        _print_from(folder / DRIVER_LOG, at)
    return 0


def _process_runs(state: StageState) -> bool:
    """Whether the command of a stage runs on this machine, if only on its way to the next stage."""
    return state.host == socket.gethostname() and process_runs(state.pid, state.process_started)


def _print_from(file: Path, at: int) -> int:
    """Print what a file has behind a position; its length."""
    if not file.exists():
        return at
    with file.open(encoding="utf-8", errors="replace") as opened:
        opened.seek(at)
        write_out(opened.read())
        return opened.tell()


def stop(config: "RunConfig", job: str | None, address: str | None) -> int:
    """Stop a job, or the stage that runs on this machine, and wait for its end."""
    from steper_ray.pipeline.jobs.submit import stop_job

    if (found := _job_of(config, job, address)) is not None:
        client, details = found
        stop_job(client, str(details.submission_id))
        return 0
    running = [state for state in read_states(config.folder.logs).values() if is_running(state)]
    if not running:
        raise InputError(f"{config.folder.root}: no stage of this run is running")
    state = running[-1]
    if state.host != socket.gethostname():
        raise InputError(
            f"{state.stage} runs on {state.host}, not on this machine; give the same command there"
        )
    os.kill(state.pid, signal.SIGTERM)
    print(
        f"  stop  {state.stage} (process {state.pid}) gets SIGTERM; a training writes a checkpoint first",
        flush=True,
    )
    while _process_runs(state):
        time.sleep(LOOK_EVERY_S)
    print(f"  stop  {state.stage} has ended", flush=True)
    return 0
