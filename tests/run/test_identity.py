import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from steper_ray.engines.settings import EndpointConfig
from steper_ray.errors import InputError
from steper_ray.run import identity
from steper_ray.run.config import RunConfig
from steper_ray.run.dependencies import pick
from steper_ray.run.identity import (
    FORMAT,
    RECORD_FILE,
    because,
    differences,
    find_folder,
    read_record,
    record,
    write_record,
)
from steper_ray.run.keys import DEPENDED_ON, ENDPOINT_KEYS, EXCLUDED

BODY = {
    "train": {"lr": 0.1, "lora": None, "ability_means": "batch", "mix": None},
    "ensemble": {"a": {"k": 4}, "b": {"k": 5}},
}


def keys_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The path of every key, of models within as well."""
    for name, field in model.model_fields.items():
        inner = list(models_in(field.annotation))
        if not inner:
            yield path + name
        for found in inner:
            yield from keys_of(found, f"{path}{name}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def test_it_is_decided_of_every_key_whether_a_result_depends_on_it() -> None:
    known = {
        f"{section}.{key}"
        for table in (DEPENDED_ON, EXCLUDED)
        for section, keys in table.items()
        for key in keys
    }
    keys = set(keys_of(RunConfig))
    new = sorted(keys - known)
    assert not new, (
        f"{', '.join(new)}: decide in steper_ray/run/keys.py whether a result depends on it. If none "
        "does, add it to EXCLUDED; else add it to the keys of that result, and to ADDED the value with "
        "which the code before did what it did"
    )
    assert not sorted(known - keys), "listed in steper_ray/run/keys.py, and no key any more"
    both = [
        f"{section}.{key}"
        for section, keys in DEPENDED_ON.items()
        for key in keys
        if key in EXCLUDED.get(section, ())
    ]
    assert not both


def test_a_key_that_nobody_decided_on_is_found() -> None:
    class Inner(BaseModel):
        old: int = 1

    class Section(BaseModel):
        plain: str = ""
        one: Inner | None = None
        many: dict[str, Inner] = {}
        some: tuple[Inner, ...] = ()

    assert set(keys_of(Section)) == {"plain", "one.old", "many.old", "some.old"}
    section = Section(one=Inner(), many={"a": Inner()}, some=(Inner(), Inner(old=2)))
    assert pick(section, ["one.old", "many.old", "some.old"]) == {
        "one": {"old": 1},
        "many": {"a": {"old": 1}},
        "some": [{"old": 1}, {"old": 2}],
    }
    assert pick(Section(), ["one.old"]) == {"one": None}


def test_differences_by_hand() -> None:
    before = record("training", BODY, ["objective"])
    assert differences(before, record("training", BODY, ["objective"])) == []
    train = {"lr": 0.2, "lora": {"rank": 8}, "ability_means": "batch", "mix": None}
    other = {"train": train, "ensemble": {"a": {"k": 4}}}
    assert differences(before, record("training", other, ["objective"])) == [
        "train.lr: 0.1 → 0.2",
        "train.lora: None → {'rank': 8}",
        "ensemble.b: {'k': 5} → nothing",
    ]
    assert differences(before, record("training", other), ignore=("train", "rules")) == [
        "ensemble.b: {'k': 5} → nothing"
    ]
    found = ["train.lr: 0.1 → 0.2", "a: 1 → 2", "b: 1 → 2", "c: 1 → 2"]
    assert because(found) == (
        "train.lr changed (0.1 → 0.2), a changed (1 → 2), b changed (1 → 2) and 1 more"
    )


def test_a_raised_rule_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before = record("training", BODY, ["objective", "tokens"])
    raised = identity.RULES["objective"] + 1
    monkeypatch.setitem(identity.RULES, "objective", raised)
    now = record("training", BODY, ["objective", "tokens"])
    assert differences(before, now) == [f"rules.objective: {raised - 1} → {raised}"]


def test_a_key_added_later_has_in_older_records_what_the_code_did_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = json.loads(json.dumps(record("training", BODY)))
    grown = json.loads(json.dumps(BODY))
    grown["train"]["clip"] = 1.0
    for teacher in grown["ensemble"].values():
        teacher["top_k"] = None
    now = record("training", grown)
    assert differences(before, now)[0] == "train.clip: nothing → 1.0"
    monkeypatch.setitem(identity.ADDED, "training.train.clip", 1.0)
    monkeypatch.setitem(identity.ADDED, "training.ensemble.*.top_k", None)
    monkeypatch.setitem(identity.ADDED, "training.train.lora.bias", "none")  # no adapters then
    monkeypatch.setitem(identity.ADDED, "sweep.train.other", 1)  # of another kind of result
    assert differences(before, now) == []
    grown["train"]["clip"] = 2.0
    assert differences(before, record("training", grown)) == ["train.clip: 1.0 → 2.0"]


def test_an_endpoint_of_an_older_record_was_asked_as_by_default() -> None:
    """Wherever records have an endpoint: its keys that were added later had no other values then."""
    added = ("max_reasoning_tokens", "send_stop", "send_sampling", "extra_body")
    endpoint = EndpointConfig(base_url="http://h/v1")
    now = pick(endpoint, ENDPOINT_KEYS)
    other = {**now, "send_stop": False}
    before = {key: value for key, value in now.items() if key not in added}
    assert before.keys() == {"base_url", "api", "tokenizer"}

    def records(endpoint: dict[str, Any]) -> list[dict[str, Any]]:
        asked = {"endpoint": endpoint, "retriever": "bm25", "task": "qa"}
        return [
            record("chains", {**asked, "ensemble": {"far": asked}}),
            record("answers", asked),
            record("measurement", asked),
            record("stage", {"build": {**asked, "ensemble": [asked, {"endpoint": None}]}}),
        ]

    for old, new, changed in zip(records(before), records(now), records(other), strict=True):
        assert differences(old, new) == []
        assert any("endpoint.send_stop: True → False" in one for one in differences(old, changed))


@pytest.mark.parametrize(("framework", "cue"), [("ircot", "Step"), ("self_ask", None)])
def test_prompts_had_a_fixed_cue_before_it_could_be_set(framework: str, cue: str | None) -> None:
    reasoning = {"framework": framework, "max_steps": 5}
    same = {"retriever": "bm25", "task": "qa"}
    asked = {**same, "reasoning": reasoning, "ensemble": {"a": {"reasoning": reasoning}}}
    now = {
        **reasoning,
        "template_date": "2024-07-26",
        "max_passage_tokens": 0,
        "cue": cue,
        "whole_line": True,
    }
    today = {**same, "reasoning": now, "ensemble": {"a": {"reasoning": now}}}
    assert differences(record("chains", asked), record("chains", today)) == []
    other = {**same, "reasoning": {**now, "cue": "Fact"}, "ensemble": {"a": {"reasoning": now}}}
    assert differences(record("chains", asked), record("chains", other)) == [
        f"reasoning.cue: {cue!r} → 'Fact'"
    ]


def test_a_renamed_key_is_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = record("training", BODY)
    renamed = {
        **BODY,
        "train": {"learning_rate": 0.1, "lora": None, "ability_means": "batch", "mix": None},
    }
    assert len(differences(before, record("training", renamed))) == 2
    monkeypatch.setitem(identity.RENAMED, "training.train.lr", "learning_rate")
    assert differences(before, record("training", renamed)) == []


def test_what_a_newer_version_wrote_is_refused_with_that_version(tmp_path: Path) -> None:
    file = tmp_path / RECORD_FILE
    assert read_record(file) is None
    file.write_text("{")
    assert read_record(file) is None
    write_record(file, {**record("training", BODY), "format": FORMAT + 1, "steper_ray": "9.1.0"})
    with pytest.raises(
        InputError, match=r"identity\.json: written by steper_ray 9\.1\.0"
    ) as refused:
        read_record(file)
    assert "\n" not in str(refused.value)


def test_a_folder_is_found_by_its_record_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = record("training", BODY)
    folder, others = find_folder(tmp_path, now, "train-")
    assert folder.name.startswith("train-")
    assert others == []
    write_record(folder / RECORD_FILE, now)
    assert find_folder(tmp_path, now, "train-") == (folder, [])

    grown = {**BODY, "new": 3}
    other, others = find_folder(tmp_path, record("training", grown), "train-")
    assert other != folder
    assert others == [(folder, ["new: nothing → 3"])]
    monkeypatch.setitem(identity.ADDED, "training.new", 3)
    assert find_folder(tmp_path, record("training", grown), "train-") == (folder, [])
