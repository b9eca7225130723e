"""Forecasts of time, tokens and data by hand, and the printed table."""

import re
from dataclasses import replace

import pytest

from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.planning.costs import ALL, ChainCosts, chain_costs
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import (
    Plan,
    TeacherJob,
    TeacherPlan,
    forecast_data,
    forecast_teacher,
)
from steper_ray.planning.table import plan_lines
from steper_ray.reasoning.frameworks import ircot
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.choice import judge
from steper_ray.selection.settings import SelectConfig
from tests.samples import CHAIN

ONE_STEP = replace(
    CHAIN, id="q2", question_id="q2", passages=CHAIN.passages[-1:], steps=CHAIN.steps[-1:], hops=2
)


WRONG = replace(CHAIN, id="q3", question_id="q3", em=0.0, right=0.0)


def looked(*chains: Chain) -> list[ChainCosts]:
    return [chain_costs(chain, judge(chain, SelectConfig(), ircot), STEPER) for chain in chains]


def forecast(left: set[tuple[str, int]], gpus: int = 0, replicas: int = 1) -> TeacherPlan:
    """Of four questions, two are sampled: one takes three steps, one takes one."""
    args = {"tensor_parallel_size": gpus} if gpus else {}
    engine = EngineConfig(gpus=gpus, replicas=replicas, args=args)
    teacher = Reasoner("/models/teacher", ReasoningConfig(), engine)
    ran = EngineUsage(asked=2, engine_seconds=20, start_seconds=60)
    job = TeacherJob(teacher, frozenset(left), ("q1", "q2"), ran, 1)
    return forecast_teacher(job, looked(CHAIN, ONE_STEP), 4)


def test_what_a_teacher_takes_by_hand() -> None:
    found = forecast({("q4", 1), ("q5", 1)}, gpus=4, replicas=2)
    prompts = {ability: of["prompt"] for ability, of in found.tokens.items()}
    # 10 tokens a step: there 10, 10, 20; of two more questions the mean, 5, 5, 10, each
    assert {s: one and one.value for s, one in prompts.items()} == {
        "init": 20, "exp": 20, "agg": 40, ALL: 80,
    }  # fmt: skip
    assert {s: of["generated"] for s, of in found.tokens.items()}[ALL].value == 40  # type: ignore[union-attr]
    assert found.chains is not None
    assert found.chains.value == 4
    assert (found.requests_remaining.value, found.requests_all.value) == (4, 8)  # type: ignore[union-attr]
    assert (found.device, found.devices) == ("GPU", 8)
    # a question in 10 s; a minute to start
    assert found.questions_per_hour is not None
    assert found.questions_per_hour.value == pytest.approx(360)
    assert found.hours_remaining is not None
    assert found.hours_remaining.value == pytest.approx((60 + 2 * 10) / 3600)
    assert found.hours_all is not None
    assert found.hours_all.value == pytest.approx((60 + 4 * 10) / 3600)


def test_steps_cut_off_are_predicted_and_shown_by_ability() -> None:
    first, *others = CHAIN.steps
    cut = replace(CHAIN, steps=(replace(first, finish_reason="length"), *others))
    teacher = Reasoner("/models/teacher", ReasoningConfig(), EngineConfig())
    job = TeacherJob(teacher, frozenset({("q4", 1), ("q5", 1)}), ("q1", "q2"), EngineUsage(), 1)
    found = forecast_teacher(job, looked(cut, ONE_STEP), 4)
    # one of the two sampled questions has a first step cut off; of two more, half have
    assert {s: one and one.value for s, one in found.cut_off_steps.items()} == {
        "init": 2, "exp": 0, "agg": 0, ALL: 2,
    }  # fmt: skip
    lines = plan_lines(
        Plan(
            questions=4, finished=2, remaining=2, sample=2, asked=0, others=0, teachers=(found,),
            hours_remaining=None, hours_all=None, chains=found.chains, chains_bytes=None,
            data=forecast_data([], frozenset(), [], SelectConfig(), 0.5), notes=(),
        )
    )  # fmt: skip
    place = next(number for number, line in enumerate(lines) if "prompt tokens" in line)
    header, init = (re.split(r"  +", line) for line in lines[place : place + 2])
    assert header[-1] == "steps cut off"
    assert (init[0], init[-1].split()[0]) == ("init", "2")


