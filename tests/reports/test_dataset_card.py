"""The data set's card says every count, as Markdown and YAML readers of others' make see it, no secret."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.select import SETTINGS, select_run
from steper_ray.reports.dataset_card import COLUMNS, render_card
from steper_ray.reports.histograms import PICTURES, write_histograms
from steper_ray.run.loading import load_config
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.rejection import REJECTIONS
from steper_ray.selection.statistics import Counts, describe, histogram
from tests.conftest import ROOT
from tests.hub_server import TOKEN, Hub
from tests.markdown import MARKDOWN, tables
from tests.samples import CHAIN, config, numbered, write


def stats_of(counts: Counts, **changes: Any) -> dict[str, Any]:
    settings = {"build": {"teacher": "Some-Org/Teacher", "limit": 5}}
    build = {"seconds": 3600.4, "tokens_per_second": 1234.56, "versions": {"vllm": "0.29.0"}}
    return {**describe(counts, STEPER), "build": build, "settings": settings, **changes}


def some_counts() -> Counts:
    counts = Counts()
    for chain in numbered(range(1200), hops=lambda n: (2, 3, None)[n % 3], model="Some-Org/T"):
        counts.add(chain, None if chain.id != "q007" else "ungrounded", STEPER)
    cut = replace(CHAIN.steps[0], finish_reason="length")
    counts.add(replace(CHAIN, steps=(cut, cut, CHAIN.steps[2])), "wrong_answer", STEPER)
    return counts


def test_metadata_is_what_the_hub_files_it_by() -> None:
    card = DatasetCard(render_card(stats_of(some_counts()), STEP_EXAMPLE_SCHEMA.names))
    assert card.data.to_dict() == {
        "pretty_name": "Step-wise reasoning",
        "size_categories": "1K<n<10K",
        "task_categories": ["question-answering", "text-generation"],
        "tags": ["steper", "retrieval", "distillation", "multi-hop"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }


def test_every_count_is_there() -> None:
    text = DatasetCard(render_card(stats_of(some_counts()), STEP_EXAMPLE_SCHEMA.names)).text
    assert "3,597 examples" in text
    assert "1,199 chains" in text
    assert "1,201 chains = 1,199 kept + 2 rejected." in text
    columns, abilities, hops, steps, reasons, found, tokens, made = tables(text)
    assert [row[0] for row in columns[1:]] == STEP_EXAMPLE_SCHEMA.names == list(COLUMNS)
    assert [(row[0], row[2]) for row in abilities[1:]] == [
        *(("init", "1,199"), ("exp", "1,199"), ("agg", "1,199"))
    ]
    assert hops[1:] == [
        ["2", "400", "400", "400", "400", "400"],
        ["3", "401", "399", "399", "399", "399"],
        ["unknown", "400", "400", "400", "400", "400"],
    ]
    assert steps[1:] == [["3", "1,199"]]
    assert reasons == [
        ["Reason", "What it means", "Chains", "2 hops", "3 hops", "unknown hops"],
        ["wrong_answer", REJECTIONS["wrong_answer"], "1", "0", "1", "0"],
        ["ungrounded", REJECTIONS["ungrounded"], "1", "0", "1", "0"],
    ]
    assert found == [
        ["Hops", "Chains", "Step 1", "Step 2", "Step 3"],
        ["all", "1,201", "33.3 %", "66.6 %", "100.0 %"],
        ["2", "400", "33.3 %", "66.7 %", "100.0 %"],
        ["3", "401", "33.3 %", "66.6 %", "99.9 %"],
        ["unknown", "400", "33.3 %", "66.7 %", "100.0 %"],
    ]
    assert tokens[1] == ["prompt", "init", "10", "10", "10.0", "10", "10"]
    assert len(tokens) == 7
    assert ["Teacher", "Some-Org/T, 1,200 chains"] in made
    assert ["Teacher", "teacher, 1 chains"] in made
    assert ["Wall clock", "3,600 s with the start of the engines"] in made
    assert ["Written tokens a second", "1,234.6 by the engines"] in made
    assert ["vllm", "0.29.0"] in made
    assert ["Corpus version", "c0ffee"] in made
    assert ["Steps cut off by the limit of tokens", "2"] in made


def test_what_is_not_known_is_not_said() -> None:
    text = render_card(stats_of(Counts(), build=None), STEP_EXAMPLE_SCHEMA.names)
    assert "Wall clock" not in text
    assert "Reason" not in text
    assert "0 examples" in text
    assert "size_categories: n<1K" in text
    assert "![" not in text


def test_settings_stand_there_without_paths_and_secrets(tmp_path: Path) -> None:
    stats = stats_of(Counts(), settings={"build": {"api_key": "sk-1", "teacher": "/home/me/x"}})
    text = render_card(stats, ["id", "`new` |column"])
    assert "sk-1" not in text
    assert "/home/me" not in text
    run = load_config(TOY_RUN_FILE, [f"run.dir={tmp_path}"])
    write(run.folder.chains, [CHAIN])
    select_run(run, {"seconds": 1.0, "tokens_per_second": 1.0, "versions": {}})
    for file in (run.folder.dataset / "README.md", run.folder.stats):
        assert str(tmp_path) not in file.read_text()
        assert "/models" not in file.read_text()
    card = (run.folder.dataset / "README.md").read_text()
    (block,) = [t.content for t in MARKDOWN.parse(card) if t.info == "yaml"]
    shown = yaml.safe_load(block)
    assert list(shown) == list(SETTINGS)
    assert shown["select"] == run.select.model_dump()
    assert shown["reasoning"]["max_steps"] == 5
    assert shown["build"]["teacher"] == "teacher"


def test_pictures_show_the_bars(tmp_path: Path) -> None:
    import matplotlib.image

    tokens = {("init", 120): 10, ("exp", 160): 30, ("agg", 199): 20}
    drawn = {"prompt": histogram(tokens, STEPER.names), "generated": histogram({}, STEPER.names)}
    written = write_histograms(drawn, tmp_path)
    assert [file.name for file in written] == [PICTURES["prompt"][0]]
    pixels = (255 * matplotlib.image.imread(written[0])[:, :, :3]).round().astype(int)
    # The tallest bar is that of 30 examples, in the colour of exp; the others are in proportion.
    heights = {}
    for ability, colour in (("init", 0x2463B4), ("exp", 0xB96A10), ("agg", 0x9C3572)):
        same = (pixels == [colour >> 16, colour >> 8 & 255, colour & 255]).all(axis=2)
        heights[ability] = same[180:].sum(axis=0).max()  # below the legend
    assert heights["init"] / heights["exp"] == pytest.approx(1 / 3, abs=0.02)
    assert heights["agg"] / heights["exp"] == pytest.approx(2 / 3, abs=0.02)
    first = written[0].read_bytes()
    write_histograms(drawn, tmp_path)
    assert written[0].read_bytes() == first


def test_the_data_set_goes_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    write(run.folder.chains, [CHAIN])
    file = tmp_path / "run.yaml"
    file.write_text(f"run: {{dir: '{run.folder.root}'}}")
    command = [sys.executable, "-m", "steper_ray.cli", "select", "--config", str(file)]
    done = subprocess.run(
        [*command, "--push-to-hub", "owner/name"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"pushed → {hub.url}/datasets/owner/name" in done.stdout
    assert [created["type"] for created in hub.created] == ["dataset"]
    folder = run.folder.dataset
    assert hub.files == {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert "data/train-00000-of-00001.parquet" in hub.files
