"""What earlier versions wrote is used, resumed and opened by this one: a frozen run of every format.

The run in `tests/data/format_N/` was written once, by that format's code (tests/data/write_format.py), in
another folder. No teacher, trainer or server starts here: a result that is not recognised fails.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.chains.rows import chain_files, read_chains
from steper_ray.chains.store import record_file
from steper_ray.chains.stream import _prepare_partial
from steper_ray.errors import InputError
from steper_ray.evaluation.compare import evaluated_model
from steper_ray.models.folder import model_identity
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.student_settings import carried_settings, settings_file
from steper_ray.pipeline import demo as demo_module
from steper_ray.pipeline import ledger
from steper_ray.pipeline.build import build_run
from steper_ray.pipeline.demo import DEMO_STAGES, demo
from steper_ray.pipeline.plan import plan_run
from steper_ray.pipeline.training import train_student
from steper_ray.run import dependencies, identity
from steper_ray.run.config import RunConfig
from steper_ray.run.dependencies import SCORING_RULES
from steper_ray.run.identity import FORMAT, RECORD_FILE, read_record
from steper_ray.schema import Chain, Passage, Step
from steper_ray.selection.abilities import STEPER
from steper_ray.sweep.sweep import sweep_folder
from steper_ray.training.checkpoints import STATE_FILE, load_state
from steper_ray.training.resume import DONE_FILE, find_checkpoints, task_identity
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker_spec import read_scheme
from tests.conftest import ROOT
from tests.data.write_format import HALF_DONE, VERSION, settings
from tests.frozen_run import changes, checkpoint_of, compared, records_before, records_now, task_of
from tests.later_settings import Later, with_added_keys, with_excluded_keys, with_value
from tests.tokenized import tokenize_examples

DATA: Final = ROOT / "tests" / "data"
TRAINED_STEPS, CHECKPOINT_STEP = 8, 6


LATER: Final = pytest.mark.parametrize(
    "later", [pytest.param(lambda run: run, id="today"), with_added_keys, with_excluded_keys]
)

RULES_TODAY: Final = dict(identity.RULES)


@pytest.fixture(params=sorted(DATA.glob("format_*")), ids=lambda folder: folder.name)
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """The settings of a frozen run, in a new folder with new times, and by the rules of its time."""
    run = settings(shutil.copytree(request.param, tmp_path / "run", copy_function=shutil.copyfile))
    write_gold_passages(run)
    before = read_record(record_file(run.folder.chains))
    assert before is not None
    made_by = {name: numbers[-1] for name, numbers in before["rules"].items()}
    made_by |= json.loads(settings_file(str(run.folder.student)).read_text())["rules"]
    for name, number in made_by.items():
        monkeypatch.setitem(identity.RULES, name, number)
    return run


def write_gold_passages(run: RunConfig) -> None:
    """The passages of the corpus that questions name, which the frozen run has only the record of."""
    import lance

    files = (run.folder.root / f"{split}.jsonl" for split in ("train", "dev", "test"))
    questions = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ids = sorted({id for question in questions for id in question["supporting_ids"]})
    rows = [{"id": id, "title": id, "text": id} for id in ids]
    lance.write_dataset(pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA), run.folder.corpus)


@pytest.fixture
def nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is not used again fails the test, before Ray would start."""

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    for name in (
        "chains.build.write_chains",
        "evaluation.compare.answer",
        "training.train.run_workers",
        "pipeline.ledger.run_stage",
    ):
        monkeypatch.setattr(f"steper_ray.{name}", work)


def test_every_format_is_frozen() -> None:
    assert {f"format_{number}" for number in range(1, FORMAT + 1)} == {
        folder.name for folder in DATA.glob("format_*")
    }, "run tests/data/write_format.py, once, when FORMAT is raised"


# Nothing is made again --------------------------------------------------------------------------------


