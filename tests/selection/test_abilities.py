"""Abilities are data: another scheme goes through selection, statistics, shards, card, table and screen."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from rich.console import Console

from steper_ray.errors import InputError
from steper_ray.pipeline.select import select_run
from steper_ray.planning.costs import ALL, chain_costs
from steper_ray.planning.forecast import forecast_data
from steper_ray.reasoning.frameworks import ircot
from steper_ray.selection.abilities import (
    SCHEMES,
    STEPER,
    AbilityScheme,
    ability_scheme,
    recorded_scheme,
)
from steper_ray.selection.choice import judge
from steper_ray.selection.show import show
from tests.reports.test_dataset_card import tables
from tests.samples import CHAIN, config, numbered, write


def _four(step: int, steps: int) -> str:
    """The first step, the last, and between them the first half and the second."""
    if step in (1, steps):
        return "begin" if step == 1 else "close"
    return "early" if 2 * step <= steps else "late"


FOUR = AbilityScheme("four", ("begin", "early", "late", "close"), _four)


def test_abilities_of_steper() -> None:
    assert [STEPER.of(1, 1)] == ["agg"]
    assert [STEPER.of(s, 2) for s in (1, 2)] == ["init", "agg"]
    assert [STEPER.of(s, 4) for s in (1, 2, 3, 4)] == ["init", "exp", "exp", "agg"]


def test_a_record_gives_its_scheme_back_and_no_other() -> None:
    record = json.loads(json.dumps(STEPER.record()))
    assert recorded_scheme(record, "stats.json") is STEPER
    for other in ({**record, "names": ["init", "agg"]}, {**record, "name": "four"}, {}):
        with pytest.raises(InputError, match=r"stats\.json: made with ability scheme"):
            recorded_scheme(other, "stats.json")


def test_an_unknown_scheme_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = config(tmp_path, abilities="four")
    write(run.folder.chains, [CHAIN])
    with pytest.raises(InputError, match="no ability scheme is named 'four'; choose one of steper"):
        select_run(run)
    assert [file.name for file in tmp_path.iterdir()] == ["chains"]
    assert ability_scheme("steper") is STEPER


def test_four_abilities_from_chains_to_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEMES, "four", FOUR)
    run = config(tmp_path, abilities="four")
    # two chains of three steps: begin, late, close; one of one step: begin
    chains = [
        *numbered(range(2)),
        *numbered([2], steps=CHAIN.steps[2:], passages=CHAIN.passages[2:]),
    ]
    write(run.folder.chains, chains)
    selected = select_run(run)
    expected = {"begin": 3, "early": 0, "late": 2, "close": 2}
    assert selected.examples == expected
    assert list(selected.examples) == list(FOUR.names)

    rows = pq.read_table(run.folder.examples).to_pylist()
    assert [row["ability"] for row in rows] == [*2 * ["begin", "late", "close"], "begin"]
    stats = json.loads(run.folder.stats.read_text())
    assert stats["abilities"] == {"name": "four", "names": ["begin", "early", "late", "close"]}
    assert stats["examples"] == stats["hops"]["3"]["examples"] == expected
    assert list(stats["tokens"]["prompt"]["abilities"]) == ["begin", "late", "close"]

    found = tables(DatasetCard.load(run.folder.dataset / "README.md").text)
    abilities, hops = found[1], found[2]
    assert [(row[0], row[2]) for row in abilities[1:]] == [
        *(("begin", "3"), ("early", "0"), ("late", "2"), ("close", "2"))
    ]
    assert hops == [
        ["Hops", "Chains", "Kept", "begin", "early", "late", "close"],
        ["3", "3", "3", "3", "0", "2", "2"],
    ]
    assert (run.folder.dataset / "prompt_tokens.png").is_file()

    console = Console(file=io.StringIO(), width=200)
    show(run.folder.chains, "q000", select=run.select, framework="ircot", console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split()[2] for line in said.splitlines() if line.startswith("step ")] == [
        *("begin", "late", "close")
    ]

    costs = [chain_costs(chain, judge(chain, run.select, ircot), FOUR) for chain in chains]
    plan = forecast_data(costs, frozenset(), [], run.select, 1.0)
    assert {a: e and e.value for a, e in plan.examples.items()} == {**expected, ALL: 7}