def test_nothing_left_is_counted_and_not_predicted() -> None:
    found = forecast(set())
    assert found.tokens["agg"]["prompt"] == Estimate(20, 0)
    assert found.hours_remaining == Estimate(0, 0)
    assert (found.device, found.devices) == ("core", 1)


def test_a_chain_to_be_made_again_counts_once() -> None:
    found = forecast({("q2", 1), ("q4", 1), ("q5", 1)})
    assert found.chains is not None
    assert found.chains.value == 1 + 3


def test_an_endpoint_is_no_faster_than_it_allows() -> None:
    endpoint = EndpointConfig(base_url="http://h/v1", requests_per_minute=1)
    teacher = Reasoner("m", ReasoningConfig(), EngineConfig(replicas=3), endpoint)
    ran = EngineUsage(asked=2, engine_seconds=1)
    job = TeacherJob(teacher, frozenset({("q4", 1)}), ("q1", "q2"), ran, 1)
    found = forecast_teacher(job, looked(CHAIN, ONE_STEP), 3)
    # three actors make a request a minute each, and a question takes two
    assert found.questions_per_hour is not None
    assert found.questions_per_hour.value == pytest.approx(3 * 60 / 2)
    assert (found.device, found.devices) == ("", 0.0)


def test_what_selection_makes_of_it_by_hand() -> None:
    there = looked(CHAIN, ONE_STEP, WRONG)
    left = frozenset({"q4", "q5", "q6"})
    found = forecast_data(there, left, ["q1", "q2", "q3"], SelectConfig(), 0.5)
    assert found.kept is not None
    assert found.kept.value == pytest.approx(2 + 2)
    examples = {ability: one and one.value for ability, one in found.examples.items()}
    assert examples == pytest.approx({"init": 2, "exp": 2, "agg": 4, ALL: 8})
    tokens = {ability: one and one.value for ability, one in found.training_tokens.items()}
    assert tokens == pytest.approx({"init": 30, "exp": 30, "agg": 60, ALL: 120})
    text = [one.counts["text", ALL] for one in there]
    assert found.stepwise_bytes is not None
    assert found.stepwise_bytes.value == pytest.approx(0.5 * 2 * (3 * text[0] + text[1]))


def test_hop_counts_are_evened_out_in_all_numbers() -> None:
    again = replace(CHAIN, id="q4", question_id="q4")
    there = looked(CHAIN, ONE_STEP, again)  # 3, 2 and 3 hops
    found = forecast_data(there, frozenset(), [], SelectConfig(per_hops="equal"), 1.0)
    assert found.kept == Estimate(2, 0)
    # of the two of 3 hops, half are kept
    examples = {ability: one and one.value for ability, one in found.examples.items()}
    assert examples == {"init": 1, "exp": 1, "agg": 2, ALL: 4}


def test_the_printed_numbers_add_up() -> None:
    thirds = {("q4", 1), ("q5", 1), ("q6", 1)}
    there = looked(CHAIN, ONE_STEP, WRONG)
    teacher = forecast(thirds, gpus=4)
    left = frozenset(question for question, _ in thirds)
    data = forecast_data(there, left, ["q1", "q2", "q3"], SelectConfig(), 0.5)
    hours = {"hours_remaining": teacher.hours_remaining, "hours_all": teacher.hours_all}
    second = replace(teacher, name="b", pace=None, questions_per_hour=None)
    shown = plan_lines(
        Plan(
            questions=6, finished=3, remaining=3, sample=3, asked=0, others=0, teachers=(teacher, second),
            chains=Estimate(6, 0.0), chains_bytes=Estimate(1.2e6, 1e4), data=data, notes=("so",),
            **hours,
        )
    )  # fmt: skip
    assert shown[0] == "6 questions = 3 finished + 3 remaining, predicted from 3; 0 asked just now"
    assert shown[-2:] == ["on disk 1.20 ± 0.01 MB in chains/, 1.56 ± 3.75 kB in stepwise/", "so"]
    assert "4 GPUs = GPU-hours" in "\n".join(shown)
    rows = [re.split(r"  +", line.strip()) for line in shown]
    values = [
        (row[0], [int(cell.split(" ± ")[0]) for cell in row[1:]])
        for row in rows
        if row[0] in (*STEPER.names, ALL)
    ]
    assert [name for name, _ in values] == 3 * [*STEPER.names, ALL]
    for place in (0, 4, 8):
        *abilities, (_, total) = values[place : place + 4]
        assert [sum(column) for column in zip(*(row for _, row in abilities), strict=True)] == total
