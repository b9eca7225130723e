"""Room on a cluster: what a stage needs at the same time, against what nodes have and may be added.

A bundle is what must lie on one node: an engine with its GPUs, a worker, a task of Ray Data. What can never
be placed is refused at once, before anything waits for it; what may be placed later is waited for, with a
word (`steper_ray.ray_runtime.waiting`).

Ray publishes what nodes an autoscaler may add only where a provider tells it to. Elsewhere the autoscaler's
own configuration is read where it runs, on the head: the file that it was started with (`ray up`, `ray
start --autoscaling-config`), or the RayCluster of KubeRay.
"""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError

logger = logging.getLogger(__name__)


Resources = Mapping[str, float]
"""Amounts by Ray's names: `CPU`, `GPU`, custom resources."""


Labels = Mapping[str, str]
"""Labels of a node, or the values that they must have, with Ray's operators (`!spot`, `in(a,b)`)."""


TASK: Final[Resources] = {"CPU": 1.0}
"""What Ray Data takes for a task that reads or writes, beside the actors of a stage."""


HEAD_WAIT_S: Final = 30.0
"""Longest wait for the head's word about its autoscaler."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What must lie on one node."""

    resources: Resources
    labels: Labels = field(default_factory=dict)
    """What the node's labels must be."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node, or a kind of nodes that may be added."""

    resources: Resources
    labels: Labels = field(default_factory=dict)
    name: str = ""
    """Of a kind of nodes, as the autoscaler calls it."""
    count: int = 1
    """Nodes of the kind that may be added."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of a cluster, and those that its autoscaler may add."""

    nodes: tuple[Node, ...]
    added: tuple[Node, ...] = ()
    """Kinds of nodes that may be added, with their numbers."""
    unknown: bool = False
    """Whether nodes may be added of which nothing is known."""

    def all_nodes(self, most: int) -> list[Node]:
        """The nodes, and of each kind that may be added as many as may, but at most `most`."""
        new = [node for node in self.added for _ in range(min(node.count, most))]
        return [*self.nodes, *new]


# Placing ----------------------------------------------------------------------------------------------


def whole_groups(groups: Iterable[Sequence[Bundle]], nodes: Iterable[Node]) -> int:
    """Number of groups that are placed one after the other, until one is not placed whole.

    Of a group, bundles with labels and custom resources go first, then the largest; each goes to the node
    with the least left that has room.
    """
    free = [(dict(node.resources), node.labels) for node in nodes]
    placed = 0
    for group in groups:
        for bundle in sorted(group, key=_size, reverse=True):
            fitting = [
                resources
                for resources, labels in free
                if _fits(bundle.resources, resources) and has_labels(labels, bundle.labels)
            ]
            if not fitting:
                return placed
            node = min(fitting, key=lambda left: (left.get("GPU", 0.0), left.get("CPU", 0.0)))
            for name, amount in bundle.resources.items():
                node[name] = node.get(name, 0.0) - amount
        placed += 1
    return placed


def has_labels(labels: Labels, wanted: Labels) -> bool:
    """Whether a node's labels have the values wanted, in Ray's words: `a`, `!a`, `in(a,b)`, `!in(a,b)`."""
    for name, value in wanted.items():
        negated = value.startswith("!")
        plain = value.removeprefix("!")
        several = re.fullmatch(r"in\((.*)\)", plain)
        values = [part.strip() for part in several[1].split(",")] if several else [plain]
        if (labels.get(name) in values) == negated:
            return False
    return True


def _size(bundle: Bundle) -> tuple[bool, float, float]:
    """By which bundles are placed: those that few nodes can have first, then by GPUs and cores."""
    particular = bool(bundle.labels) or not bundle.resources.keys() <= {"CPU", "GPU"}
    return particular, bundle.resources.get("GPU", 0.0), bundle.resources.get("CPU", 0.0)


def _fits(needed: Resources, free: Resources) -> bool:
    return all(amount <= free.get(name, 0.0) + 1e-9 for name, amount in needed.items())


