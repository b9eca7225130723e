"""Plans: pace and predictions by hand and against simulations; then a real plan, and the build after it."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from steper_ray.chains.busy_window import BusyWindow, busy_window, step_seconds
from steper_ray.chains.rows import read_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.errors import InputError
from steper_ray.pipeline.build import build_run
from steper_ray.pipeline.plan import plan_run
from steper_ray.planning.costs import ALL, ChainCosts, chain_costs
from steper_ray.planning.estimate import Estimate, cap, predict
from steper_ray.planning.forecast import (
    Plan,
    TeacherJob,
    TeacherPlan,
    forecast_data,
    forecast_teacher,
)
from steper_ray.planning.sample import draw, sample_size
from steper_ray.planning.table import plan_lines
from steper_ray.planning.throughput import estimate_throughput
from steper_ray.reasoning.frameworks import ircot
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain, Question
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.choice import judge
from steper_ray.selection.settings import SelectConfig
from tests.samples import CHAIN

ONE_STEP = replace(
    CHAIN, id="q2", question_id="q2", passages=CHAIN.passages[-1:], steps=CHAIN.steps[-1:], hops=2
)
WRONG = replace(CHAIN, id="q3", question_id="q3", em=0.0)


def test_only_what_warm_engines_write_while_others_wait_counts() -> None:
    # Two questions of two steps, the first done at 4, and one of one step, begun at 5. Between, half a step
    # of the second one is written; a question is worth 5/3 steps. A second engine is ready at once too.
    begun, done = [0, 2, 2, 4, 5], [2, 4, 4, 6, 7]

    def found(ready: list[float]) -> tuple[float, float]:
        waiting = busy_window(begun, done, 3, 4, 5, ready)
        return waiting.work, waiting.seconds

    assert found([0]) == (pytest.approx(0.5 * 3 / 5), 1)
    assert found([0, 0]) == (pytest.approx(0.5 * 3 / 5), 2)
    # An engine that is ready half a second later is warm half a second later.
    assert found([0, 0.5]) == (pytest.approx(0.25 * 3 / 5), 1)
    assert found([0, 1]) == (0, 0)
    assert busy_window([0], [2], 1, 2, 0, [0]) == BusyWindow()


def test_how_the_pace_varies_by_hand() -> None:
    # eight slices of a second; in the first four a step each, in the others two each
    halves = [4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5]
    begun = [0.0, 1.0, 2.0, 3.0, *halves]
    done = [1.0, 2.0, 3.0, 4.0, *(half + 0.5 for half in halves)]
    waiting = busy_window(begun, done, 12, 0.0, 8.0, [0.0])
    assert (waiting.work, waiting.seconds, waiting.slices) == (12, 8, 8)
    assert waiting.deviations == pytest.approx(8 * (0.5 / 1.5) ** 2)


def test_the_pieces_of_a_question_last_as_long_as_it() -> None:
    assert step_seconds([1.0, 3.0], 8.0) == (2.0, 6.0)
    assert step_seconds([], 8.0) == (8.0,)


def crowded(work_Q: Sequence[int], places: int, cold: int) -> tuple[EngineUsage, list[float]]:
    """Questions of so many steps on an engine that writes one step a second, shared by those in it.

    cold: steps that it needs twice the time for at first
    """
    waiting, inside = list(enumerate(work_Q)), dict[int, list[float]]()
    now, begun, written = 0.0, dict[int, float](), [list[float]() for _ in work_Q]
    while waiting or inside:
        while waiting and len(inside) < places:
            number, steps = waiting.pop(0)
            inside[number], begun[number] = [1.0] * steps, now
        passed = min(left[0] for left in inside.values()) * len(inside)
        now += 2 * passed if sum(map(len, written)) < cold else passed
        for left in inside.values():
            left[0] -= passed / len(inside)
        for number, left in list(inside.items()):
            if left[0] < 1e-9:
                left.pop(0)
                written[number].append(now)
                if not left:
                    del inside[number]
    starts = [at for n, ends in enumerate(written) for at in (begun[n], *ends[:-1])]
    ends = [end for ends in written for end in ends]
    first = min(one[-1] for one in written)
    pace = busy_window(starts, ends, len(work_Q), first, max(begun.values()), [0.0])
    ran = EngineUsage(
        asked=len(work_Q),
        engine_seconds=now,
        waiting_work=pace.work,
        waiting_seconds=pace.seconds,
        waiting_slices=pace.slices,
        waiting_deviations=pace.deviations,
    )
    return ran, [written[n][-1] - begun[n] for n in range(len(work_Q))]


def test_the_pace_of_a_long_run_is_seen_in_a_short_one() -> None:
    drawn, off, whole = random.Random(5), list[float](), list[float]()
    for _ in range(40):
        work = [drawn.randint(1, 5) for _ in range(64)]
        ran, seconds = crowded(work, 32, cold=20)
        pace = estimate_throughput(ran, seconds, engines=1)
        assert pace is not None
        assert not pace.too_slow
        off.append(pace.per_second * 3.0 - 1)  # a step a second, three steps a question
        whole.append(ran.asked / ran.engine_seconds * 3.0 - 1)
    assert abs(fmean(off)) < 0.03
    assert fmean(whole) < -0.08


def test_a_pace_by_hand() -> None:
    ran = EngineUsage(
        asked=30,
        engine_seconds=20,
        start_seconds=5,
        waiting_work=20,
        waiting_seconds=10,
        waiting_slices=8,
        waiting_deviations=0.28,
    )
    pace = estimate_throughput(ran, [], engines=1)
    assert pace is not None
    assert (pace.per_second, pace.idle_seconds, pace.start_seconds) == (2.0, 5.0, 5.0)
    # between eight slices of 2.5 questions each √(0.28 / 7) = 0.2, t(7) = 2.3646
    hourly = pace.every(3600)
    assert hourly.value == 7200
    assert hourly.margin == pytest.approx(7200 * 2.3646 * 0.2 / 8**0.5, rel=1e-4)
    whole = pace.seconds(100)
    assert whole.value == 5 + 100 / 2 + 5
    assert whole.margin == pytest.approx(50 * 2.3646 * 0.2 * (1 / 8 + 1 / 40) ** 0.5, rel=1e-4)
    assert pace.seconds(0) == Estimate(0, 0)

    three = estimate_throughput(ran, [], engines=3)
    assert three is not None
    assert three.per_second == 6.0
    limited = estimate_throughput(ran, [], engines=1, max_per_second=0.5)
    assert limited is not None
    assert (limited.per_second, limited.idle_seconds) == (0.5, 5.0)


def test_without_others_waiting_the_pace_is_that_of_the_whole_run_and_says_so() -> None:
    ran = EngineUsage(asked=30, engine_seconds=20, waiting_work=3, waiting_seconds=1)
    pace = estimate_throughput(ran, [1.0], engines=1)
    assert pace is not None
    assert (pace.too_slow, pace.per_second, pace.idle_seconds) == (True, 1.5, 0.0)
    assert estimate_throughput(EngineUsage(), [], engines=1) is None


def test_a_sum_over_the_questions_left_by_hand() -> None:
    # mean 2, s = √2, t(1) = 12.706
    found = predict([1.0, 3.0], 4, 10.0)
    assert found is not None
    assert found.value == 10 + 4 * 2
    assert found.margin == pytest.approx(12.706 * 4 * 2**0.5 * (1 / 2 + 1 / 4) ** 0.5, rel=1e-4)
    assert found.interval[0] == 0.0
    assert predict([1.0, 3.0], 0, 10.0) == Estimate(10.0, 0.0)
    assert predict([2.0], 4, 10.0) == Estimate(18.0, None)
    assert predict([], 4, 10.0) is None


def test_a_sample_in_which_all_are_kept_does_not_claim_that_all_are() -> None:
    # with 0, 0, 1, 1 beside four ones: variance 8 · 0.1875 / 7, t(3) = 3.1824
    found = predict([1.0] * 4, 4, bound=1.0)
    assert found is not None
    assert found.value == 4
    assert found.margin == pytest.approx(3.1824 * 4 * (1.5 / 7) ** 0.5 * 0.5**0.5, rel=1e-4)


def test_intervals_hold_what_they_say() -> None:
    drawn, held = random.Random(0), 0
    for _ in range(1000):
        everything = [drawn.expovariate(1.0) for _ in range(200)]
        found = predict(everything[:64], 136, sum(everything[:64]))
        assert found is not None
        low, high = found.interval
        assert low is not None
        assert high is not None
        held += low <= sum(everything) <= high
    assert 930 <= held <= 970


@pytest.mark.parametrize(
    ("share", "value", "margin"), [(None, 14, 3), ("equal", 8, 2), (5, 9, 1), (1, 2, 0)]
)
def test_no_hop_count_keeps_more_than_its_share(share, value, margin) -> None:
    assert cap({2: Estimate(10, 2), 3: Estimate(4, 1)}, share) == Estimate(value, margin)


def looked(*chains: Chain) -> list[ChainCosts]:
    return [chain_costs(chain, judge(chain, SelectConfig(), ircot), STEPER) for chain in chains]


def forecast(left: set[tuple[str, int]], **engine: float) -> TeacherPlan:
    """Of four questions, two are sampled: one takes three steps, one takes one."""
    teacher = Reasoner("/models/teacher", ReasoningConfig(), EngineConfig(**engine))
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
    assert (found.requests_left.value, found.requests_all.value) == (4, 8)  # type: ignore[union-attr]
    assert (found.device, found.devices) == ("GPU", 8)
    # a question in 10 s; a minute to start
    assert found.questions_per_hour is not None
    assert found.questions_per_hour.value == pytest.approx(360)
    assert found.hours_left is not None
    assert found.hours_left.value == pytest.approx((60 + 2 * 10) / 3600)
    assert found.hours_all is not None
    assert found.hours_all.value == pytest.approx((60 + 4 * 10) / 3600)


def test_nothing_left_is_counted_and_not_predicted() -> None:
    found = forecast(set())
    assert found.tokens["agg"]["prompt"] == Estimate(20, 0)
    assert found.hours_left == Estimate(0, 0)
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


def test_a_sample_is_drawn_by_the_ids_alone() -> None:
    questions = [Question(f"q{number}", "?", "!") for number in range(100)]
    small, large = ({q.id for q in draw(reversed(questions), count)} for count in (10, 20))
    assert small == {question.id for question in draw(questions, 10)}
    assert small < large
    assert small != {question.id for question in questions[:10]}
    assert len(draw(questions, 1000)) == 100


def test_a_sample_fills_the_engines_twice() -> None:
    engine = EngineConfig(replicas=3, max_num_seqs=128)
    teacher = Reasoner("m", ReasoningConfig(), engine)
    assert sample_size(teacher) == 768
    assert sample_size(replace(teacher, samples=5, temperature=1.0)) == 154
    assert sample_size(replace(teacher, engine=EngineConfig(max_num_seqs=1))) == 64


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--config", str(TOY_RUN_FILE), "--set", f"run.dir={tmp_path}"]
    for sample in ("0", "-3", "many"):
        assert main([*options, "--sample", sample]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "build.plan_sample" in line
        assert sample in line


def endpoint_run(folder: Path, **build: object) -> RunConfig:
    """A run that needs no model here."""
    (folder / "train.jsonl").write_text("", encoding="utf-8")
    values = {
        "run": {"dir": str(folder)},
        "questions": {"train": str(folder / "train.jsonl")},
        "build": {"teacher": "m", "endpoint": {"base_url": "http://127.0.0.1:9/v1"}, **build},
    }
    return RunConfig.model_validate(values)


def test_a_plan_without_questions_or_one_to_be_thrown_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="question"):
        plan_run(endpoint_run(tmp_path))
    with pytest.raises(InputError, match=r"build\.fresh"):
        plan_run(endpoint_run(tmp_path, fresh=True))


def test_the_printed_numbers_add_up() -> None:
    thirds = {("q4", 1), ("q5", 1), ("q6", 1)}
    there = looked(CHAIN, ONE_STEP, WRONG)
    teacher = forecast(thirds, gpus=4)
    left = frozenset(question for question, _ in thirds)
    data = forecast_data(there, left, ["q1", "q2", "q3"], SelectConfig(), 0.5)
    hours = {"hours_left": teacher.hours_left, "hours_all": teacher.hours_all}
    second = replace(teacher, name="b", pace=None, questions_per_hour=None)
    shown = plan_lines(
        Plan(
            questions=6, there=3, left=3, sample=3, asked=0, others=0, teachers=(teacher, second),
            chains=Estimate(6, 0.0), chains_bytes=Estimate(1.2e6, 1e4), data=data, notes=("so",),
            **hours,
        )
    )  # fmt: skip
    assert shown[0] == "6 questions = 3 there + 3 left, predicted from 3; 0 asked just now"
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


@pytest.mark.engine
def test_a_plan_is_paid_once_and_its_build_keeps_to_it(
    toy_corpus: RunConfig, tmp_path: Path
) -> None:
    settings = [
        f"corpus.passages={toy_corpus.corpus.passages}",
        f"questions.train={toy_corpus.questions.train}",
        f"build.teacher={toy_corpus.build.teacher}",
        "build.limit=60",
        "build.plan_sample=40",
        "engine.max_num_seqs=8",
        f"run.dir={tmp_path}",
    ]
    config = load_config(TOY_RUN_FILE, settings)
    config.folder.corpus.symlink_to(toy_corpus.folder.corpus)
    first = plan_run(config)
    chains = read_chains(config.folder.chains)
    assert (first.questions, first.there, first.left, first.asked) == (60, 40, 20, 40)
    assert len(chains) == 40
    (teacher,) = first.teachers
    assert teacher.pace is not None
    assert not teacher.pace.too_slow
    assert teacher.chains == Estimate(60.0, 0.0)
    generated = sum(step.generated_tokens for chain in chains for step in chain.steps)
    assert teacher.tokens[ALL]["generated"].value == pytest.approx(1.5 * generated)  # type: ignore[union-attr]

    # other selection settings cost no teacher either
    again = plan_run(config.model_copy(update={"select": SelectConfig(match="f1")}))
    assert (again.asked, again.left) == (0, 20)
    assert again.teachers == first.teachers
    assert read_chains(config.folder.chains) == chains

    summary = build_run(config)
    assert (summary.usage.asked, summary.questions) == (20, 60)
    made = read_chains(config.folder.chains)
    for ability in (*STEPER.names, ALL):
        examples = first.data.examples[ability]
        assert examples is not None
        counted = summary.examples[ability] if ability != ALL else sum(summary.examples.values())
        assert examples.value == pytest.approx(counted, rel=0.25)
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.parquet"))
        for folder in (config.folder.chains, config.folder.examples)
    ]
    assert first.chains_bytes is not None
    assert first.chains_bytes.value == pytest.approx(sizes[0], rel=0.15)
    assert first.data.stepwise_bytes is not None
    assert first.data.stepwise_bytes.value == pytest.approx(sizes[1], rel=0.25)

    last = plan_run(config)
    assert (last.asked, last.left, last.chains) == (0, 0, Estimate(60.0, 0.0))
    assert last.data.kept == Estimate(float(summary.kept), 0.0)
    assert {s: last.data.examples[s] for s in STEPER.names} == {
        ability: Estimate(float(count), 0.0) for ability, count in summary.examples.items()
    }
    training = sum(
        step.prompt_tokens + step.generated_tokens
        for chain in made
        if chain.rejected is None
        for step in chain.steps
    )
    assert last.data.training_tokens[ALL] == Estimate(float(training), 0.0)
    assert pq.read_table(config.folder.examples).num_rows == sum(summary.examples.values())

    lines = plan_lines(first)
    assert lines[0] == "60 questions = 40 there + 20 left, predicted from 40; 40 asked just now"
    written = json.loads(config.folder.plan.read_text(encoding="utf-8"))
    assert written["plan"]["questions"] == 60
    assert written["measured"][""]["usage"]["asked"] == 40
