from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_files
from steper_ray.chains.store import (
    existing_chains,
    is_scored,
    merge_new,
    new_dir,
    partial_dir,
    prepare_store,
    record_file,
    record_scored,
)
from steper_ray.errors import InputError
from steper_ray.run.identity import RULES, Record, read_record, record, write_record

SETTINGS = {
    "retriever": "bm25",
    "task": "qa",
    "teacher": "a",
    "reasoning": {
        "max_steps": 5,
        "k": 4,
        "template_date": "2024-07-26",
        "max_passage_tokens": 0,
        "cue": None,
        "whole_line": False,
    },
}


def stored_record(out: Path) -> Record:
    """The record of a store, which is there."""
    record = read_record(record_file(out))
    assert record is not None
    return record


def write(folder: Path, rows: dict[int, str | None], file: str = "part.parquet") -> None:
    """Chains that say nothing but their id, their error, and where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(
        [
            {"id": f"q{n}", "em": float(n % 2), "error": error, "model": file}
            for n, error in rows.items()
        ],
        CHAIN_SCHEMA,
    )
    pq.write_table(table, folder / file)


@pytest.fixture(autouse=True)
def first_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules by number 1, whichever numbers they have by now."""
    for name in RULES:
        monkeypatch.setitem(RULES, name, 1)


