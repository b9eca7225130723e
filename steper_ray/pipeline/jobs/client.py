"""The job API of a Ray cluster: reaching it, following a job's log, and how a job ended."""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError, StageError
from steper_ray.pipeline.jobs.live_state import StageState, copy_name, read_state
from steper_ray.text import short_message

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLES: Final = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS")
"""Where an address may stand if none is given; of RAY_ADDRESS only one of HTTP counts."""


TALKATIVE: Final = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray's client that tell of every upload."""


RUN_DIR: Final = "steper.run_dir"
"""Metadata of a job: its run folder."""


STAGE: Final = "steper.stage"
"""Likewise, what it runs."""


TRY_AGAIN_S: Final = 2.0


MAX_LOST_S: Final = 300.0
"""A cluster that cannot be reached for so long is given up; the job may go on all the same."""


MAX_NODES: Final = 10_000
"""Nodes of a cluster that its API lists at most."""


INTERRUPTED: Final = 130
"""Exit code of what Ctrl-C, SIGTERM or `steper stop` has ended."""


def find_address(given: str | None) -> str | None:
    """The address of the job API: as given, else from the environment; None where there is none."""
    if given:
        return given.rstrip("/")
    for name in ADDRESS_VARIABLES:
        value = os.environ.get(name, "")
        if value.startswith(("http://", "https://")):
            return value.rstrip("/")
    return None


def connect(given: str | None) -> "JobSubmissionClient":
    """A client of the cluster's job API.

    Raises InputError without an address, for one that cannot be reached, and where a token is missing.
    """
    address = find_address(given)
    if address is None:
        raise InputError(
            "no cluster: give --address http://host:8265 (the dashboard's address), or set "
            "RAY_API_SERVER_ADDRESS"
        )
    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"--address: {address} is not the address of a dashboard; give one as http://host:8265"
        )
    # Ray takes these for the address, whatever it is given
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with refusals(address):
        return JobSubmissionClient(address)


def _has_token() -> bool:
    """Whether there is a token where Ray looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return Path("~/.ray/auth_token").expanduser().is_file()


@contextmanager
def refusals(address: str) -> Iterator[None]:
    """Raises InputError in one line where the job API cannot be reached, or refuses."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        wrong = "does not take this token" if "403" in str(error) or "failed" in str(error) else ""
        raise InputError(
            f"--address: {address} {wrong or 'asks for a token'}; set RAY_AUTH_MODE=token, and put the "
            "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise InputError(
            f"--address: {address} cannot be reached ({short_message(error)}); check the address, and that "
            "the cluster runs"
        ) from None
    except RuntimeError as error:
        raise InputError(f"--address: {address}: {short_message(error)}") from None


def ray_version(client: "JobSubmissionClient") -> str:
    """The version of Ray on the cluster."""
    with refusals(client.get_address()):
        return str(client._do_request("GET", "/api/version").json()["ray_version"])


def cluster_gpus(client: "JobSubmissionClient") -> float:
    """The GPUs of all nodes that are up; the autoscaler may bring others."""
    with refusals(client.get_address()):
        reply = client._do_request("GET", "/api/v0/nodes", params={"limit": MAX_NODES})
        nodes = reply.json()["data"]["result"]["result"]
    return sum(
        float(node["resources_total"].get("GPU", 0)) for node in nodes if node["state"] == "ALIVE"
    )


def job_details(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """What the job API knows of a job. Raises InputError where there is none of this id."""
    with refusals(client.get_address()):
        reply = client._do_request("GET", f"/api/jobs/{job}")
        if reply.status_code == 404:
            raise InputError(f"no job {job} on {client.get_address()}; `steper status` lists them")
        return client.get_job_info(job)


def jobs_of_run(client: "JobSubmissionClient", run_dir: str) -> list["JobDetails"]:
    """The submitted jobs of a run, the newest last."""
    with refusals(client.get_address()):
        jobs = client.list_jobs()
    ours = [job for job in jobs if (job.metadata or {}).get(RUN_DIR) == run_dir]
    return sorted((job for job in ours if job.submission_id), key=lambda job: job.start_time or 0)


def exit_code(details: "JobDetails") -> int:
    """The exit code of a job that has ended: its command's own, where that ended by itself."""
    if details.driver_exit_code is not None:
        return int(details.driver_exit_code) if details.driver_exit_code >= 0 else 1
    return {"SUCCEEDED": 0, "STOPPED": INTERRUPTED}.get(str(details.status.value), 1)


def follow(client: "JobSubmissionClient", job: str, write: Callable[[str], None]) -> "JobDetails":
    """Write a job's log from its start, as it comes, until the job has ended; its details then.

    A lost connection is taken up again where it broke off. Raises StageError where the cluster cannot be
    reached any more.
    """
    from aiohttp import ClientError

    written, lost_since = 0, None
    while True:
        try:
            written = asyncio.run(_tail(client, job, written, write))
            details = client.get_job_info(job)
            lost_since = None
            if details.status.is_terminal():
                return details
        except (OSError, RuntimeError, ClientError) as error:
            now = time.monotonic()
            lost_since = lost_since or now
            if now - lost_since > MAX_LOST_S:
                raise StageError(
                    f"{client.get_address()} cannot be reached any more ({short_message(error)}); the job "
                    f"{job} may go on: `steper logs -f {job}` follows it again"
                ) from None
        time.sleep(TRY_AGAIN_S)


async def _tail(
    client: "JobSubmissionClient", job: str, written: int, write: Callable[[str], None]
) -> int:
    """Write what the log has after so many characters; how many it has now."""
    at = 0
    async for text in client.tail_job_logs(job):
        new = text[max(0, written - at) :]
        at += len(text)
        if new:
            write(new)
            written = at
    return max(at, written)


def write_out(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def job_state(client: "JobSubmissionClient", details: "JobDetails") -> StageState | None:
    """The state of the stage that a job runs, from Ray's logs of its node; None where it is not known."""
    if details.driver_node_id is None or details.submission_id is None:
        return None
    query: dict[str, Any] = {
        "node_id": details.driver_node_id,
        "filename": copy_name(details.submission_id),
        "lines": 1,
    }
    with refusals(client.get_address()):
        reply = client._do_request("GET", "/api/v0/logs/file", params=query, timeout=30)
    if reply.status_code != 200:
        return None
    start = reply.text.find("{")
    return read_state(reply.text[start:]) if start >= 0 else None


def last_line(client: "JobSubmissionClient", job: str) -> str:
    """The last line of a job's log; empty where there is none."""
    with refusals(client.get_address()):
        reply = client._do_request("GET", f"/api/jobs/{job}/logs")
    if reply.status_code != 200:
        return ""
    lines = [line for line in json.loads(reply.text)["logs"].splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
