"""The public interface: names, signatures, and the examples of docs/python-api.md."""

import doctest
import inspect
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import steper_ray
from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.examples import step_examples
from tests.samples import CHAIN

PAGE: Final = Path(__file__).parent.parent / "docs" / "python-api.md"

SIGNATURES: Final = {
    "RunFolder": ("root", "data"),
    "build_chains": (
        *("settings", "*teachers", "*questions", "*corpus", "*out", "*log"),
        "*on_progress=",
    ),
    "evaluate": (
        *("models", "questions", "*corpus", "*out", "*log"),
        *("*abilities=", "*on_progress="),
    ),
    "load_config": ("path", "overrides="),
    "open_retriever": ("folder",),
    "read_chains": ("folder", "ids="),
    "read_examples": ("folder",),
    "reason": (
        *("question", "*engine", "*retriever", "*config"),
        *("*hint=", "*sampling=", "*watch="),
    ),
    "select_examples": (
        *("settings", "*chains", "*out", "*stats", "*reasoning"),
        *("*teachers=", "*task=", "*usage=", "*recorded=", "*decorate="),
    ),
    "train": (
        *("settings", "*examples", "*out", "*seed=", "*reasoning=", "*corpus_version=", "*hub="),
        *("*scheme=", "*prepared=", "*on_prepared=", "*score=", "*add_card=", "*callbacks="),
    ),
}
"""Parameters: `*name` by keyword only, `name=` with a default. Who changes one says it in CHANGELOG.md."""


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_pinned(name: str) -> None:
    parameters = inspect.signature(getattr(steper_ray, name)).parameters.values()
    shown = (
        ("*" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else "")
        + parameter.name
        + ("" if parameter.default is inspect.Parameter.empty else "=")
        for parameter in parameters
    )
    assert tuple(shown) == SIGNATURES[name]


def test_public_names() -> None:
    assert steper_ray.__all__ == sorted(steper_ray._MODULES)
    assert set(steper_ray.__all__) <= set(dir(steper_ray))
    assert set(SIGNATURES) == set(steper_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = steper_ray.trian


def test_import_loads_no_library() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport steper_ray\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(loaded - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["steper_ray"]


def test_page_shows_every_name() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in steper_ray.__all__ if f"`{name}`" not in text] == []


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with a run file, a chain and its examples, as `steper build` writes them."""
    (tmp_path / "run.yaml").write_text("run: {dir: runs/mine}\n")
    chains, data = (tmp_path / "runs" / "mine" / name for name in ("chains", "stepwise/data"))
    for folder, rows, schema in (
        (chains, [CHAIN], CHAIN_SCHEMA),
        (data, step_examples(CHAIN, ReasoningConfig()), STEP_EXAMPLE_SCHEMA),
    ):
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema)
        pq.write_table(table, folder / "0.parquet")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 10
    shown: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=shown.append)
    assert not results.failed, "".join(shown)
