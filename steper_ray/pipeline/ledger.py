"""Stages one after the other, each skipped while it is up to date: `steper run` and `steper demo`.

`stages.json` in the run folder has, for each stage that finished, the record of its settings
(`steper_ray.run.identity`), a digest of the names, sizes and times of the files that it read, and the
sizes of those that it wrote. A stage that runs again drops the entries of those after it. Running a stage
once too often costs little, as each resumes from its own results; skipping one that has other input, or
has lost its output, would be a wrong result.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError, StageError, find_steper_error
from steper_ray.files import write_whole
from steper_ray.pipeline.execute import run_stage
from steper_ray.pipeline.jobs.named_files import find_files, named_paths
from steper_ray.pipeline.stages import ORDER, STAGES
from steper_ray.ray_runtime.progress import stage_done
from steper_ray.run.dependencies import pick, stage_identity
from steper_ray.run.identity import RULES, check_format, differences, digest
from steper_ray.run.keys import (
    BUILD_KEYS,
    CORPUS_KEYS,
    EVAL_KEYS,
    QUESTIONS_KEYS,
    REASONING_KEYS,
    SELECT_KEYS,
    TOY_KEYS,
    TRAIN_KEYS,
)
from steper_ray.run.lock import locked
from steper_ray.run.versions import CARD, file_sizes
from steper_ray.text import squeeze

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig

Entry = dict[str, Any]
"""What the ledger has of a stage: `identity`, `files`, `outputs` and `seconds`."""


RESULTS: Final = {
    "toy": ("toy",),
    "index": ("corpus",),
    "build": ("chains", "examples", "stats"),
    "train": ("student",),
    "eval": ("evaluation",),
}
"""Properties of RunFolder without which a stage is not finished. What else it writes may be removed."""


UNCHANGED: Final = ("corpus", "student", "evaluation")
"""Those of them that nothing else writes to: their files must be as the stage left them. The others need
only be there: `steper select` writes chains and examples too, as do people."""


def run_pending_stages(names: Sequence[str], config: "RunConfig") -> dict[str, Entry]:
    """Run the stages that are not up to date, in order; every entry of the ledger then.

    Raises InputError and StageError as the stages do, and InputError if another command does the same.
    """
    with locked(config.folder.ledger):
        return _run_pending(names, config)


def _run_pending(names: Sequence[str], config: "RunConfig") -> dict[str, Entry]:
    ledger = config.folder.ledger
    done = _read(ledger)
    for name in names:
        if _is_up_to_date(name, config, done.get(name), ledger):
            line = "up to date: already done with these settings and files"
            stage_done(name, done[name]["seconds"], [line])
            continue
        if name in done and (lost := lost_result(name, config, done[name])) is not None:
            print(f"{name:>6}  runs again: {lost} is missing or damaged", flush=True)
        # later stages depend on this one
        done = {other: done[other] for other in ORDER[: ORDER.index(name)] if other in done}
        write_whole(ledger, json.dumps(done, indent=2) + "\n")
        identity = stage_identity(name, stage_inputs(name, config))
        files = input_digest(name, config)
        seconds = _run(name, config)
        if name == "train" and config.train.dry_run:
            continue  # nothing was trained
        done[name] = {
            "identity": identity,
            "files": files,
            "outputs": {key: _sizes(getattr(config.folder, key)) for key in RESULTS[name]},
            "seconds": round(seconds, 3),
        }
        write_whole(ledger, json.dumps(done, indent=2) + "\n")
    return done


def pending_stages(names: Sequence[str], config: "RunConfig") -> list[str]:
    """The stages that are not up to date: the first one that is not, and all behind it."""
    ledger = config.folder.ledger
    done = _read(ledger)
    for number, name in enumerate(names):
        if not _is_up_to_date(name, config, done.get(name), ledger):
            return list(names[number:])
    return []


def forget(name: str, config: "RunConfig") -> None:
    """Drop the entries of a stage that is run by itself, and of the stages behind it.

    Raises InputError while a command runs stages by the ledger.
    """
    ledger = config.folder.ledger
    if name not in ORDER or not _read(ledger).keys() & set(ORDER[ORDER.index(name) :]):
        return
    with locked(ledger):
        done = _read(ledger)
        kept = {other: done[other] for other in ORDER[: ORDER.index(name)] if other in done}
        write_whole(ledger, json.dumps(kept, indent=2) + "\n")


def _read(ledger: Path) -> dict[str, Entry]:
    done: dict[str, Entry] = json.loads(ledger.read_text()) if ledger.exists() else {}
    return done


def _is_up_to_date(name: str, config: "RunConfig", entry: Entry | None, ledger: Path) -> bool:
    """Whether a stage finished with these settings and files, and its results are still there.

    entry: of the stage in the ledger; those of earlier versions know nothing of files
    """
    if entry is None:
        return False
    check_format(entry["identity"], ledger)
    if lost_result(name, config, entry) is not None:
        return False
    if differences(entry["identity"], stage_identity(name, stage_inputs(name, config))):
        return False
    return "files" not in entry or entry["files"] == input_digest(name, config)


def lost_result(name: str, config: "RunConfig", entry: Entry) -> Path | None:
    """The first result of a stage that is missing, or not as the stage left it.

    entry: of the stage in the ledger; those of earlier versions say nothing of results, which need then
           only be there
    """
    for key in RESULTS[name]:
        path: Path = getattr(config.folder, key)
        sizes, before = _sizes(path), entry.get("outputs", {}).get(key)
        damaged = not all(sizes.values())
        if key in UNCHANGED:
            damaged = before is not None and sizes != before
        if not sizes or damaged:
            return path
    return None


def _sizes(path: Path) -> dict[str, int]:
    """File → bytes, of a folder or a file; empty for what is missing."""
    return {"": path.stat().st_size} if path.is_file() else file_sizes(path)


def stage_inputs(stage: str, config: "RunConfig") -> dict[str, Any]:
    """Settings that a stage depends on beyond the stages before it.

    The run folder stands in them as `{run.dir}`, so that a moved one is the same.
    """
    build, train = config.build, config.train
    inputs: dict[str, dict[str, Any]] = {
        "toy": {"toy": pick(config.toy, TOY_KEYS)},
        "index": {"corpus": {**pick(config.corpus, CORPUS_KEYS), "search_rule": RULES["search"]}},
        "build": {
            "questions": pick(config.questions, QUESTIONS_KEYS),
            "reasoning": pick(config.reasoning, REASONING_KEYS),
            "build": pick(build, BUILD_KEYS),
            "select": pick(config.select, SELECT_KEYS),
        },
        "train": {"run": {"seed": config.run.seed}, "train": pick(train.with_lr(), TRAIN_KEYS)},
        "eval": {"eval": pick(config.eval, EVAL_KEYS)},
    }
    folder = json.dumps(str(config.folder.root))[1:-1]
    moved: dict[str, Any] = json.loads(json.dumps(inputs[stage]).replace(folder, "{run.dir}"))
    return moved


def input_digest(stage: str, config: "RunConfig") -> str:
    """Digest of the names, sizes and times of the local files that a stage reads.

    Also of settings that only the build's record has, where a range begins behind the build.
    """
    rows: list[Any] = [
        [where, str(file.relative_to(base)), file.stat().st_size, file.stat().st_mtime_ns]
        for where, base, files in _inputs(stage, config)
        for file in files
        if file.name != CARD or where.startswith("corpus.")
    ]
    if stage in ("train", "eval"):
        rows.append(pick(config.reasoning, REASONING_KEYS))
    if stage == "eval":
        rows.append(pick(config.questions, QUESTIONS_KEYS))
    return digest(rows)


def _inputs(stage: str, config: "RunConfig") -> Iterator[tuple[str, Path, tuple[Path, ...]]]:
    """What names the files, the folder or file that they are below, and the files.

    That is what earlier stages wrote, what `Stage.reads` says of questions and passages, and whatever else
    the settings of the stage name.
    """
    entry = STAGES[stage]
    read = [name for name in entry.reads if "." not in name and name not in entry.writes]
    places = {name: str(getattr(config.folder, name)) for name in read}
    for setting, address in named_paths(config.model_dump(mode="json")).items():
        section, key, *_ = setting.split(".")
        of_another_stage = key in ("train", "dev", "test") and section == "questions"
        if f"{section}.{key}" in entry.reads or (
            section in entry.sections and not of_another_stage
        ):
            places[setting] = address
    for where, address in places.items():
        if (found := find_files(where, address)) is not None:
            yield where, found.base, found.files


def _run(name: str, config: "RunConfig") -> float:
    """Run one stage; its error then names the stage, its log and how to resume."""
    try:
        return run_stage(name, config)
    except InputError:
        raise
    except Exception as error:
        known = find_steper_error(error)
        if isinstance(known, InputError):
            raise known from None
        reason = str(known) if known else f"{type(error).__name__}: {squeeze(str(error))}"
        raise StageError(
            f"stage {name} failed: {reason[:500]}; its log is {config.folder.latest_log(name)}; "
            "run the same command again to go on from here"
        ) from error
