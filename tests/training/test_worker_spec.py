import json

import pytest

from steper_ray.errors import InputError
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import SCHEMES, STEPER, AbilityScheme
from steper_ray.training.settings import TrainConfig
from steper_ray.training.worker_spec import read_corpus_version, read_scheme, worker_task


def before_or_last(step: int, steps: int) -> str:
    return "last" if step == steps else "before"


TWO = AbilityScheme("two", ("before", "last"), before_or_last)


@pytest.mark.parametrize(
    ("values", "scheme", "message"),
    [
        ({"objective": "unifrom"}, STEPER, r"train\.objective: .*; did you mean uniform\?"),
        ({"abilities": ["init", "last"]}, STEPER, "has no 'last'; there are init, exp, agg"),
        ({"sigma_init": (1, 1)}, STEPER, r"train\.sigma_init: 2 values for the 3 abilities"),
        ({"fixed_weights": (1, 1, 1, 1)}, STEPER, r"train\.fixed_weights: 4 values for the 3"),
        (
            {"objective": "fixed", "fixed_weights": (1, 0, 0), "abilities": ["exp", "agg"]},
            STEPER,
            r"train\.fixed_weights: exp, agg have weight 0, and nothing else is trained on",
        ),
        ({}, TWO, "ability scheme 'two' has no 'init'; there are before, last"),
        (
            {"abilities": ["last"]},
            TWO,
            "3 values for the 2 abilities of scheme 'two'; give one each",
        ),
    ],
)
def test_settings_that_do_not_fit_the_objective_or_the_scheme_are_refused(
    tmp_path, values, scheme, message
):
    settings = TrainConfig.model_validate({"model": str(tmp_path), **values})
    with pytest.raises(InputError, match=message):
        worker_task(
            settings,
            [],
            out=tmp_path,
            seed=0,
            reasoning=ReasoningConfig(),
            corpus_version="",
            scheme=scheme,
        )


def test_the_scheme_is_that_of_the_examples(tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEMES, "two", TWO)
    file = tmp_path / "stats.json"
    assert read_scheme(file) is STEPER
    file.write_text("{}")
    assert read_scheme(file) is STEPER
    file.write_text(json.dumps({"abilities": TWO.record()}))
    assert read_scheme(file) is TWO
    file.write_text(json.dumps({"abilities": {"name": "two", "names": ["last", "before"]}}))
    with pytest.raises(InputError, match=r"stats\.json"):
        read_scheme(file)


def test_corpus_version_comes_with_the_chains(tmp_path, write_stepwise):
    write_stepwise(tmp_path, [2])
    assert read_corpus_version(tmp_path / "chains") == "v1"
    assert read_corpus_version(tmp_path / "missing") == ""
