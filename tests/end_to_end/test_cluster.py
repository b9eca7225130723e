"""Every manifest of cluster/ is what its reader will accept, and names things that exist."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from steper_ray.ray_runtime.serve_environment import SERVE_SETTINGS
from steper_ray.run.loading import load_config
from steper_ray.serving.keys import hash_key, read_keys
from steper_ray.serving.settings import ServeConfig

ROOT: Final = Path(__file__).parents[2]
CLUSTER: Final = ROOT / "cluster"
APP: Final = "/app/"  # the image's WORKDIR
RUN_FILE: Final = "/etc/steper/run.yaml"
SERVE_FILE: Final = "/etc/steper/serve.yaml"
KEYS: Final = "/etc/steper-keys"

TEXT: Final = {"type": "string", "minLength": 1}
POSITIVE: Final = {"type": "integer", "minimum": 1}
QUANTITY: Final = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?$"}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """A mapping with these keys and no other."""
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


AMOUNTS: Final = closed(["cpu", "memory"], cpu=QUANTITY, memory=QUANTITY)
CONTAINER: Final = closed(
    ["name", "image", "resources", "volumeMounts"],
    name=TEXT,
    image=TEXT,
    ports={
        "type": "array",
        "items": closed(["containerPort", "name"], containerPort={"type": "integer"}, name=TEXT),
    },
    resources=closed(["requests", "limits"], requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts={
        "type": "array",
        "items": closed(["name", "mountPath"], name=TEXT, mountPath=TEXT),
    },
    readinessProbe=closed(
        ["httpGet"],
        httpGet=closed(["path", "port"], path=TEXT, port={"type": "integer"}),
        periodSeconds=POSITIVE,
        timeoutSeconds=POSITIVE,
        failureThreshold=POSITIVE,
    ),
)
VOLUME: Final = {
    "oneOf": [
        closed(["name", "persistentVolumeClaim"], name=TEXT, persistentVolumeClaim=claim)
        for claim in [closed(["claimName"], claimName=TEXT)]
    ]
    + [closed(["name", "configMap"], name=TEXT, configMap=closed(["name"], name=TEXT))]
    + [
        closed(["name", "secret"], name=TEXT, secret=secret)
        for secret in [closed(["secretName"], secretName=TEXT, optional={"type": "boolean"})]
    ]
}
POD: Final = closed(
    ["spec"],
    spec=closed(
        ["containers", "volumes", "securityContext"],
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        volumes={"type": "array", "items": VOLUME},
        securityContext=closed(
            ["runAsUser", "fsGroup"],
            runAsUser={"type": "integer", "minimum": 1},
            fsGroup={"type": "integer"},
        ),
    ),
)
START: Final = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Final = {"type": "integer", "minimum": 0}
# As the custom resources of ray.io/v1 (KubeRay 1.7) have them; the keys that no manifest uses are
# left out, so that a misspelt one is found.
RAY_CLUSTER: Final = closed(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion=TEXT,
    authOptions=closed(["mode"], mode={"enum": ["token"]}),
    headGroupSpec=closed(["rayStartParams", "template"], rayStartParams=START, template=POD),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=START,
            template=POD,
        ),
    },
)
METADATA: Final = closed(["name"], name={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,40}$"})
RAY_JOB: Final = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=closed(
        ["entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"],
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        runtimeEnvYAML=TEXT,
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes={"const": True},  # ttlSecondsAfterFinished is refused without
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)
RAY_SERVICE: Final = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=METADATA,
    spec=closed(
        ["serveConfigV2", "rayClusterConfig"], serveConfigV2=TEXT, rayClusterConfig=RAY_CLUSTER
    ),
)

LABELS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
POD_MONITOR: Final = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=closed(["name", "labels"], name=TEXT, labels=LABELS),
    spec=closed(
        ["selector", "podMetricsEndpoints"],
        selector=closed(["matchLabels"], matchLabels=LABELS),
        podMetricsEndpoints={
            "type": "array",
            "items": closed(
                ["port", "interval"], port=TEXT, interval={"type": "string", "pattern": "^[0-9]+s$"}
            ),
        },
    ),
)


def read(name: str) -> dict[str, Any]:
    """A manifest; one document."""
    value = yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def ray_version() -> str:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(r"^ray==(.+)$", lock, re.MULTILINE)
    assert found
    return found[1]


def check_cluster(cluster: dict[str, Any]) -> None:
    """What a schema cannot say: versions, volumes and claims that fit each other."""
    assert cluster["rayVersion"] == ray_version()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {c["image"] for g in groups for c in g["template"]["spec"]["containers"]}
    assert len(images) == 1, "one environment on every node"
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            claim = volumes[mounts["/runs"]]["persistentVolumeClaim"]["claimName"]
            assert claim == read("storage.yaml")["metadata"]["name"]
            assert volumes[mounts["/etc/steper"]]["configMap"]["name"] == "steper-run"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def check_job(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, RAY_JOB)
    spec = manifest["spec"]
    check_cluster(spec["rayClusterSpec"])
    python, script, option, run_file = shlex.split(spec["entrypoint"])
    assert (python, option, run_file) == ("python", "--config", RUN_FILE)
    assert script.startswith(APP)
    assert (ROOT / script.removeprefix(APP)).is_file(), f"{script} is not in the image"
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}


def check_service(manifest: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    from steper_ray.serving.deploy import DRAIN_S

    jsonschema.validate(manifest, RAY_SERVICE)
    check_cluster(manifest["spec"]["rayClusterConfig"])
    values = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert set(values) == {"http_options", "applications"}, "Serve ignores keys it does not know"
    config = ServeDeploySchema.model_validate(values)
    (application,) = config.applications
    module, function = str(application.import_path).split(":")
    assert callable(getattr(import_module(module), function))
    assert application.args == {"config": SERVE_FILE}
    cluster = manifest["spec"]["rayClusterConfig"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert config.http_options.port in [port["containerPort"] for port in head["ports"]]
    assert config.http_options.request_timeout_s == ServeConfig().request_timeout_s + DRAIN_S
    assert "readinessProbe" not in head, "Serve is started only on a head that is ready"
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (keys,) = [volume for volume in pod["volumes"] if "secret" in volume]
        assert keys["secret"]["secretName"] == "steper-keys"
        (container,) = pod["containers"]
        assert {"name": keys["name"], "mountPath": KEYS} in container["volumeMounts"]
        if group is not cluster["headGroupSpec"]:
            asked = {"path": "/readyz", "port": config.http_options.port}
            assert container["readinessProbe"]["httpGet"] == asked


def check_monitor(manifest: dict[str, Any]) -> None:
    """As the Prometheus operator's custom resource has it; what KubeRay calls its pods and their port."""
    jsonschema.validate(manifest, POD_MONITOR)
    assert manifest["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert [one["port"] for one in manifest["spec"]["podMetricsEndpoints"]] == ["metrics"]


def check_launcher(manifest: dict[str, Any]) -> None:
    """Ray's own schema and checks, as `ray up` applies them."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(deepcopy(manifest))
    validate_config(config)
    types = manifest["available_node_types"]
    assert types[manifest["head_node_type"]]["resources"]["GPU"] == 0
    assert any(node["resources"]["GPU"] > 0 for node in types.values())
    assert "setup_commands" in manifest, "Ray's default would install another Ray"
    assert not any("pip install" in command for command in config["setup_commands"])
    assert not any("pip install" in command for command in config["head_setup_commands"])


CHECKS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "rayjob.yaml": check_job,
    "rayservice.yaml": check_service,
    "launcher-aws.yaml": check_launcher,
    "podmonitor.yaml": check_monitor,
}


@pytest.mark.parametrize("name", CHECKS)
def test_manifest_is_accepted(name: str) -> None:
    CHECKS[name](read(name))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("rayjob.yaml", "kind", "RayJobs"),
        ("rayjob.yaml", "spec.entryPoint", "python x.py"),
        ("rayjob.yaml", "spec.shutdownAfterJobFinishes", False),
        ("rayjob.yaml", "spec.backoffLimit", -1),
        ("rayjob.yaml", "spec.entrypoint", f"python /app/jobs/dem.py --config {RUN_FILE}"),
        ("rayjob.yaml", "spec.entrypoint", "python /app/jobs/demo.py --config /etc/run.yaml"),
        ("rayjob.yaml", "spec.rayClusterSpec.rayVersion", "2.9.0"),
        ("rayjob.yaml", "spec.rayClusterSpec.authOptions.mode", "disabled"),
        ("rayjob.yaml", "spec.rayClusterSpec.headGroupSpec.template.spec.volumes", []),
        ("rayservice.yaml", "spec.rayClusterSpec", {}),
        ("rayservice.yaml", "spec.serveConfigV2", "applications: {}"),
        ("rayservice.yaml", "spec.serveConfigV2", "application: []"),
        ("rayservice.yaml", "spec.rayClusterConfig.headGroupSpec.template.spec.volumes", []),
        ("rayservice.yaml", "spec.rayClusterConfig.workerGroupSpecs", [{}]),
        ("podmonitor.yaml", "spec.selector.matchLabels", {"app": "ray"}),
        ("podmonitor.yaml", "spec.podMetricsEndpoints", [{"port": 8080, "interval": "10s"}]),
        ("launcher-aws.yaml", "head_node_type", "heads"),
        ("launcher-aws.yaml", "workers", 3),
        ("launcher-aws.yaml", "max_workers", "four"),
        ("launcher-aws.yaml", "available_node_types.head.resources.GPU", 1),
    ],
)
def test_broken_manifest_is_refused(name: str, path: str, value: object) -> None:
    manifest = deepcopy(read(name))
    *parents, key = path.split(".")
    target = manifest
    for parent in parents:
        target = target[parent]
    target[key] = value
    with pytest.raises((AssertionError, jsonschema.ValidationError, ValueError, KeyError)):
        CHECKS[name](manifest)


def test_storage_is_shared() -> None:
    storage = read("storage.yaml")
    assert (storage["apiVersion"], storage["kind"]) == ("v1", "PersistentVolumeClaim")
    assert storage["spec"]["accessModes"] == ["ReadWriteMany"]


def test_run_file_of_the_guide_is_valid(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ *(sed .*) > run\.yaml$", guide, re.MULTILINE)
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, capture_output=True, check=True, text=True
    )
    run_file = tmp_path / "run.yaml"
    run_file.write_text(done.stdout, encoding="utf-8")
    assert load_config(run_file).run.dir == "/runs/toy"


def test_service_of_the_guide_has_its_keys(tmp_path: Path) -> None:
    """The guide's commands, in order: the run files, a key, the Secret and the config map of them."""
    guide = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    pattern = r"^ *(sed .*|\(cat .*|steper serve --new-key .*)$"
    commands = re.findall(pattern, guide.split("### API keys")[0], re.MULTILINE)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        check=True,
        text=True,
    )
    key = done.stdout.strip()
    assert [one.sha256 for one in read_keys(tmp_path / "keys.yaml").values()] == [hash_key(key)]
    served = load_config(tmp_path / "serve.yaml")
    assert served.serve.keys_file == f"{KEYS}/keys.yaml"
    asked = load_config(tmp_path / "run.yaml")  # the job asks its own student, without a key
    assert (served.run.dir, asked.serve) == (asked.run.dir, ServeConfig())
    assert "create secret generic steper-keys --from-file=keys.yaml\n" in guide
    files = " ".join(f"--from-file={Path(file).name}" for file in (RUN_FILE, SERVE_FILE))
    assert f"create configmap steper-run {files}\n" in guide


