"""The chain store: a folder of chains that grows, and is never silently mixed with other settings' chains.

    chains/                  Parquet, every chain once, whole or not at all
    chains.identity.json     what the chains were made with (`steper_ray.run.identity`)
    chains.new.partial/      chains that a running build has finished so far
    chains.new/              all new chains, about to be merged into chains/
    chains.lock              held by the command that writes to the store

An existing chain is not asked for again, unless it carries an error: then the new chain replaces it.
Settings that differ from those of existing chains are refused with the differences, unless the user says to
start afresh; only the ensemble may grow. A raised rule by which chains are made is refused too, unless the
user says to mix; the record then keeps every number of the rule. Another task, or a raised rule by which
chains are scored, scores them again.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.errors import InputError
from steper_ray.run.dependencies import SCORING_RULES
from steper_ray.run.identity import RULES, Record, differences, migrated, read_record, write_record


def record_file(out: Path) -> Path:
    """File that records what the chains of a store were made with."""
    return out.with_name(out.name + ".identity.json")


def new_dir(out: Path) -> Path:
    """Folder of finished chains that are not merged into the store yet."""
    return out.with_name(out.name + ".new")


def partial_dir(out: Path) -> Path:
    """Folder that a running build writes to; it becomes `new_dir(out)` when every chain is finished."""
    return out.with_name(new_dir(out).name + ".partial")


def scored_dir(out: Path) -> Path:
    """Folder in which existing chains are scored again."""
    return out.with_name(out.name + ".scored.partial")


def empty_folder(folder: Path) -> Path:
    """The folder, created anew without what it held."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def prepare_store(out: Path, now: Record, *, fresh: bool = False, mix: bool = False) -> None:
    """Check that existing chains were made with what `now` says, then record it.

    now:   from `chains_identity`
    fresh: throw away existing chains, whatever they were made with
    mix:   add chains to those that were made by other rules
    Raises InputError with every difference if chains made with other settings, or by other rules, exist.
    """
    file = record_file(out)
    _recover(out)
    unmerged = [new_dir(out), partial_dir(out)]
    if fresh:
        for folder in (out, *unmerged):
            shutil.rmtree(folder, ignore_errors=True)
    task, numbers = now["task"], {name: [number] for name, number in now["rules"].items()}
    if any(folder.is_dir() for folder in (out, *unmerged)):
        before = read_record(file)
        if before is None:
            raise InputError(
                f"{out}: no {file.name} says what its chains were made with; take another run.dir, "
                "or start over with `steper build --fresh`"
            )
        joined = now["ensemble"].keys() - before["ensemble"].keys()
        same = {name: how for name, how in now["ensemble"].items() if name not in joined}
        found = differences(before, {**now, "ensemble": same}, ignore=("rules", "task"))
        if found:
            raise InputError(
                f"{out}: made with other settings: {'; '.join(found)}. Go back to them, take another "
                "run.dir, or start over with `steper build --fresh`"
            )
        numbers = _rule_numbers(out, before, now, mix=mix)
        task = migrated(before)["task"]  # until the chains are scored again
    write_record(file, {**now, "task": task, "rules": numbers})
    if new_dir(out).is_dir():
        merge_new(out)


def _rule_numbers(out: Path, before: Record, now: Record, *, mix: bool) -> dict[str, list[int]]:
    """Every number of each rule by which the chains of a store are made, this build's included.

    Rules by which chains are scored keep their numbers until the chains are scored again.
    Raises InputError for another number of any other rule, unless both may be mixed.
    """
    numbers: dict[str, list[int]] = {}
    others = []
    for name, number in now["rules"].items():
        numbers[name] = list(before["rules"].get(name, [1]))  # a rule begins with 1
        if name not in SCORING_RULES and numbers[name][-1] != number:
            old = " and ".join(map(str, numbers[name]))
            others.append(f"{name} rule {old}, new ones with {number}")
            numbers[name] = [*(n for n in numbers[name] if n != number), number]
    if others and not mix:
        raise InputError(
            f"{out}: {len(existing_chains(out)) or 'unfinished'} chains were made with "
            f"{'; with '.join(others)}; continue with --mix (build.mix) or start a new run.dir"
        )
    return numbers


def is_scored(out: Path, task: str) -> bool:
    """Whether the chains are scored by a task, by the current rules; assumed of a store without a record.

    Raises InputError if a newer version has written the chains.
    """
    before = read_record(record_file(out))
    if before is None:
        return True
    by_rules = all(before["rules"].get(name, [1]) == [RULES[name]] for name in SCORING_RULES)
    return by_rules and migrated(before)["task"] == task


def record_scored(out: Path, task: str) -> None:
    """Record that the chains are scored by a task, by the current rules.

    Unless unfinished chains of a build exist, which are not.
    """
    before = read_record(record_file(out))
    if before is not None and not partial_dir(out).is_dir():
        scored = {name: [RULES[name]] for name in SCORING_RULES}
        write_record(
            record_file(out), {**before, "task": task, "rules": {**before["rules"], **scored}}
        )


def right_of(row: Mapping[str, Any]) -> float:
    """Whether a chain's answer is right, 0 or 1; without the column an exact match is (rule 1)."""
    right: float = row["em"] if row.get("right") is None else row["right"]
    return right


def existing_chains(out: Path) -> dict[str, bool | None]:
    """Id of each chain in the store → whether it is right, None for a chain that carries an error."""
    import pyarrow.dataset as ds

    files = [str(file) for file in sorted(out.glob("*.parquet"))]
    if not files:
        return {}
    table = ds.dataset(files, schema=CHAIN_SCHEMA).to_table(columns=["id", "error", "right", "em"])
    return {
        row["id"]: None if row["error"] is not None else right_of(row) == 1.0
        for row in table.to_pylist()
    }


def merge_new(out: Path) -> None:
    """Merge the chains of `new_dir(out)` into `out`, replacing chains of the same ids."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    new = new_dir(out)
    if out.is_dir():
        ids = pq.read_table(new, columns=["id"])["id"].combine_chunks()
        for file in sorted(out.glob("*.parquet")):
            keep = pc.invert(pc.is_in(pq.read_table(file, columns=["id"])["id"], value_set=ids))
            if pc.all(keep).as_py():
                _link(file, new / file.name)
            elif pc.any(keep).as_py():
                table = pq.read_table(file, schema=CHAIN_SCHEMA).filter(keep)
                pq.write_table(table, new / file.name)
        out.rename(_old(out))
    new.rename(out)
    shutil.rmtree(_old(out), ignore_errors=True)


def _old(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def _recover(out: Path) -> None:
    """Finish or undo a merge that was killed."""
    if _old(out).is_dir() and not out.is_dir():
        # The new folder holds every old chain too: it is filled before the old one is renamed.
        new = new_dir(out)
        (new if new.is_dir() else _old(out)).rename(out)
    shutil.rmtree(_old(out), ignore_errors=True)


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link a file where the storage can, else copy it; an existing target is replaced."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