# Words ------------------------------------------------------------------------------------------------


def amounts(resources: Resources) -> str:
    """Resources in words, as `1 CPU + 0.5 GPU`; those that bind to one node or kind of GPU by name."""
    named = {name: amount for name, amount in resources.items() if not name.startswith("node:")}
    kinds = [name.partition(":")[2] for name in named if name.startswith("accelerator_type:")]
    plain = [
        f"{named[name]:g} {name}"
        for name in sorted(named)
        if named[name] and not name.startswith("accelerator_type:")
    ]
    return " + ".join(plain) + (f" ({', '.join(kinds)})" if kinds else "")


def in_words(bundles: Sequence[Bundle]) -> str:
    """Bundles in words, equal ones once: `2 × (8 CPU + 4 GPU) and 1 × (1 CPU)`."""
    counts = Counter(amounts(bundle.resources) + _label_words(bundle.labels) for bundle in bundles)
    return " and ".join(f"{number} × ({text})" for text, number in counts.items() if text)


def _label_words(labels: Labels) -> str:
    said = ", ".join(f"{name}={value}" for name, value in labels.items())
    return f" on nodes with {said}" if said else ""


def growth_words(cluster: Cluster) -> str:
    """What the autoscaler may add, in words; empty where there is none."""
    if cluster.added:
        kinds = (f"{node.count} × {node.name} ({_main(node.resources)})" for node in cluster.added)
        return f"the autoscaler may bring {', '.join(kinds)}"
    if cluster.unknown:
        return "the autoscaler may bring nodes that only it knows"
    return ""


def _main(resources: Resources) -> str:
    """The cores and GPUs of a node."""
    return amounts({name: resources.get(name, 0.0) for name in ("CPU", "GPU")}) or "no CPU"


# Refusing ---------------------------------------------------------------------------------------------


def check_room(stage: str, bundles: Sequence[Bundle], advice: str) -> None:
    """Check that bundles can be placed at the same time, on the nodes or with those that may be added.

    advice: the settings to change, to stand after a semicolon
    Raises InputError for what never fits, with the largest node. Needs a running Ray.
    """
    needed = [bundle for bundle in bundles if amounts(bundle.resources)]
    if whole_groups([needed], nodes_of_cluster()):
        return
    refuse_what_never_fits(stage, needed, advice, read_cluster())


def refuse_what_never_fits(
    stage: str, bundles: Sequence[Bundle], advice: str, cluster: Cluster
) -> None:
    """Raises InputError for bundles that a cluster can never place at the same time."""
    nodes = cluster.all_nodes(len(bundles))
    if cluster.unknown or whole_groups([bundles], nodes):
        return
    growth = growth_words(cluster)
    for bundle in bundles:
        if not whole_groups([[bundle]], nodes):
            largest = max(nodes, key=lambda node: _size(Bundle(node.resources)), default=Node({}))
            raise InputError(
                f"{stage}: no node has room for {in_words([bundle])}; the largest has "
                f"{_main(largest.resources)}{f', and {growth}' if growth else ''}; {advice}"
            )
    names = {name for bundle in bundles for name in bundle.resources}
    if all(_total(bundles, name) <= _total(nodes, name) + 1e-9 for name in names):
        return  # each fits, and all together in sum: perhaps in another way than was tried
    has = {
        name: sum(node.resources.get(name, 0.0) for node in cluster.nodes)
        for name in ("CPU", "GPU")
    }
    raise InputError(
        f"{stage}: needs {in_words(bundles)} at the same time; the cluster has {_main(has)}"
        f"{f', and {growth}' if growth else ''}; {advice}"
    )


def _total(holders: Iterable[Bundle | Node], name: str) -> float:
    return sum(holder.resources.get(name, 0.0) for holder in holders)


# Looking ----------------------------------------------------------------------------------------------


