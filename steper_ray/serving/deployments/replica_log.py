"""The log of a replica: its file is named by deployment and rank, which a restarted replica takes over."""

import logging

from ray import serve

from steper_ray.ray_runtime.logs import LaunchLog, start_log

logger = logging.getLogger(__name__)


def start_replica_log(log: LaunchLog) -> None:
    """Start the log of the replica that this process is."""
    replica = serve.get_replica_context()
    start_log(log, replica.deployment, replica.rank.rank)
    logger.info("replica %s of %s starts", replica.replica_id.unique_id, replica.app_name)
