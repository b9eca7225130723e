"""The card says every fact, as a Markdown and a YAML reader of others' make see it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from huggingface_hub import ModelCard

from steper_ray.reports.student_card import (
    BEGIN,
    END,
    PICTURES,
    Card,
    add_scores,
    render_card,
    write_card,
)
from steper_ray.run.secrets import public_name
from steper_ray.training.settings import TrainConfig
from tests.markdown import MARKDOWN, shown, tables
from tests.samples import CARD, SCORES

NASTY: Final = (
    "a | b",
    'say "hi": it\'s',
    "`tick` ``two``",
    "*bold* _it_ __b__ ~~gone~~",
    "<b>html</b> <!-- x",
    "[link](http://x.y) ![i](j)",
    "back\\|slash\\",
    "# - > 1. --- |",
    "{{ card }} {% raw %}",
    "&amp; &#124;",
    "---\nlicense: mit\n---",
    "日本語 ü σ",
    "null",
    "@someone $x$",
)


def shown_settings(card: Card) -> Any:
    """The settings that a card shows, read back."""
    blocks = [
        token
        for token in MARKDOWN.parse(ModelCard(render_card(card)).text)
        if token.type == "fence"
    ]
    (block,) = [block.content for block in blocks if block.info == "yaml"]
    return yaml.safe_load(block)


def test_metadata() -> None:
    card = ModelCard(render_card(CARD))
    assert card.data.to_dict() == {
        "base_model": "Some-Org/Base_1.5B",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["steper", "retrieval", "distillation", "multi-hop", "question-answering"],
    }
    assert str(card) == render_card(CARD)


def test_every_fact_is_there() -> None:
    card = ModelCard(render_card(CARD))
    assert tables(card.text) == [
        [
            ["Setting", "Value"],
            ["Prompt layout, next query, stopping rule", "ircot"],
            ["Passages a step, k", "3"],
            ["Most steps, S", "6"],
            ["Longest prompt", "4,321 tokens"],
        ],
        [["Ability", "Examples"], ["init", "1,112"], ["exp", "2,223"], ["agg", "1,114"]],
        [
            ["", ""],
            ["Objective", "difficulty"],
            ["Abilities", "init, exp, agg"],
            ["Optimizer steps", "345"],
            ["Epochs", "9"],
            ["Input tokens, all epochs", "12,345,678"],
            ["Supervised tokens, all epochs", "987,654"],
            ["Workers", "8"],
            ["Wall clock", "3,605 s"],
            ["torch", "2.13.0"],
            ["ray", "2.60.0"],
        ],
        [
            ["Ability", "Loss L of the last batch, nats", "Difficulty σ"],
            ["init", "0.5123", "0.7100"],
            ["exp", "–", "0.6200"],
            ["agg", "0.3100", "0.5300"],
        ],
    ]
    text = shown(card.text)
    for sentence in (
        "Some-Org/Base_1.5B, distilled step by step\n",
        "It was made from Some-Org/Base_1.5B with steper_ray, by step-wise knowledge distillation, StepER",
        "(arXiv 2510.07923); its teacher is Some-Org/Teacher-70B.",
        "as steper serve does, not in one go",
        "1,111 chains of reasoning, written by Some-Org/Teacher-70B, over passages",
        "of corpus version c0ffee42.",
        "would have outgrown the context: 77.",
        "Validation loss, the mean of the three abilities on held-out chains: 0.4124 nats at step 321,",
        "Not evaluated yet.",
    ):
        assert sentence in text
    assert "https://arxiv.org/abs/2510.07923" in card.text
    settings = TrainConfig(model="Some-Org/Base_1.5B", lr=1.25e-5).model_dump(mode="json")
    assert shown_settings(CARD) == settings


def test_what_is_not_known_is_not_said() -> None:
    card = replace(CARD, teacher="", corpus_version="", validation_loss=None, validation_step=None)
    text = shown(ModelCard(render_card(card)).text)
    assert "its teacher" not in text
    assert "1,111 chains of reasoning.\n" in text.replace(". ", ".\n")
    assert "No chains were held out for validation." in text


def test_objectives_without_sigma_or_stages() -> None:
    uniform = ModelCard(render_card(replace(CARD, objective="uniform"))).text
    assert tables(uniform)[-1][1] == ["init", "0.5123"]
    assert "σ" not in shown(uniform)
    card = replace(
        CARD,
        objective="vanilla-kd",
        examples={"init": 0, "exp": 0, "agg": 1111},
        losses=dict.fromkeys(CARD.losses),
    )
    text = shown(ModelCard(render_card(card)).text)
    assert "by vanilla knowledge distillation, a baseline of StepER" in text
    assert "its whole path at once: 1,111 examples." in text
    assert "no losses by ability" in text


def test_no_local_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/base").mkdir(parents=True)
    settings = {
        "model": "models/base",
        "resume": str(tmp_path / "runs" / "one"),
        "cache": Path("~/hidden/cache"),
        "lora": {"from": ["../hidden/adapter", "file:///hidden/other"]},
        "tracker": "https://me:hunter2@hidden.example/team",
        "hub": "Some-Org/name",
    }
    card = replace(
        CARD, base_model="models/base", teacher=f"{tmp_path}/the teacher/", settings=settings
    )
    text = render_card(card)
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert "base, distilled step by step" in text
    assert "its teacher is the teacher." in text
    assert shown_settings(card) == {
        "model": "base",
        "resume": "one",
        "cache": "cache",
        "lora": {"from": ["adapter", "other"]},
        "tracker": "team",
        "hub": "Some-Org/name",
    }
    for hidden in (str(tmp_path), tmp_path.name, "models/", "hidden", "hunter2", "~"):
        assert hidden not in text


@pytest.mark.parametrize("name", NASTY)
def test_names_cannot_break_the_card(name: str, tmp_path: Path) -> None:
    one_line = " ".join(name.split())
    card = replace(
        CARD,
        base_model=name,
        teacher=name,
        corpus_version=name,
        settings={"note": name, "nested": {name: [name]}},
        versions={name: name},
    )
    plain = ModelCard(render_card(CARD))
    text = ModelCard(render_card(card)).text
    assert len(tables(text)) == len(tables(plain.text))
    headings = [token.tag for token in MARKDOWN.parse(text) if token.type == "heading_open"]
    assert headings == ["h1", "h2", "h2", "h2", "h2", "h3", "h3", "h2"]
    last = one_line if "/" not in name and "\\" not in name else as_shown_path(one_line)
    assert f"{last}, distilled step by step\n" in shown(text)
    assert [one_line, one_line] in tables(text)[2]
    assert shown_settings(card)["note"] == public_name(name)

    write_card(tmp_path, card)
    scores = {name: SCORES["student"], "other": SCORES["base"]}
    add_scores(tmp_path, name, scores, 10)
    read = ModelCard((tmp_path / "README.md").read_text())
    assert tables(read.text)[-1][1] == [f"{one_line} (this model)", "45.7", "50.0", "100.0"]
    assert read.data.get("model_name") == one_line
    assert "license" not in read.data.to_dict()


def as_shown_path(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def test_settings_cannot_end_their_own_block(tmp_path: Path) -> None:
    note = f"one\n```\n# two\n````\n{BEGIN}\n{END}"
    settings = {"note": public_name(note), "half": "\ud800", "lr": 1.0}
    card = replace(CARD, settings=settings)
    assert shown_settings(card) == settings
    write_card(tmp_path, card)
    add_scores(tmp_path, "student", SCORES, 10)
    text = ModelCard((tmp_path / "README.md").read_text()).text
    assert len(tables(text)) == 5
    (block,) = [token.content for token in MARKDOWN.parse(text) if token.info == "yaml"]
    assert yaml.safe_load(block) == settings


def test_pictures_are_shown_where_they_are(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    assert "Pictures" not in (tmp_path / "README.md").read_text()
    for number, (name, text) in enumerate(PICTURES.items(), 1):
        (tmp_path / name).touch()
        write_card(tmp_path, CARD)
        card = (tmp_path / "README.md").read_text()
        assert f"\n![{text}]({name})\n" in card
        assert card.count("![") == number
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md",
        "losses.png",
        "sigma.png",
    ]


def test_a_card_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with pytest.raises(IsADirectoryError):
        write_card(tmp_path, CARD)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