def test_files_that_the_guide_names_exist() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"\b(?:cluster|jobs)/[\w./-]+\.(?:yaml|py|json)\b|cluster/Dockerfile", guide)
    )
    assert named >= {"cluster/Dockerfile", "cluster/rayjob.yaml", "jobs/configs/toy.yaml"}
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_dockerfile() -> None:
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    steps = [(step, rest.strip()) for step, rest in (line.split(maxsplit=1) for line in lines)]
    values = dict(steps)
    (version,) = re.findall(r"^python:(\d+\.\d+)-", values["FROM"])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version in SpecifierSet(package["requires-python"])
    assert values["WORKDIR"] == APP.rstrip("/")
    copied = [source for step, rest in steps if step == "COPY" for source in rest.split()[:-1]]
    assert not [source for source in copied if not (ROOT / source).exists()]
    assert {"steper_ray", "jobs", "requirements.lock", "pyproject.toml"} <= set(copied)
    assert steps[-1] == ("USER", "steper")
    assert "--uid 1000" in text
    words = [word for step, rest in steps if step == "ENV" for word in shlex.split(rest)]
    environment = dict(word.split("=", 1) for word in words)
    assert {name: environment.get(name) for name in SERVE_SETTINGS} == SERVE_SETTINGS
    known = {"PATH", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK", "RAY_USAGE_STATS_ENABLED"}
    assert set(environment) == known | set(SERVE_SETTINGS), "of an earlier SERVE_SETTINGS"
    for extra in re.findall(r"EXTRA=([\w,]+)", text):
        assert set(extra.split(",")) <= set(package["optional-dependencies"])
