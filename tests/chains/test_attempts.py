"""Ids of chains: those of two questions must differ."""

from dataclasses import replace

import pytest

from steper_ray.chains.attempts import check_ids
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import InputError
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Question

TEACHER = Reasoner("m", ReasoningConfig(), EngineConfig(), samples=2, temperature=0.7)


def questions(*ids: str) -> list[Question]:
    return [Question(id, "q?", "x") for id in ids]


@pytest.mark.parametrize(
    ("ids", "clash"),
    [
        (("q", "q#2"), "q#2"),
        (("q:corrected", "q"), "q:corrected"),
        (("q@t", "q"), "q@t"),
        (("q", "r", "q@t#2:rationalized"), "q@t#2:rationalized"),
    ],
)
def test_ids_that_would_clash_are_refused(ids: tuple[str, ...], clash: str) -> None:
    teachers = [TEACHER, replace(TEACHER, name="t")]
    with pytest.raises(InputError) as caught:
        check_ids(teachers, questions(*ids))
    assert f"would both have chains of the id {clash!r}" in str(caught.value)


def test_marks_in_ids_are_no_fault_in_themselves() -> None:
    check_ids([TEACHER], questions("q", "q#3", "q@t", "a:b", "x#2"))
    check_ids([replace(TEACHER, samples=1)], questions("q", "q#2"))
