"""Frozen runs of earlier formats: the records in one, and those that its results would have now."""

import json
from pathlib import Path

from steper_ray.chains.store import record_file
from steper_ray.evaluation.compare import compare, evaluated_model
from steper_ray.evaluation.comparison import Comparison, TrainedStudent
from steper_ray.pipeline.build import run_teachers
from steper_ray.pipeline.demo import DEMO_STAGES
from steper_ray.pipeline.ledger import stage_inputs
from steper_ray.pipeline.training import train_student
from steper_ray.planning import sample
from steper_ray.ray_runtime.progress import stage_progress
from steper_ray.retrieval import corpus_identity
from steper_ray.run.config import RunConfig
from steper_ray.run.dependencies import answers_identity, chains_identity, stage_identity
from steper_ray.run.identity import RECORD_FILE, Record, differences, read_record
from steper_ray.sweep.sweep import _worker_task, identity_of
from steper_ray.training.checkpoints import STATE_FILE
from steper_ray.training.resume import DONE_FILE, task_identity
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker_spec import WorkerTask
from tests.data.write_format import HALF_DONE, VERSION


def task_of(config: RunConfig) -> WorkerTask:
    return _worker_task(config, config.train, stepwise_files(config.folder.examples))


def records_before(config: RunConfig) -> dict[str, Record]:
    """The frozen record of each kind of result."""
    folder = config.folder
    (checkpoints,) = folder.checkpoints.glob(f"*/{RECORD_FILE}")
    (sweep,) = folder.sweep.glob(f"runs/*/{RECORD_FILE}")
    files = {
        "chains": record_file(folder.chains),
        "half-done answers": folder.root / HALF_DONE / RECORD_FILE,
        "student": folder.training / DONE_FILE,
        "checkpoints": checkpoints,
        "sweep": sweep,
    }
    records: dict[str, Record] = {}
    for name, file in files.items():
        before = read_record(file)
        assert before is not None, file
        records[name] = before
    stages = json.loads((folder.root / "stages.json").read_text())
    records |= {f"{name} stage": stage["identity"] for name, stage in stages.items()}
    records |= {
        f"pace of {name!r}": measured.identity
        for name, measured in sample._read(folder.plan).items()
    }
    del records["student"]["summary"]
    records["student"].pop("files", None)  # of the student, which format 1 began without
    return records


def records_now(config: RunConfig) -> dict[str, Record]:
    """The record with which each of them would be made now."""
    corpus, task = corpus_identity(config.folder.corpus), config.questions.task
    teachers = {teacher.name: teacher for teacher in run_teachers(config)}
    model = evaluated_model(config, config.build.teacher)
    training = task_identity(task_of(config))
    questions = records_before(config)["pace of ''"]["questions"]
    return {
        "chains": chains_identity(corpus, {t: teachers[t].identity for t in teachers}, task),
        "half-done answers": answers_identity(corpus, "", model.identity, task),
        "student": training,
        "checkpoints": training,
        "sweep": identity_of(config),
        **{
            f"{name} stage": stage_identity(name, stage_inputs(name, config))
            for name in DEMO_STAGES
        },
        **{f"pace of {t!r}": sample._identity(teachers[t], VERSION, questions) for t in teachers},
    }


def changes(config: RunConfig) -> dict[str, list[str]]:
    """Kind of result → how its frozen record differs from that of these settings, where it does."""
    before, now = records_before(config), records_now(config)
    assert before.keys() == now.keys()
    # The store's record has a list of numbers for each rule, which the build compares by itself.
    ignored = {"chains": ("rules",)}
    found = {
        name: differences(before[name], now[name], ignore=ignored.get(name, ())) for name in now
    }
    return {name: differ for name, differ in found.items() if differ}


def checkpoint_of(run: RunConfig) -> Path:
    """The checkpoint of the unfinished training."""
    (state,) = run.folder.checkpoints.glob(f"*/*/{STATE_FILE}")
    return state.parent


def compared(config: RunConfig) -> tuple[Comparison, dict[str, list[TrainedStudent]]]:
    """The result of `steper compare`."""
    with stage_progress("compare", "comparing") as progress:
        return compare(config, progress, train_student)
