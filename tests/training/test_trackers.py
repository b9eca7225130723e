import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import steper_ray
from steper_ray.errors import InputError
from steper_ray.training.metrics import (
    METRICS_FILE,
    TRACKED_FILE,
    MetricsWriter,
)
from steper_ray.training.settings import Tracker
from steper_ray.training.trackers import check_trackers
from tests.training.tracked import at, board_points, losses, single_precision, wait_until

SETTINGS = {
    "run": {"dir": Path("runs/a")},
    "train": {"lr": 1e-4, "trackers": ["mlflow", "wandb"]},
}


def train(
    folder: Path, step: int, until: int, trackers: Sequence[Tracker], run: str = "a run"
) -> None:
    """Write the steps after `step`, as a training that goes on from it does."""
    writer = MetricsWriter(folder, step, trackers=trackers, run=run, settings=SETTINGS)
    for number in range(step + 1, until + 1):
        writer.write(at(number))
    writer.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


NAMES = sorted(
    f"train/{column}"
    for column in at(1).as_row()
    if column not in ("step", "steps", "L_exp", "accuracy_exp")
)
"""What a tracker shows of `at(…)`."""


def test_lines_after_the_step_gone_on_from_are_written_again(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, ())
    assert lines(tmp_path) == [at(step).as_row() for step in (1, 2, 3, 4)]
    train(tmp_path, 2, 3, ())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    train(tmp_path, 0, 1, ())
    assert [line["step"] for line in lines(tmp_path)] == [1]
    assert [file.name for file in tmp_path.iterdir()] == [METRICS_FILE]


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    train(tmp_path, 0, 2, ())
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "lo')
    train(tmp_path, 2, 3, ())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_killed_process_loses_no_line(tmp_path: Path) -> None:
    values = json.dumps(at(1).as_row())
    program = f"""
import json, os, signal
from pathlib import Path
from steper_ray.training.metrics import MetricsWriter, StepMetrics
writer = MetricsWriter(Path({str(tmp_path)!r}), 0, trackers=())
for step in (1, 2, 3):
    row = json.loads({values!r}) | {{"step": step}}
    writer.write(StepMetrics.from_row(row, ("init", "exp", "agg")))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_tensorboard_has_every_number_and_drops_what_is_done_again(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, ["tensorboard"])
    scalars, texts = board_points(tmp_path)
    assert sorted(scalars) == NAMES
    assert scalars["train/loss"] == single_precision(losses(4))
    assert len(texts) == 1
    assert '"lr": 0.0001' in texts[0]
    train(tmp_path, 2, 5, ["tensorboard"])
    scalars, texts = board_points(tmp_path)
    assert scalars["train/loss"] == single_precision(losses(5))
    assert len(texts) == 1


def mlflow_losses(folder: Path) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    (run_id,) = mlflow_runs(folder)
    history = MlflowClient((folder / "mlflow").as_uri()).get_metric_history(run_id, "train/loss")
    return [(metric.step, metric.value) for metric in history]


def mlflow_runs(folder: Path) -> dict[str, Any]:
    """The runs of the default experiment, by their id."""
    from mlflow import MlflowClient

    runs = MlflowClient((folder / "mlflow").as_uri()).search_runs(["0"])
    return {run.info.run_id: run for run in runs}


@pytest.mark.usefixtures("alone")
def test_mlflow_has_every_number_and_the_settings(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, ["mlflow"])
    (run,) = mlflow_runs(tmp_path).values()
    assert run.info.run_name == "a run"
    assert run.info.status == "FINISHED"
    assert sorted(run.data.metrics) == NAMES
    assert run.data.params == {
        "run.dir": "runs/a",
        "train.lr": "0.0001",
        "train.trackers": "['mlflow', 'wandb']",
    }
    assert mlflow_losses(tmp_path) == losses(4)


@pytest.mark.usefixtures("alone")
def test_mlflow_goes_on_with_its_run_and_has_each_step_once(tmp_path: Path) -> None:
    train(tmp_path, 0, 6, ["mlflow"])
    first = list(mlflow_runs(tmp_path))
    # Stopped again before the step reached first: now the lines end at 3, the run at 6.
    train(tmp_path, 2, 3, ["mlflow"])
    assert mlflow_losses(tmp_path) == losses(6)
    unfinished = MetricsWriter(tmp_path, 2, trackers=["mlflow"], settings={"train": {"lr": 2}})
    wait_until(lambda: [run.info.status for run in mlflow_runs(tmp_path).values()] == ["RUNNING"])
    for step in range(3, 9):
        unfinished.write(at(step))
    unfinished.close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    assert mlflow_losses(tmp_path) == losses(8)
    (run,) = mlflow_runs(tmp_path).values()
    assert [run.info.run_id] == first
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.0001"
    # From the beginning is another run.
    train(tmp_path, 0, 2, ["mlflow"])
    assert len(mlflow_runs(tmp_path)) == 2


@pytest.mark.usefixtures("alone")
def test_a_tracker_added_later_begins_where_training_goes_on(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, [])
    train(tmp_path, 2, 5, ["mlflow"])
    assert mlflow_losses(tmp_path) == losses(5)[2:]
    # A training without it in between does not keep the id.
    train(tmp_path, 0, 4, [])
    assert not (tmp_path / TRACKED_FILE).exists()


@pytest.mark.usefixtures("alone")
def test_mlflow_goes_where_its_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    store = (tmp_path / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "students")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    many = {f"key{number}": number for number in range(150)}  # a request takes 100
    for _ in range(2):
        MetricsWriter(tmp_path / "t", 0, trackers=["mlflow"], settings=many).close()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("students")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [len(run.data.params) for run in runs] == [150, 150]
    assert not (tmp_path / "t" / "mlflow").exists()


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: protobuf messages in LevelDB's log format.

    After a header of 7 bytes come blocks of 32 KiB. A record is cut into pieces where a block
    ends; a piece is a checksum (4 bytes), its length (2), its kind (1: the whole record, 2 to 4:
    the first, a middle, the last piece) and the bytes. A block's last 6 bytes are never used.
    """
    from wandb.proto import wandb_internal_pb2

    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, record = 7, b""
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)  # type: ignore[attr-defined]
            record = b""


