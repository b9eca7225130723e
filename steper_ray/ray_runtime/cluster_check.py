"""What the nodes of a Ray cluster are asked before work is given to them: storage, packages, GPUs, disks.

Each node runs one small task, which reserves nothing, so a busy node answers too. A node that does not
answer in NODE_S seconds is named: nobody waits longer for it.
"""

import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

from steper_ray.errors import InputError
from steper_ray.text import short_message

Answer = TypeVar("Answer")

NODE_S: Final = 60.0
"""Seconds in which a node has to answer."""


PATIENCE_S: Final = 5.0
"""Seconds after which a line says which nodes are waited for."""


PACKAGES: Final = ("ray", "vllm", "torch", "transformers", "deepspeed")
"""Packages that must be of one version on all nodes."""


FULL: Final = 0.95
"""Share of a disk in use from which Ray keeps no more objects on it."""


FIND_GPUS: Final = """
import torch
found = torch.cuda.is_available()
print("found" if found else "missing", torch.version.cuda or "none")
if found:
    print(torch.cuda.device_count(), torch.cuda.get_device_name(0))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: fine, or what is wrong and what to do."""

    subject: str
    text: str
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    id: str
    name: str
    """Its host's name and address."""
    gpus: float


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    packages: Mapping[str, str]
    missing_folders: Sequence[str]
    missing_variables: Sequence[str]
    temporary: str
    free: int
    total: int
    gpus: str = ""
    """Why torch does not see the GPUs; empty where it does, or where there is none."""
    gpu_names: str = ""
    errors: Sequence[str] = field(default_factory=list)


def alive_nodes() -> list[Node]:
    """The living nodes of the connected Ray."""
    import ray

    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def ask_nodes(
    nodes: Sequence[Node], function: Callable[..., Answer], *arguments: Any, limit_s: float = NODE_S
) -> dict[Node, Answer | str]:
    """The answer of every node that lives; of one that gave none, why not, as a text.

    function: runs on each node, with its number of GPUs and the arguments
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def on(node: Node) -> Any:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(function)
        return task.options(scheduling_strategy=there).remote(node.gpus, *arguments)

    asked = {on(node): node for node in nodes}
    patience = min(PATIENCE_S, limit_s)
    _, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=patience)
    if waiting:
        print(
            f"waiting for an answer of {_listed(asked[one] for one in waiting)}, {limit_s:g} s at most",
            flush=True,
        )
        ray.wait(list(asked), num_returns=len(asked), timeout=limit_s - patience)
    ready, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=0)
    answers: dict[Node, Answer | str] = {}
    for one in ready:
        try:
            answers[asked[one]] = ray.get(one)
        except ray.exceptions.RayError as error:
            answers[asked[one]] = f"cannot run steper_ray's tasks ({_reason(error)})"
    for one in waiting:
        ray.cancel(one, force=True)
        answers[asked[one]] = f"did not answer in {limit_s:g} s"
    living = {node.id for node in alive_nodes()}
    return {node: answer for node, answer in answers.items() if node.id in living}


def check_shared(folder: Path, *, limit_s: float = NODE_S) -> None:
    """Raises InputError unless every node of the cluster reads and writes this very folder."""
    finding = shared_storage(folder, limit_s=limit_s)
    if finding.wrong:
        raise InputError(finding.text)


def shared_storage(folder: Path, *, limit_s: float = NODE_S) -> Finding:
    """Whether every node sees a file that is written here, and can write beside it."""
    nodes = alive_nodes()
    marker = folder / f".on-every-node-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        return Finding(
            "storage", f"run.dir: cannot write to {folder}: {error.strerror}", wrong=True
        )
    try:
        answers = ask_nodes(nodes, _see, str(marker), limit_s=limit_s)
    finally:
        marker.unlink(missing_ok=True)
    told = {node: answer for node, answer in answers.items() if answer}
    if not told:
        return Finding("storage", f"{folder} is the same on {_count(len(answers))}")
    reasons = "; ".join(f"{node.name} {answer}" for node, answer in told.items())
    return Finding(
        "storage",
        f"run.dir: {folder}: {reasons}. Give a folder on storage that every node mounts there, and take "
        "nodes that do not answer out of the cluster",
        wrong=True,
    )


def _see(_gpus: float, marker: str) -> str:
    """What is wrong with a folder, on the node that this runs on; empty if nothing is."""
    file = Path(marker)
    until = time.monotonic() + 3  # network storage may show a new file a moment later
    while not file.exists():
        if time.monotonic() > until:
            there = "has another disk there" if file.parent.is_dir() else "has no such folder"
            return f"{there}: it does not see what is written here"
        time.sleep(0.2)
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            return ""
    except OSError as error:
        return f"cannot write there ({error.strerror})"


def node_facts(folders: Sequence[str], variables: Sequence[str]) -> dict[Node, NodeFacts | str]:
    """What every node says of itself, or why it does not.

    folders:   that must exist on every node
    variables: of the environment that must be set on every node
    """
    return ask_nodes(alive_nodes(), gather_facts, list(folders), list(variables))


def gather_facts(gpus: float, folders: Sequence[str], variables: Sequence[str]) -> NodeFacts:
    """What the node that this runs on says of itself."""
    import ray

    temporary = Path(ray.worker._global_node.get_session_dir_path())
    disk = shutil.disk_usage(temporary)
    failure, names = _find_gpus() if gpus else ("", "")
    return NodeFacts(
        packages=installed_packages(),
        missing_folders=[folder for folder in folders if not Path(folder).expanduser().is_dir()],
        missing_variables=[name for name in variables if not os.environ.get(name)],
        temporary=str(temporary),
        free=disk.free,
        total=disk.total,
        gpus=failure,
        gpu_names=names,
    )


def installed_packages() -> dict[str, str]:
    """Python and PACKAGES → version without its build (`+cu130`), and a digest of steper_ray's own code."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        for package in (name, f"{name}-cpu"):
            with suppress(PackageNotFoundError):
                found.setdefault(name, version(package).partition("+")[0])
    code = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        code.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    found["steper_ray"] = code.hexdigest()[:8]
    return found


