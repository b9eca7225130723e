"""The card says every fact, as a Markdown and a YAML reader of others' make see it, and nothing secret."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from steper_ray.errors import InputError
from steper_ray.reports.markdown import as_text
from steper_ray.reports.student_card import (
    BEGIN,
    END,
    PICTURES,
    Card,
    add_scores,
    render_card,
    write_card,
)
from steper_ray.run.secrets import is_secret, public_name, public_settings
from steper_ray.training.settings import TrainConfig

MARKDOWN: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])
CARD: Final = Card(
    base_model="Some-Org/Base_1.5B",
    teacher="Some-Org/Teacher-70B",
    objective="difficulty",
    abilities=("init", "exp", "agg"),
    settings=TrainConfig(model="Some-Org/Base_1.5B", lr=1.25e-5).model_dump(),
    framework="ircot",
    passages_per_step=3,
    max_steps=6,
    max_prompt_tokens=4321,
    corpus_version="c0ffee42",
    chains=1111,
    examples={"init": 1112, "exp": 2223, "agg": 1114},
    dropped_passages=77,
    steps=345,
    epochs=9,
    input_tokens=12345678,
    supervised_tokens=987654,
    losses={"init": 0.51234, "exp": None, "agg": 0.31},
    validation_loss=0.41237,
    validation_step=321,
    sigma={"init": 0.71, "exp": 0.62, "agg": 0.53},
    workers=8,
    seconds=3605.4,
    versions={"torch": "2.13.0", "ray": "2.60.0"},
)
SCORES: Final = {
    "base": {"em": 0.1, "f1": 0.2, "acc": 0.15},
    "student": {"em": 0.45678, "f1": 0.5, "acc": 1.0},
}
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


def shown(markdown: str) -> str:
    """What a reader sees: the text of paragraphs, headings, cells and code."""
    lines = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "inline":
            children = token.children or []
            texts = (" " if child.type == "softbreak" else child.content for child in children)
            lines.append("".join(texts))
        elif token.type in ("fence", "html_block"):
            lines.append(token.content)
    return "\n".join(lines)


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables, each as rows of the text of their cells."""
    found: list[list[list[str]]] = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level >= 4:
            assert {child.type for child in token.children or []} <= {"text"}
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


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


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("Some-Org/name", "Some-Org/name"),
        ("gpt2", "gpt2"),
        ("/", "local folder"),
        ("a\\b\\c", "c"),
        ("/a/b@c", "b@c"),
        ("https://user:pass@host", "host"),
        ("bf16", "bf16"),
    ],
)
def test_public_names(name: str, public: str) -> None:
    assert public_name(name) == public


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_prompt_tokens", 4096), ("micro_batch_tokens", 16384), ("tokens_per_second", 1.5)),
        *(("tokens", None), ("bucket_tokens", [512, 1024]), ("tokenizer", "toy")),
        *(("passages_per_step", 4), ("num_to_keep", 2), ("lr", 1e-5), ("model", "a/b")),
    ],
)
def test_honest_settings_stay(name: str, value: Any) -> None:
    assert not is_secret(name, value)
    assert public_settings({"outer": {name: value}}) == {"outer": {name: value}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("token", "x"),
            ("hf_token", None),
            ("HF_TOKEN", "x"),
            ("hubToken", "x"),
            ("token", 1234),
        ),
        *(("api_key", "x"), ("apikey", "x"), ("keys", ["x"]), ("password", 1234), ("passwd", "x")),
        *(("client_secret", "x"), ("secrets", {"a": 1}), ("credentials", "x")),
        *(("hub_tokens", "x"), ("hub_tokens", ["x", 1]), ("tokens_key", 1), ("tokenizer_key", "x")),
    ],
)
def test_secrets_go(name: str, value: Any) -> None:
    assert is_secret(name, value)
    settings = {"lr": 1.0, name: value, "inner": [{name: value, "kept": 1}]}
    assert public_settings(settings) == {"lr": 1.0, "inner": [{"kept": 1}]}


@given(st.text())
@example("a\\|b")
@example("__a__ _b_ c_d")
@example("\ud800 \x00 \u202e")
@example("http://a.b/c_d_ :x: ^y^")
def test_any_text_is_read_as_it_is_written(text: str) -> None:
    wanted = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    ((_, row),) = tables(f"| a | b |\n|---|---|\n| {as_text(text)} | x |\n")
    assert row == [wanted or "–", "x"]


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