def read(folder: Path) -> dict[str, tuple[str | None, str]]:
    rows = pq.read_table(folder, columns=["id", "error", "model"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows), "a chain is there twice"
    return {row["id"]: (row["error"], row["model"]) for row in rows}


def chains_record(ensemble: dict[str, Any] | None = None, **made_with: Any) -> Record:
    return record(
        "chains",
        {**SETTINGS, **made_with, "ensemble": ensemble or {}},
        ("match", "parse", "search"),
    )


def test_other_settings_are_refused_with_every_difference(tmp_path):
    out = tmp_path / "chains"
    prepare_store(out, chains_record())
    prepare_store(out, chains_record(teacher="nothing was made with a yet"))
    prepare_store(out, chains_record())
    write(out, {1: None})
    prepare_store(out, chains_record())
    other = chains_record(
        teacher="b", reasoning={"max_steps": 5, "cue": None, "whole_line": False}, samples=2
    )
    with pytest.raises(InputError) as refused:
        prepare_store(out, other)
    for difference in ("teacher: 'a' → 'b'", "reasoning.k: 4 → nothing", "samples: nothing → 2"):
        assert difference in str(refused.value)
    assert "max_steps" not in str(refused.value)
    assert "--fresh" in str(refused.value)
    assert stored_record(out)["teacher"] == "a"
    assert out.is_dir()

    prepare_store(out, other, fresh=True)
    assert not out.exists()
    assert stored_record(out)["teacher"] == "b"


def test_chains_that_nobody_knows_the_settings_of_are_refused(tmp_path):
    write(tmp_path / "chains", {1: None})
    with pytest.raises(InputError, match=r"no chains\.identity\.json"):
        prepare_store(tmp_path / "chains", chains_record())


def test_the_ensemble_may_grow_and_not_change(tmp_path):
    out = tmp_path / "chains"
    prepare_store(out, chains_record({"b": {"teacher": "/b"}}))
    write(out, {1: None})
    grown = {"c": {"teacher": "/c"}, "b": {"teacher": "/b"}}
    prepare_store(out, chains_record(grown))
    assert stored_record(out)["ensemble"] == grown
    with pytest.raises(InputError, match=r"ensemble\.c: \{'teacher': '/c'\} → nothing"):
        prepare_store(out, chains_record({"b": {"teacher": "/b"}}))
    with pytest.raises(InputError, match=r"ensemble\.b\.teacher: '/b' → '/d'"):
        prepare_store(out, chains_record({**grown, "b": {"teacher": "/d"}}))


def test_chains_of_another_rule_are_mixed_only_if_that_is_said(tmp_path, monkeypatch):
    out = tmp_path / "chains"
    prepare_store(out, chains_record())
    write(out, {1: None, 2: "failed", 3: None})
    monkeypatch.setitem(RULES, "search", 2)
    with pytest.raises(InputError) as refused:
        prepare_store(out, chains_record())
    assert str(refused.value) == (
        f"{out}: 3 chains were made with search rule 1, new ones with 2; continue with --mix (build.mix) "
        "or start a new run.dir"
    )
    prepare_store(out, chains_record(), mix=True)
    assert stored_record(out)["rules"]["search"] == [1, 2]
    prepare_store(out, chains_record())  # what is new is not mixed again
    assert stored_record(out)["rules"]["search"] == [1, 2]
    monkeypatch.setitem(RULES, "search", 3)
    with pytest.raises(
        InputError, match="3 chains were made with search rule 1 and 2, new ones with 3"
    ):
        prepare_store(out, chains_record())


def test_a_raised_rule_of_scoring_asks_for_scores_only(tmp_path, monkeypatch):
    out = tmp_path / "chains"
    assert is_scored(out, "qa")
    prepare_store(out, chains_record())
    write(out, {1: None})
    assert is_scored(out, "qa")
    monkeypatch.setitem(RULES, "match", 2)
    prepare_store(out, chains_record())
    assert not is_scored(out, "qa")
    partial_dir(out).mkdir()  # of a build that was interrupted: its chains are not scored yet
    record_scored(out, "qa")
    assert not is_scored(out, "qa")
    partial_dir(out).rmdir()
    record_scored(out, "qa")
    assert is_scored(out, "qa")
    assert stored_record(out)["rules"]["search"] == [1]


def test_another_task_asks_for_scores_only(tmp_path):
    out = tmp_path / "chains"
    prepare_store(out, chains_record())
    write(out, {1: None})
    prepare_store(out, chains_record(task="numbers"))
    assert is_scored(out, "qa")
    assert not is_scored(out, "numbers")
    record_scored(out, "numbers")
    assert is_scored(out, "numbers")
    assert not is_scored(out, "qa")
    older = {name: value for name, value in stored_record(out).items() if name != "task"}
    write_record(record_file(out), older)  # before there were tasks, all chains were scored by qa
    assert is_scored(out, "qa")
    assert not is_scored(out, "numbers")


def test_chains_of_a_newer_version_are_refused(tmp_path):
    out = tmp_path / "chains"
    prepare_store(out, chains_record())
    write(out, {1: None})
    write_record(record_file(out), {**stored_record(out), "format": 2, "steper_ray": "7.0"})
    for use in (
        chain_files,
        lambda folder: is_scored(folder, "qa"),
        lambda folder: prepare_store(folder, chains_record()),
    ):
        with pytest.raises(InputError, match=r"written by steper_ray 7\.0 in format 2"):
            use(out)


def test_what_is_known_of_chains(tmp_path):
    out = tmp_path / "chains"
    assert existing_chains(out) == {}
    write(out, {1: None, 2: "prompt too long", 4: None})
    assert existing_chains(out) == {"q1": True, "q2": None, "q4": False}


@settings(deadline=None)  # it writes files
@given(
    old=st.dictionaries(st.integers(0, 9), st.none() | st.just("failed"), max_size=8),
    new=st.dictionaries(st.integers(0, 9), st.none() | st.just("failed"), min_size=1, max_size=8),
    cut=st.integers(0, 8),
)
def test_new_chains_take_the_place_of_old_ones(tmp_path_factory, old, new, cut):
    out = tmp_path_factory.mktemp("store") / "chains"
    halves = list(old.items())[:cut], list(old.items())[cut:]
    for name, half in zip(("a.parquet", "b.parquet"), halves, strict=True):
        if half:
            write(out, dict(half), name)
    before = read(out) if out.is_dir() else {}
    write(new_dir(out), new, "c.parquet")
    merge_new(out)
    assert read(out) == before | {f"q{n}": (error, "c.parquet") for n, error in new.items()}
    assert [path.name for path in out.parent.iterdir()] == ["chains"]


@pytest.mark.parametrize("moment", ["before", "between"])
def test_what_a_killed_build_had_ready_is_put_in(tmp_path, moment):
    out = tmp_path / "chains"
    prepare_store(out, chains_record())
    write(out, {1: None, 2: "failed"}, "a.parquet")
    write(new_dir(out), {2: None, 3: None}, "b.parquet")
    if moment == "between":
        # As `add` had it: the new folder filled, the old one moved away.
        pq.write_table(
            pq.read_table(out / "a.parquet", schema=CHAIN_SCHEMA).slice(0, 1),
            new_dir(out) / "a.parquet",
        )
        out.rename(tmp_path / "chains.old")
    prepare_store(out, chains_record())
    assert {key: error for key, (error, _) in read(out).items()} == dict.fromkeys(
        ("q1", "q2", "q3")
    )
    assert existing_chains(out) == {"q1": True, "q2": False, "q3": True}