def nodes_of_cluster() -> tuple[Node, ...]:
    """The nodes of the running Ray, with all that they have, free or not."""
    import ray

    return tuple(
        Node({name: float(amount) for name, amount in node["Resources"].items()}, node["Labels"])
        for node in ray.nodes()
        if node["Alive"]
    )


def read_cluster() -> Cluster:
    """The nodes of the running Ray, and what its autoscaler may add, if it has one."""
    nodes = nodes_of_cluster()
    kinds = _published_kinds()
    if kinds is None:
        kinds = _kinds_by_the_head()
    if kinds is None:
        return Cluster(nodes)
    running = _running_kinds()
    added = [
        Node(kind.resources, kind.labels, kind.name, kind.count - running[kind.name])
        for kind in kinds
        if kind.count > running[kind.name]
    ]
    return Cluster(nodes, tuple(added), unknown=not kinds)


def _running_kinds() -> Counter[str]:
    """Numbers of the nodes that are there already, by kind."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.core.generated.autoscaler_pb2 import NodeStatus  # type: ignore[attr-defined]

    gcs: Any = GcsClient(address=ray.get_runtime_context().gcs_address)
    states = get_cluster_resource_state(gcs).node_states
    return Counter(node.ray_node_type_name for node in states if node.status != NodeStatus.DEAD)


def _published_kinds() -> list[Node] | None:
    """The kinds of nodes that a provider has told Ray of; None where none has."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None or not config.node_group_configs:
        return None
    return [
        Node(
            dict(group.resources), {}, group.name, group.max_count if group.max_count >= 0 else 999
        )
        for group in config.node_group_configs
    ]


def _kinds_by_the_head() -> list[Node] | None:
    """The kinds of nodes of the autoscaler on the head; none is empty, and no autoscaler None."""
    import ray

    remote: Any = ray.remote
    look = remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=0)(
        autoscaler_kinds
    )
    address = ray.get_runtime_context().gcs_address
    looking = look.remote(address)
    try:
        found = ray.get(looking, timeout=HEAD_WAIT_S)
    except ray.exceptions.RayError as error:
        # it is busy, has no steper_ray, cannot read the autoscaler's file …
        logger.warning("the head did not say what its autoscaler may bring: %s", error)
        ray.cancel(looking)
        return []
    if found is None:
        return None
    return [Node(kind["resources"], kind["labels"], kind["name"], kind["count"]) for kind in found]


def autoscaler_kinds(gcs_address: str) -> list[dict[str, Any]] | None:
    """The worker kinds in the configuration of the autoscaler on this machine, the head.

    Empty where there is an autoscaler whose configuration cannot be read, None where there is none.
    """
    config = _launcher_config(gcs_address)
    if config is None:
        config = _kuberay_config()
    if config is None:
        return None
    most = config.get("max_workers") or sys.maxsize
    return [
        {
            "name": name,
            "resources": {key: float(amount) for key, amount in kind.get("resources", {}).items()},
            "labels": kind.get("labels", {}),
            "count": min(most, most if (own := kind.get("max_workers")) is None else own),
        }
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type") and kind.get("max_workers") != 0
    ]


def _launcher_config(gcs_address: str) -> dict[str, Any] | None:
    """The configuration that the autoscaler of this Ray was started with; None where it has none."""
    import psutil
    import yaml

    port = gcs_address.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        files = [
            word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")
        ]
        ours = any(
            word.startswith("--gcs-address=") and word.endswith(f":{port}") for word in words
        )
        if files and ours:
            config: dict[str, Any] = yaml.safe_load(Path(files[0]).expanduser().read_text("utf-8"))
            return config
    return None


def _kuberay_config() -> dict[str, Any] | None:
    """The configuration that KubeRay's autoscaler makes of the RayCluster; None on no Kubernetes.

    Empty where Kubernetes does not tell it.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if not name or not account.is_file():
        return None
    import requests
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        config: dict[str, Any] = AutoscalingConfigProducer(name, account.read_text().strip())()
    except (requests.RequestException, ValueError, KeyError):
        return {}
    return config
