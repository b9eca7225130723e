"""The chain store: a folder of chains that grows, and is never silently mixed with other settings' chains.

    chains/                  Parquet, every chain once, whole or not at all
    chains.settings.json     what the chains were made with
    chains.new.partial/      while a build is at work: what is done so far
    chains.new/              all of it, about to be put into chains/
    chains.lock              held by the build at work

A chain that is there is not asked for again. One that carries an error is: the new one takes its place.
Other settings against chains that exist are refused with the differences, unless the user says to start
afresh; only the ensemble may grow.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.schema import CHAIN_SCHEMA

MISSING = object()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Held by whoever writes to `out`; raises InputError at once if somebody else does."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_name(out.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another command is writing to it; wait for it, or give this one a run.dir of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()


def settings_file(out: Path) -> Path:
    """What the chains of a folder were made with."""
    return out.with_name(out.name + ".settings.json")


def new_dir(out: Path) -> Path:
    """Where chains are written that are not in the store yet."""
    return out.with_name(out.name + ".new")


def take_up(out: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """See that what is there was made with these settings, and write them down.

    settings: nested plain values; under `ensemble`, those of each further teacher by its name
    fresh:    throw away what is there, whatever it was made with
    Raises InputError with every difference if chains made with other settings exist.
    """
    file = settings_file(out)
    _recover(out)
    at_work = [new_dir(out), out.with_name(new_dir(out).name + ".partial")]
    if fresh:
        for folder in (out, *at_work):
            shutil.rmtree(folder, ignore_errors=True)
    present = any(folder.is_dir() for folder in (out, *at_work))
    if present and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(settings))
        joined = now.get("ensemble", {}).keys() - before.get("ensemble", {}).keys()
        for name in joined:
            del now["ensemble"][name]
        differences = list(_differences(before, now))
        if differences:
            raise InputError(
                f"{out}: made with other settings: {'; '.join(differences)}. Go back to them, take another "
                "run.dir, or start over with `steper build --fresh`"
            )
    elif present:
        raise InputError(
            f"{out}: no {file.name} says what its chains were made with; take another run.dir, "
            "or start over with `steper build --fresh`"
        )
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    write_whole(file, text)
    if new_dir(out).is_dir():
        add(out)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """`key: before → now`, one for each value that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(before.get(key, MISSING), now.get(key, MISSING), inner)
    elif before != now:
        was, is_ = ("nothing" if value is MISSING else repr(value) for value in (before, now))
        yield f"{path}: {was} → {is_}"


def known(out: Path) -> dict[str, float | None]:
    """Id of each chain that is there → its exact match; None where it carries an error."""
    import pyarrow.dataset as ds

    files = [str(file) for file in sorted(out.glob("*.parquet"))]
    if not files:
        return {}
    rows = (
        ds.dataset(files, schema=CHAIN_SCHEMA).to_table(columns=["id", "em", "error"]).to_pylist()
    )
    return {row["id"]: None if row["error"] is not None else row["em"] for row in rows}


def add(out: Path) -> None:
    """Put the chains of `new_dir(out)` into `out`; a chain of the same id is replaced."""
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
    """Finish or undo what a killed `add` had begun."""
    if _old(out).is_dir() and not out.is_dir():
        # Everything old is in the new folder too, for that was filled before.
        new = new_dir(out)
        (new if new.is_dir() else _old(out)).rename(out)
    shutil.rmtree(_old(out), ignore_errors=True)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file where the storage has such; else a copy. One already there is replaced."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