@LATER
@pytest.mark.usefixtures("nobody_works")
def test_the_plan_is_paid_and_every_question_is_answered(run: RunConfig, later: Later) -> None:
    plan = plan_run(later(run))
    assert (plan.questions, plan.sample, plan.asked) == (3, 1, 0)
    before = record_file(run.folder.chains).read_text()
    built = build_run(later(run))
    assert (built.usage.asked, built.chains, built.kept) == (0, 7, 3)
    assert built.examples == {"init": 3, "exp": 3, "agg": 3}
    assert record_file(run.folder.chains).read_text() == before


@pytest.mark.usefixtures("nobody_works")
def test_its_chains_and_answers_are_read_by_the_rules_of_today(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SCORING_RULES:
        monkeypatch.setitem(identity.RULES, name, RULES_TODAY[name])
    answers = {chain.id: chain.answer for chain in read_chains(run.folder.chains)}
    built = build_run(run)
    assert (built.usage.asked, built.chains, built.kept) == (0, 7, 3)
    assert {chain.id: chain.answer for chain in read_chains(run.folder.chains)} == answers
    record = read_record(record_file(run.folder.chains))
    assert record is not None
    assert {name: record["rules"][name] for name in SCORING_RULES} == {
        name: [RULES_TODAY[name]] for name in SCORING_RULES
    }
    assert train_student(run).chains == 2
    comparison, _ = compared(run)
    assert {contender.summary.overall.em for contender in comparison.contenders} == {0.5}


@LATER
@pytest.mark.usefixtures("nobody_works")
def test_students_and_their_answers_are_used(run: RunConfig, later: Later) -> None:
    summary = train_student(later(run))
    assert (summary.planned_steps, summary.chains) == (TRAINED_STEPS, 2)
    comparison, students = compared(later(run))
    assert students["uniform"][0].steps == 2
    em = {contender.name: contender.summary.overall.em for contender in comparison.contenders}
    assert em == {"base": 0.5, "uniform": 0.5, "teacher": 0.5}  # of the other question, an error


@LATER
@pytest.mark.usefixtures("nobody_works")
def test_what_was_half_done_is_resumed(run: RunConfig, later: Later, capsys: Any) -> None:
    config = later(run)
    (sweep,) = (run.folder.sweep / "runs").iterdir()
    assert sweep_folder(config) == sweep
    (checkpoints,) = run.folder.checkpoints.iterdir()
    assert find_checkpoints(run.folder, task_identity(task_of(config))) == checkpoints
    assert capsys.readouterr().out == ""  # nothing starts anew
    answers = run.folder.root / HALF_DONE
    (answers / "half.parquet").touch()
    _prepare_partial(answers, records_now(config)["half-done answers"], ignore=())
    assert (answers / "half.parquet").exists()


@LATER
@pytest.mark.usefixtures("nobody_works")
def test_the_stages_of_the_demo_are_done(
    run: RunConfig, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[dict[str, Any]] = []
    monkeypatch.setattr(demo_module, "_ask_served_student", lambda _: ({}, 2.0))
    monkeypatch.setattr(demo_module, "_finish", lambda _, stages, __: timed.append(stages))
    (run.folder.toy / "models").mkdir(parents=True)
    (run.folder.toy / "models" / "x").write_text("what the frozen run has not")
    demo(later(run))
    assert timed == [
        {**{name: {"seconds": 1.0} for name in DEMO_STAGES}, "serve": {"seconds": 2.0}}
    ]


# What was made by the rules of then -------------------------------------------------------------------


@pytest.mark.usefixtures("nobody_works")
def test_by_the_rules_of_today_students_stay_and_chains_are_mixed_only_if_that_is_said(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in RULES_TODAY.items():
        monkeypatch.setitem(identity.RULES, name, number)
    assert train_student(run).planned_steps == TRAINED_STEPS
    assert carried_settings(str(run.folder.student)) is not None
    raised = r"7 chains were made with .*search rule 1, new ones with \d.*; continue with --mix"
    with pytest.raises(InputError, match=raised):
        build_run(run)
    mixed = build_run(run.model_copy(update={"build": run.build.model_copy(update={"mix": True})}))
    assert (mixed.usage.asked, mixed.chains) == (0, 7)


# What a record says, by key ---------------------------------------------------------------------------


STEPS: Final = "reasoning.max_steps: 5 → 4"
TRAININGS: Final = ("student", "checkpoints", "sweep")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("toy.seed", 8, {"toy stage": "toy.seed: 7 → 8"}),
        ("corpus.passage_size", 601, {"index stage": "corpus.passage_size: 600 → 601"}),
        (
            "reasoning.max_steps",
            4,
            {
                "chains": f"{STEPS}, ensemble.far.{STEPS}",
                "half-done answers": STEPS,
                **dict.fromkeys((*TRAININGS, "build stage", "pace of ''", "pace of 'far'"), STEPS),
            },
        ),
        ("engine.max_num_seqs", 9, {"pace of ''": "engine.max_num_seqs: 8 → 9"}),
        (
            "engine.dtype",
            "half",
            {
                "sweep": "judged.dtype: 'float32' → 'half'",
                "pace of ''": "engine.dtype: 'float32' → 'half'",
            },
        ),
        (
            "build.top_p",
            0.9,
            {
                **dict.fromkeys(("chains", "pace of ''"), "top_p: 1.0 → 0.9"),
                "build stage": "build.top_p: 1.0 → 0.9",
            },
        ),
        ("select.min_words", 3, {"build stage": "select.min_words: 1 → 3"}),
        (
            "train.lr",
            1e-3,
            dict.fromkeys((*TRAININGS, "train stage"), "train.lr: 0.002 → 0.001"),
        ),
        (
            "train.zero_stage",
            1,
            {
                **dict.fromkeys(TRAININGS, "checkpoint.zero_stage: 3 → 1"),
                "train stage": "train.zero_stage: 3 → 1",
            },
        ),
        ("run.seed", 8, dict.fromkeys((*TRAININGS, "train stage"), "run.seed: 7 → 8")),
        ("eval.limit", 1, {"eval stage": "eval.limit: None → 1"}),
        ("sweep.asha_grace", 2, {"sweep": "sweep.asha_grace: 1 → 2"}),
        ("sweep.trials", 9, {}),  # older records have it; the sweep goes on
    ],
)
def test_a_changed_setting_is_found_by_its_key(
    run: RunConfig, key: str, value: Any, expected: dict[str, str]
) -> None:
    assert changes(run) == {}
    found = changes(with_value(run, key, value))
    assert {name: ", ".join(differ) for name, differ in found.items()} == expected


def test_a_key_that_results_depend_on_is_added_with_what_was_done_before(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `run/identity.py` says how: the key is listed, and ADDED has its value."""
    for module in (dependencies, ledger):
        for name in [name for name in vars(module) if name.endswith("_KEYS")]:
            monkeypatch.setattr(module, name, (*getattr(module, name), "added_later"))
    config = with_added_keys(run)
    found = changes(config)
    assert found.keys() == records_now(run).keys()
    for name, differ in found.items():
        for one in differ:
            key, _, values = one.partition(": ")
            assert values == "nothing → 7"
            path = f"{records_before(run)[name]['result']}.{key}"
            monkeypatch.setitem(identity.ADDED, path, 7)
    assert changes(config) == {}
    other = changes(with_value(config, "select.added_later", 8))
    assert other == {"build stage": ["select.added_later: 7 → 8"]}


# What a newer version wrote ----------------------------------------------------------------------------

Open = Callable[[RunConfig], Any]


@pytest.mark.parametrize(
    ("file", "opened"),
    [
        ("chains.identity.json", lambda run: chain_files(run.folder.chains)),
        ("chains.identity.json", build_run),
        ("plan.json", plan_run),
        (f"training/{DONE_FILE}", train_student),
        ("student/steper.json", lambda run: carried_settings(str(run.folder.student))),
        (f"checkpoints/*/*/{STATE_FILE}", lambda run: load_state(checkpoint_of(run))),
        (
            f"checkpoints/*/{RECORD_FILE}",
            lambda run: find_checkpoints(run.folder, task_identity(task_of(run))),
        ),
        (f"compare/uniform/*/training/{DONE_FILE}", compared),
        (f"compare/base/test.{RECORD_FILE}", compared),
        (f"sweep/runs/*/{RECORD_FILE}", sweep_folder),
        ("stages.json", demo),
        (
            f"{HALF_DONE}/{RECORD_FILE}",
            lambda run: _prepare_partial(run.folder.root / HALF_DONE, {}, ignore=()),
        ),
    ],
)
@pytest.mark.usefixtures("nobody_works")
def test_what_a_newer_version_wrote_is_refused_in_one_line(
    run: RunConfig, file: str, opened: Open
) -> None:
    (newer,) = run.folder.root.glob(file)
    text = re.sub(r'"format": \d+', f'"format": {FORMAT + 1}', newer.read_text())
    newer.write_text(re.sub(r'"steper_ray": "[^"]*"', '"steper_ray": "9.1.0"', text))
    with pytest.raises(InputError) as refused:
        opened(run)
    said = str(refused.value)
    assert f"written by steper_ray 9.1.0 in format {FORMAT + 1}; this is steper_ray" in said
    assert "\n" not in said


# What the files hold -----------------------------------------------------------------------------------

PASSAGES: Final = (
    Passage(
        "p00051",
        "Mun Jotul",
        "Mun Jotul reaches Nik Fatam. Mun Jotul remembers Vorn Zubor. It feeds a quiet lake.",
    ),
    Passage(
        "p00037",
        "Nik Fatam",
        "It keeps a narrow library. Nik Fatam spans Fulm Brirur. Nik Fatam elected Vorn Zubor.",
    ),
)
MAYOR: Final = "Who is the mayor of the estuary of Mun Jotul?"
SAID: Final = (
    "Mun Jotul reaches Nik Fatam.",
    "Nik Fatam elected Vorn Zubor. So the answer is: Vorn Zubor.",
)


def test_chains_are_read(run: RunConfig) -> None:
    chains = {chain.id: chain for chain in read_chains(run.folder.chains)}
    assert {name: (chain.answer, chain.em, chain.rejected) for name, chain in chains.items()} == {
        "train-00000": ("Vorn Zubor", 1.0, None),
        "train-00000@far": ("Vorn Zubor", 1.0, "not_chosen"),
        "train-00001": ("Nobody", 0.0, "wrong_answer"),
        "train-00001:corrected": ("Dern Dromor", 1.0, "not_chosen"),
        "train-00001@far": ("Dern Dromor", 1.0, None),
        "train-00002": ("Dral Likom", 1.0, None),
        "train-00002@far": ("Dral Likom", 1.0, "not_chosen"),
    }
    first = chains["train-00000"]
    steps = [replace(step, search_seconds=0.0, generate_seconds=0.0) for step in first.steps]
    assert replace(first, steps=tuple(steps)) == Chain(
        id="train-00000",
        question_id="train-00000",
        question=MAYOR,
        gold_answers=("Vorn Zubor",),
        hops=2,
        passages=PASSAGES,
        steps=(
            Step(MAYOR, ("p00051",), SAID[0], -0.5, 68, 4),
            Step(SAID[0], ("p00037",), SAID[1], -0.5, 94, 4),
        ),
        answer="Vorn Zubor",
        stop_reason="answered",
        em=1.0,
        f1=1.0,
        acc=1.0,
        right=1.0,
        model="/format_1/model",
        corpus_version=VERSION,
        supporting_ids=("p00051", "p00037"),
    )
    corrected, far = chains["train-00001:corrected"], chains["train-00001@far"]
    assert (corrected.attempt, corrected.critique) == (2, "The last step is wrong.")
    assert (far.teacher, far.model) == ("far", "far/teacher")
    (_, failed) = read_chains(run.folder.compare / "base" / "test")
    assert failed.error == "the prompt is too long"


def test_examples_are_read(run: RunConfig) -> None:
    files = stepwise_files(run.folder.examples)
    rows = {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}
    abilities = [f"{row['chain_id']} {row['step']} {row['ability']}" for row in rows.values()]
    two, three, four = abilities[:2], abilities[2:5], abilities[5:]
    assert two == ["train-00000 1 init", "train-00000 2 agg"]
    assert three == [f"train-00001@far {step}" for step in ("1 init", "2 exp", "3 agg")]
    assert four == [f"train-00002 {step}" for step in ("1 init", "2 exp", "3 exp", "4 agg")]
    last = rows["train-00000/2"]
    assert last["prompt"].startswith("Answer the question step by step.\n")
    assert (last["question"], last["reasoning"], last["found"]) == (MAYOR, [SAID[0]], [1, 1])
    assert [Passage(**passage) for passage in last["passages"]] == list(PASSAGES)
    assert (last["target"], last["forced"]) == (f" {SAID[1]}\n", False)

    assert read_scheme(run.folder.stats) == STEPER
    tokenizer = load_tokenizer(run.train.model)
    data = tokenize_examples(files, tokenizer, reasoning=task_of(run).reasoning)
    assert data.chains == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]
    example = data.examples[1]
    assert tokenizer.decode(example.ids[-example.target_tokens :]).strip() == SAID[1]
    counts = json.loads(run.folder.stats.read_text())
    assert counts["questions"] == {"all": 3, "kept": 3}


def test_a_student_is_opened_and_asked_as_it_was_trained(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = str(run.folder.student)
    other = with_value(run, "reasoning.max_steps", 2)
    reasoning = evaluated_model(other, student).reasoning
    assert reasoning == run.reasoning.model_copy(update={"chat": False})
    assert carried_settings(student) == (reasoning, VERSION)
    assert load_model_config(student).hidden_size == 16
    assert (
        load_tokenizer(student)("Rome")["input_ids"]
        == load_tokenizer(run.train.model)("Rome")["input_ids"]
    )

    base = model_identity(run.train.model)
    assert model_identity(student)["config"] == base["config"]
    assert model_identity(student)["weights"] != base["weights"]
    values = json.loads((run.folder.student / "steper.json").read_text())
    assert values["base_model"] == base

    later = type(with_added_keys(reasoning))
    monkeypatch.setattr("steper_ray.models.student_settings.ReasoningConfig", later)
    carried = carried_settings(student)
    assert carried is not None
    assert carried[0].model_dump() == {**reasoning.model_dump(), "added_later": 7}


@pytest.mark.usefixtures("only_rank")
def test_a_training_goes_on_from_its_checkpoint(run: RunConfig, device: Any) -> None:
    """The steps that the checkpoint does not have come out as the metrics of the whole training say."""
    from steper_ray.training.worker import prepare_process
    from tests.training.one_rank import learned, start

    task = task_of(run)
    prepare_process(task)
    training = start(task, checkpoint_of(run), use_gpu=device.type == "cuda")
    assert training.step == CHECKPOINT_STEP
    lines = run.folder.metrics.read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    assert len(rows) == TRAINED_STEPS
    sigma_A = training.sigma.value_A
    done = learned(training.train_step())
    # the gradient was that of L itself then; what was clipped was not counted, and nothing was mixed in
    done["grad_norm"] *= sum(1 / (2 * sigma**2) for sigma in sigma_A)
    del done["clipped_share"], done["mix_loss"]
    row = rows[CHECKPOINT_STEP + 1]
    expected = {name: row[name] for name in done if not name.startswith("validation")}
    numbers = {name: value for name, value in expected.items() if value is not None}
    assert {name for name in expected if done[name] is not None} == numbers.keys()
    assert {name: done[name] for name in numbers} == pytest.approx(numbers, rel=1e-3)
    for _ in range(CHECKPOINT_STEP + 1, TRAINED_STEPS):
        training.train_step()
    assert training.finished
