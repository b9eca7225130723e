"""Single steps against hand-worked verdicts, over the chain of `tests.samples`."""

from dataclasses import replace

import pytest

from steper_ray.errors import ConfigError
from steper_ray.evaluation.abilities import ability_scores, given_steps, judge_step
from steper_ray.evaluation.summary import AbilityScore
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain
from steper_ray.selection.abilities import STEPER
from tests.samples import CHAIN, numbered, step


def written(number: int, rationale: str, *searched: str, **values: object) -> Chain:
    """The chain up to a step that says this, and the search that follows, which brought these passages."""
    before, old = CHAIN.steps[: number - 1], CHAIN.steps[number - 1]
    after = (step("", *searched),) if number < len(CHAIN.steps) else ()
    steps = (*before, replace(old, rationale=rationale), *after)
    return replace(CHAIN, id=f"q1:step-{number}", steps=steps, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "rationale", "searched", "says", "finds"),
    [
        (1, "It is Kek Bibro who plays it.", ("p2",), True, True),
        (1, "Zalk Stumum presents somebody.", ("p2",), False, True),
        (1, "Zalk Stumum presents Kek Bibro.", ("p9",), True, False),
        (2, "In 1984 they praised Old Harbour.", ("p8", "p3"), True, True),
        (2, "They praised Old Harbour.", ("p3",), False, True),  # not when
        (2, "They praised New Harbour in 1984.", (), False, False),
    ],
)
def test_a_step_is_right_if_it_says_what_is_new_and_finds_what_comes_next(
    number: int, rationale: str, searched: tuple[str, ...], says: bool, finds: bool
) -> None:
    verdict = judge_step(CHAIN, written(number, rationale, *searched), number)
    assert (verdict.says, verdict.finds, verdict.answers) == (says, finds, None)
    assert verdict.right is (says and finds)


def test_the_last_step_is_right_if_its_answer_is() -> None:
    for right in (1.0, 0.0):
        verdict = judge_step(CHAIN, written(3, "So the answer is: it.", right=right), 3)
        assert (verdict.says, verdict.finds, verdict.right) == (None, None, bool(right))


def test_what_cannot_be_told_does_not_count() -> None:
    plain = replace(
        CHAIN,
        supporting_ids=(),
        steps=(step("it is a band.", "p1"), *CHAIN.steps[1:]),
    )
    verdict = judge_step(plain, replace(written(1, "it is a town."), supporting_ids=()), 1)
    assert verdict.right is None
    # the teacher found all gold passages with its first search
    early = replace(CHAIN, supporting_ids=("p1",))
    assert judge_step(early, written(1, "It is Kek Bibro."), 1).finds is None


def test_a_step_that_could_not_be_written_is_wrong() -> None:
    for number in (1, 2, 3):
        failed = replace(CHAIN, steps=CHAIN.steps[: number - 1], right=1.0, error="too long")
        assert judge_step(CHAIN, failed, number).right is False


def test_scores_are_shares_of_the_steps_of_right_chains() -> None:
    first, second, *rest = numbered(range(4))
    chains = [first, second, replace(rest[0], right=0.0), replace(rest[1], error="down")]
    given = given_steps(chains)
    assert [(one.question.id, one.step) for one in given] == [
        (id, number) for id in ("q000", "q001") for number in (1, 2, 3)
    ]
    assert given[0].question.gold_answers == CHAIN.gold_answers
    says = {
        "q000:step-1": written(1, "It is Kek Bibro.", "p2"),
        "q001:step-1": written(1, "It is Kek Bibro.", "p9"),
        "q000:step-2": written(2, "Old Harbour, 1984.", "p3"),
        "q001:step-2": replace(CHAIN, steps=CHAIN.steps[:1], error="too long"),
        "q000:step-3": written(3, "So the answer is: Rome.", right=0.0),
        "q001:step-3": written(3, "So the answer is: Neill."),
    }
    assert ability_scores(given, says, STEPER) == {
        "init": AbilityScore(steps=2, right=0.5, says=1.0, finds=0.5, errors=0),
        "exp": AbilityScore(steps=2, right=0.5, says=0.5, finds=0.5, errors=1),
        "agg": AbilityScore(steps=2, right=0.5, says=None, finds=None, errors=0),
    }


def test_without_a_teacher_there_are_no_steps_to_give(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("eval: {abilities: true, models: {base: /models/base}}\n")
    with pytest.raises(ConfigError, match=r"eval\.abilities|name it in models, as teacher"):
        load_config(file)