def wandb_run(file: Path) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """What a run was begun with, its configuration, and its steps."""
    records = list(wandb_records(file))
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    steps = [
        {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    return begun, {key: value for key, value in config.items() if key != "_wandb"}, steps


@pytest.mark.usefixtures("alone")
def test_wandb_has_every_number_once_and_goes_on_with_its_run(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, ["wandb"])
    (first,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    begun, config, steps = wandb_run(first)
    assert begun.display_name == "a run"
    assert config == {
        "run": {"dir": "runs/a"},
        "train": {"lr": 1e-4, "trackers": ["mlflow", "wandb"]},
    }
    for step in steps:
        assert sorted(name for name in step if not name.startswith("_")) == NAMES
    assert [(step["_step"], step["train/loss"]) for step in steps] == losses(4)

    train(tmp_path, 2, 6, ["wandb"])
    (second,) = set(tmp_path.glob("wandb/offline-run-*/*.wandb")) - {first}
    again, config, steps = wandb_run(second)
    assert again.run_id == begun.run_id
    assert config == {}
    assert [(step["_step"], step["train/loss"]) for step in steps] == losses(6)[4:]


@pytest.mark.usefixtures("alone")
def test_all_trackers_at_once(tmp_path: Path) -> None:
    train(tmp_path, 0, 2, ["tensorboard", "mlflow", "wandb"])
    assert board_points(tmp_path)[0]["train/loss"] == single_precision(losses(2))
    assert mlflow_losses(tmp_path) == losses(2)
    ids = json.loads((tmp_path / TRACKED_FILE).read_text())["ids"]
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert ids == {"mlflow": next(iter(mlflow_runs(tmp_path))), "wandb": wandb_run(file)[0].run_id}


def test_installed_trackers_pass() -> None:
    check_trackers([])
    check_trackers(["tensorboard", "mlflow", "wandb"])
    with pytest.raises(InputError, match="no tracker is called 'comet'; there are tensorboard, ml"):
        check_trackers(["tensorboard", "comet"])


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_missing_package_is_named(tracker: str, tmp_path: Path) -> None:
    # A Python without site-packages, and a folder of the package's name where it looks first.
    (tmp_path / tracker).mkdir()
    root = Path(steper_ray.__file__).parent.parent
    program = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]
from steper_ray.errors import InputError
from steper_ray.training.trackers import check_trackers
try:
    check_trackers([{tracker!r}])
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == (
        f"train.trackers: {tracker} is not installed; pip install 'steper_ray[{tracker}]'\n"
    )