def _find_gpus() -> tuple[str, str]:
    """(why torch sees no GPU of this node, what it sees), in a process that may see all of them."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    try:
        process = subprocess.run(
            [sys.executable, "-c", FIND_GPUS],
            env=environment,
            capture_output=True,
            text=True,
            timeout=NODE_S / 2,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"torch did not answer in {NODE_S / 2:g} s", ""
    said, _, rest = process.stdout.partition("\n")
    if said.startswith("found"):
        return "", rest.strip()
    warned = [line for line in process.stderr.splitlines() if "river" in line or "Error" in line]
    build = f"torch is built for CUDA {said.partition(' ')[2] or 'none'}"
    return f"torch sees none ({build}; {short_message(warned[-1]) if warned else 'no reason'})", ""


def fact_findings(facts: Mapping[Node, NodeFacts | str]) -> list[Finding]:
    """What is wrong on which node, compared with this process; a line for what is fine on all."""
    here, findings = installed_packages(), []
    known = {node: said for node, said in facts.items() if isinstance(said, NodeFacts)}
    for node, said in facts.items():
        if isinstance(said, str):
            findings.append(
                Finding("nodes", f"{node.name} {said}; start its Ray again", wrong=True)
            )
    findings += _of_all(
        "versions",
        {node: _other_versions(here, said.packages) for node, said in known.items()},
        "install the same environment on every node",
        ", ".join(f"{name} {number}" for name, number in here.items()),
    )
    findings += _of_all(
        "folders",
        {node: _sentence(said.missing_folders, "has no") for node, said in known.items()},
        "put it on storage that every node mounts",
        "model folders are there on every node",
    )
    findings += _of_all(
        "token",
        {node: _sentence(said.missing_variables, "lacks") for node, said in known.items()},
        "set it where Ray is started on that node",
        "the variables that are set here are set on every node",
    )
    if any(node.gpus for node in known):
        names = sorted({said.gpu_names for node, said in known.items() if node.gpus})
        findings += _of_all(
            "gpus",
            {node: said.gpus for node, said in known.items()},
            "install a driver for that CUDA, or torch for the driver",
            "torch sees those of every node: " + "; ".join(names),
        )
    findings += _of_all(
        "disk",
        {
            node: f"has {said.free / 1e9:,.1f} of {said.total / 1e9:,.1f} GB free for {said.temporary}"
            if said.free < (1 - FULL) * said.total
            else ""
            for node, said in known.items()
        },
        f"Ray keeps no more objects on a disk that is {FULL:.0%} full: make room, or start Ray with "
        "another --temp-dir",
        "Ray's temporary folders have room: "
        + ", ".join(f"{said.free / 1e9:,.1f} GB" for said in known.values()),
    )
    return findings


def _of_all(subject: str, wrongs: Mapping[Node, str], remedy: str, fine: str) -> list[Finding]:
    """A finding for each node with something wrong; one for all if nothing is."""
    found = [
        Finding(subject, f"{node.name}: {wrong}; {remedy}", wrong=True)
        for node, wrong in wrongs.items()
        if wrong
    ]
    return found or [Finding(subject, fine)] if wrongs else []


def _other_versions(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    )


def _sentence(names: Sequence[str], verb: str) -> str:
    return f"{verb} {', '.join(names)}" if names else ""


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return short_message(lines[-1] if lines else type(error).__name__)


def _count(nodes: int) -> str:
    return f"{nodes} node" if nodes == 1 else f"all {nodes} nodes"


def _listed(nodes: Any) -> str:
    return ", ".join(node.name for node in nodes)