def results(file: Path) -> list[dict[str, Any]]:
    """The model index as the Hub reads it."""
    _, metadata, _ = file.read_text().split("---\n", 2)
    (index,) = yaml.safe_load(metadata)["model-index"]
    found: list[dict[str, Any]] = index["results"]
    return found


def held_out(questions: int, em: float, f1: float, acc: float) -> Mapping[str, Any]:
    return {
        "task": {"type": "question-answering"},
        "dataset": {
            "name": "held-out questions",
            "type": "held-out questions",
            "args": {"questions": questions},
        },
        "metrics": [
            {"type": "exact_match", "name": "Exact match", "value": em},
            {"type": "f1", "name": "F1", "value": f1},
            {"type": "accuracy", "name": "Accuracy", "value": acc},
        ],
    }


def test_scores(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    file = tmp_path / "README.md"
    before = ModelCard(file.read_text())
    add_scores(tmp_path, "student", SCORES, 1200)
    first = file.read_bytes()
    after = ModelCard(file.read_text())
    assert tables(after.text)[:-1] == tables(before.text)
    assert tables(after.text)[-1] == [
        ["Model", "Exact match", "F1", "Accuracy"],
        ["base", "10.0", "20.0", "15.0"],
        ["student (this model)", "45.7", "50.0", "100.0"],
    ]
    assert "On 1,200 held-out questions, in percent:" in shown(after.text)
    assert "Not evaluated yet" not in after.text
    assert results(file) == [held_out(1200, 0.4568, 0.5, 1.0)]
    assert after.data.to_dict().items() >= before.data.to_dict().items()

    add_scores(tmp_path, "student", SCORES, 1200)
    assert file.read_bytes() == first
    add_scores(tmp_path, "mine", {"mine": {"em": 0.25, "f1": 0.3, "acc": 0.35}}, 1)
    assert tables(ModelCard(file.read_text()).text)[-1][1:] == [
        ["mine (this model)", "25.0", "30.0", "35.0"]
    ]
    assert "On 1 held-out question, in percent:" in file.read_text()
    assert results(file) == [held_out(1, 0.25, 0.3, 0.35)]
    add_scores(tmp_path, "student", SCORES, 1200)
    assert file.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_scores_leave_what_a_person_wrote(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    write_card(tmp_path, CARD)
    other = {
        "task": {"type": "question-answering"},
        "dataset": {"name": "HotpotQA", "type": "hotpot_qa"},
        "metrics": [{"type": "f1", "value": 0.7}],
    }
    index = yaml.safe_dump({"model-index": [{"name": "x", "results": [other]}], "license": "mit"})
    written = file.read_text().replace("---\n", f"---\n{index}", 1) + "\nA word of mine.\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + written.encode())
    add_scores(tmp_path, "student", SCORES, 10)
    once = file.read_bytes()
    card = ModelCard(file.read_text())
    assert results(file) == [other, held_out(10, 0.4568, 0.5, 1.0)]
    assert card.data.get("license") == "mit"
    assert card.text.endswith("\nA word of mine.\n")
    add_scores(tmp_path, "student", SCORES, 10)
    assert file.read_bytes() == once


def test_scores_of_a_card_without_marks_are_appended(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# My own card\n\nText.\n")
    add_scores(tmp_path, "student", SCORES, 10)
    once = file.read_text()
    assert "# My own card\n\nText.\n\n## Evaluation\n\n" in once
    assert tables(ModelCard(once).text)[0][2][0] == "student (this model)"
    add_scores(tmp_path, "student", SCORES, 10)
    assert file.read_text() == once


def test_scores_without_a_card(tmp_path: Path) -> None:
    add_scores(tmp_path, "student", SCORES, 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", ["a: [", "- x", "1: x", "model-index: [{}]"])
def test_a_card_that_cannot_be_read(tmp_path: Path, metadata: str) -> None:
    file = tmp_path / "README.md"
    text = f"---\n{metadata}\n---\n\nText.\n"
    file.write_text(text)
    with pytest.raises(InputError, match=r"README\.md: the metadata .* cannot be read") as raised:
        add_scores(tmp_path, "student", SCORES, 10)
    assert "\n" not in str(raised.value)
    assert file.read_text() == text
