"""Does step-wise learning help? Students that differ in one thing only, judged on the same questions.

Every variant learns from the same chains, in the same number of optimizer steps, and may try the same
learning rates; the one whose student answers most of `questions.dev` exactly is kept. Then all students,
the base student and the teacher answer `questions.test`, each through the one reasoning loop. Variants of
most interest are trained with several seeds (a seed is another order of the data).

Finished students and answers are used again: the same command resumes where the last one stopped.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from steper_ray.chains.teachers import model_reasoning
from steper_ray.data.questions import load_questions
from steper_ray.errors import ConfigError, InputError
from steper_ray.evaluation.answer import answer, evaluated
from steper_ray.evaluation.comparison import Comparison, TrainedStudent, Tuning, judge
from steper_ray.evaluation.summary import BASE, TEACHER, summarize
from steper_ray.models.folder import check_model
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.retrieval.bm25 import BM25Retriever
from steper_ray.run.dependencies import SCORING_RULES, answers_identity
from steper_ray.run.identity import RECORD_FILE, differences, read_record, write_record
from steper_ray.training.objective import objective_named

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question
    from steper_ray.training.summary import TrainSummary


class _Units:
    """What is trained or answered, one after the other, under one progress line."""

    def __init__(self, progress: "StageProgress", total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self, what: str) -> None:
        """Show that the next unit is at work."""
        self._progress.update(
            self._done, self._total, f"{self._done + 1}/{self._total}  {what}", at_once=True
        )
        self._done += 1


def compare(
    config: "RunConfig", progress: "StageProgress", train: "Callable[[RunConfig], TrainSummary]"
) -> Comparison:
    """Train and judge every variant; writes `compare/comparison.json`, `.md` and `.html`.

    Needs a running Ray, an indexed corpus and step-wise examples. Raises InputError for unusable input.
    """
    from steper_ray.reports.comparison_page import write_comparison

    section = config.compare
    trains = check_variants(config)
    base = check_model(config.train.model, "train.model", config.train.revision)
    teacher = check_model(config.build.teacher, "build.teacher", config.build.revision)
    dev = load_questions(config, "dev")[: config.eval.limit]
    test = load_questions(config, "test")
    if {question.id for question in dev} & {question.id for question in test}:
        raise InputError(
            "questions.test: shares ids with questions.dev; settings are chosen on dev"
        )
    rates = section.learning_rates or (config.train.lr,)
    tuned = len(rates) > 1
    repeated = [name for name in trains if name in section.repeated]
    again = 2 * (len(section.seeds) - 1) * len(repeated)
    units = _Units(progress, len(trains) * (len(rates) * (1 + tuned) + 1) + again + 2)

    students: dict[str, list[TrainedStudent]] = {}
    tuning: list[Tuning] = []
    for name in trains:
        best = -1.0
        for lr in rates:
            student = _train(train, config, name, lr, section.seeds[0], units)
            em = 0.0
            if tuned:
                em = summarize(_answers(config, student, "dev", dev, units)).overall.em
                tuning.append(Tuning(name, lr, em))
            if em > best:
                students[name], best = [student], em
    for name in repeated:
        lr = students[name][0].lr
        students[name] += [
            _train(train, config, name, lr, seed, units) for seed in section.seeds[1:]
        ]
    answers = {BASE: [_answers_of(config, BASE, base, test, units, config.train.revision)]}
    for name, trained in students.items():
        answers[name] = [_answers(config, student, "test", test, units) for student in trained]
    answers[TEACHER] = [_answers_of(config, TEACHER, teacher, test, units, config.build.revision)]
    result = Comparison(
        baseline=section.baseline,
        questions=len(test),
        dev_questions=len(dev) if tuned else 0,
        epochs=config.train.epochs,
        contenders=judge(answers, students, section.baseline),
        tuning=tuple(tuning),
    )
    write_comparison(config.folder.compare, result, students)
    return result


def check_variants(config: "RunConfig") -> dict[str, dict[str, Any]]:
    """Each variant's keys of the train section; raises ConfigError for what cannot be meant."""
    section = config.compare
    for name in (section.baseline, *section.repeated):
        if name not in section.variants:
            raise ConfigError(
                f"compare: {name!r} is no variant; there are {', '.join(section.variants)}"
            )
    for name, keys in section.variants.items():
        if name in (BASE, TEACHER) or Path(name).name != name:
            raise ConfigError(f"compare.variants: {name!r} cannot be a variant's name")
        try:
            settings = type(config.train).model_validate({**config.train.model_dump(), **keys})
            objective_named(settings.objective)
        except ValidationError as error:
            finding = error.errors()[0]
            where = ".".join(str(part) for part in (name, *finding["loc"]))
            raise ConfigError(f"compare.variants.{where}: {finding['msg']}") from None
    return section.variants


def _train(
    train: "Callable[[RunConfig], TrainSummary]",
    config: "RunConfig",
    variant: str,
    lr: float,
    seed: int,
    units: _Units,
) -> TrainedStudent:
    """The student of one variant; trained only if it is not there yet."""
    units.next(f"training {variant}, lr {lr:g}, seed {seed}")
    folder = config.folder.compare / variant / f"lr-{lr:g}-seed-{seed}"
    values = {**config.train.model_dump(), **config.compare.variants[variant], "lr": lr}
    its_config = config.model_copy(
        update={
            "run": config.run.model_copy(
                update={"dir": str(folder), "data": str(config.folder.data), "seed": seed}
            ),
            "train": type(config.train).model_validate(values),
        }
    )
    summary = train(its_config)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return TrainedStudent(
        variant=variant,
        lr=lr,
        seed=seed,
        folder=folder,
        steps=summary.steps,
        input_tokens=summary.input_tokens,
        supervised_tokens=summary.supervised_tokens,
        seconds=summary.seconds,
    )


def _answers(
    config: "RunConfig",
    student: TrainedStudent,
    split: str,
    questions: Sequence["Question"],
    units: _Units,
) -> list[dict[str, Any]]:
    units.next(f"{student.variant}, lr {student.lr:g}, seed {student.seed}: {split} questions")
    return _rows(config, str(student.folder / "student"), student.folder / split, questions)


def _answers_of(
    config: "RunConfig",
    name: str,
    model: str,
    questions: Sequence["Question"],
    units: _Units,
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """A model's that was not trained here."""
    units.next(f"{name}: test questions")
    return _rows(config, model, config.folder.compare / name / "test", questions, revision)


def _rows(
    config: "RunConfig",
    model: str,
    out: Path,
    questions: Sequence["Question"],
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """One row a question, ordered by id; asked only where no answers of the same model exist.

    A raised rule of reading or scoring answers is applied to existing ones.
    """
    from steper_ray.chains.asking import score_again
    from steper_ray.chains.rows import read_chains

    now = answers_identity(
        BM25Retriever(config.folder.corpus).corpus_version,
        "",
        evaluated(config, model, revision).identity,
    )
    file = out.with_name(f"{out.name}.{RECORD_FILE}")
    before = read_record(file)
    wanted = sorted(question.id for question in questions)
    scoring = [f"rules.{name}" for name in SCORING_RULES]
    if (
        before is None
        or differences(before, now, ignore=scoring)
        or not out.is_dir()
        or [chain.id for chain in read_chains(out)] != wanted
    ):
        answer(config, model, questions, out, revision=revision)
        write_record(file, now)
        before = now
    chains = read_chains(out)
    if differences(before, now):
        framework = framework_named(model_reasoning(config, model).framework)
        chains = [score_again(chain, framework) for chain in chains]
    return [asdict(chain) for chain in chains]
