"""The compare stage: students that differ in one setting of the training, on the same test questions.

Every variant learns from the same chains, in the same number of optimizer steps, and may try the same
learning rates; the rate whose student answers most of `questions.dev` exactly is kept. Then all students,
the base student and the teacher answer `questions.test`, each through the one reasoning loop. Variants in
`compare.repeated` are trained with several seeds (a seed is another order of the data).

Finished students and answers are used again: the same command resumes where the last one stopped.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.teachers import Reasoner, model_reasoning
from steper_ray.errors import ConfigError, InputError
from steper_ray.evaluation.answer import answer, as_rows, kept_answers
from steper_ray.evaluation.comparison import (
    Comparison,
    TrainedStudent,
    Tuning,
    judge,
    write_comparison,
)
from steper_ray.evaluation.settings import STUDENT
from steper_ray.evaluation.summary import BASE, TEACHER, Scores, summarize
from steper_ray.models.folder import check_model, pinned, resolved_model
from steper_ray.retrieval.gold import asked_questions
from steper_ray.run.lock import locked
from steper_ray.run.versions import in_use
from steper_ray.schema import Question
from steper_ray.training.objective import objective_named

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig
    from steper_ray.training.summary import TrainSummary


logger = logging.getLogger(__name__)


class _Work:
    """Trainings and evaluations, one after the other, under one progress line."""

    def __init__(self, progress: "StageProgress", total: int, corpus: Path) -> None:
        """corpus: the version that all of them search"""
        self.corpus = corpus
        self._progress, self._total, self._done = progress, total, 0

    def begin(self, task: str) -> None:
        """Show the next training or evaluation, as `training uniform, lr 1e-05, seed 0`."""
        logger.info("%s", task)
        self._progress.update(
            self._done, self._total, f"{self._done + 1}/{self._total}  {task}", at_once=True
        )
        self._done += 1


def compare(
    config: "RunConfig", progress: "StageProgress", train: "Callable[..., TrainSummary]"
) -> tuple[Comparison, dict[str, list[TrainedStudent]]]:
    """Results of all models, and the trained students by variant; writes `comparison.json`.

    All of them search the version of the corpus that is the newest now. Needs a running Ray, an indexed
    corpus and step-wise examples. Raises InputError for unusable input, and if another command compares.

    train: `pipeline.training.train_student`
    """
    with locked(config.folder.compare), in_use(config.folder.corpus) as corpus:
        return _compare(config, progress, train, corpus)


def _compare(
    config: "RunConfig",
    progress: "StageProgress",
    train: "Callable[..., TrainSummary]",
    corpus: Path,
) -> tuple[Comparison, dict[str, list[TrainedStudent]]]:
    """`compare` on a version of the corpus."""
    section = config.compare
    variants = check_variants(config)
    base = check_model(config.train.model, "train.model", config.train.revision)
    teacher = check_model(config.build.teacher, "build.teacher", config.build.revision)
    rates = section.learning_rates or (config.train.lr,)
    test = asked_questions(config, "test")
    dev = dev_questions(config) if _chooses_on_dev(config) else []
    if {question.id for question in dev} & {question.id for question in test}:
        raise InputError(
            "questions.test: shares ids with questions.dev, on which learning rates or students are "
            "chosen; name other questions, or leave one learning rate and train.best_by: loss"
        )
    repeated = [name for name in variants if name in section.repeated_variants]
    tunings = len(rates) * (2 if len(rates) > 1 else 1)
    repetitions = 2 * (len(section.seeds) - 1) * len(repeated)
    work = _Work(progress, len(variants) * (tunings + 1) + repetitions + 2, corpus)

    students, tuning = _best_of_each(train, config, rates, dev, work)
    for name in repeated:
        lr = students[name][0].lr
        students[name] += [
            _train(train, config, name, lr, seed, work) for seed in section.seeds[1:]
        ]
    answers = {BASE: [_answers_of_model(config, BASE, base, test, work, config.train.revision)]}
    for name, trained in students.items():
        answers[name] = [
            _answers_of_student(config, student, "test", test, work) for student in trained
        ]
    answers[TEACHER] = [
        _answers_of_model(config, TEACHER, teacher, test, work, config.build.revision)
    ]
    comparison = Comparison(
        baseline=section.baseline,
        questions=len(test),
        dev_questions=len(dev) if len(rates) > 1 else 0,
        epochs=config.train.epochs,
        contenders=judge(answers, students, section.baseline),
        tuning=tuple(tuning),
    )
    write_comparison(config.folder.compare, comparison)
    return comparison, students


def _chooses_on_dev(config: "RunConfig") -> bool:
    """Whether learning rates, or the students of a training, are chosen by the dev questions."""
    values = (config.train.model_dump(), *config.compare.variants.values())
    by_em = any(keys.get("best_by") == "em" for keys in values)
    return len(config.compare.learning_rates) > 1 or by_em


def _best_of_each(
    train: "Callable[..., TrainSummary]",
    config: "RunConfig",
    rates: Sequence[float | None],
    dev: Sequence[Question],
    work: _Work,
) -> tuple[dict[str, list[TrainedStudent]], list[Tuning]]:
    """The student of each variant with the best learning rate, and the dev scores that decided.

    rates: None is the default, which a variant with adapters has another of
    With a single rate the dev questions are not asked.
    """
    students: dict[str, list[TrainedStudent]] = {}
    tuning: list[Tuning] = []
    for name in config.compare.variants:
        best = -1.0
        for lr in rates:
            student = _train(train, config, name, lr, config.compare.seeds[0], work)
            em = 0.0
            if len(rates) > 1:
                rows = _answers_of_student(config, student, "dev", dev, work)
                em = summarize(rows).overall.em
                tuning.append(Tuning(name, student.lr, em))
            if em > best:
                students[name], best = [student], em
    return students, tuning


def evaluated_model(
    config: "RunConfig", model: str, revision: str | None = None, *, name: str = STUDENT
) -> Reasoner:
    """A model under evaluation, asked as the run file or the model's own folder says.

    name: of the model among others, by which `eval.engines` may have engines for it
    """
    return Reasoner(
        resolved_model(model),
        model_reasoning(model, build=config.build, reasoning=config.reasoning),
        config.eval.engine_of(name) or config.engine,
        hub=config.hub,
        revision=pinned(model, revision, config.hub),
        task=config.questions.task,
    )


def dev_questions(config: "RunConfig") -> list[Question]:
    """The dev questions that a run evaluates on: `questions.dev`, at most `eval.limit` of them."""
    return asked_questions(config, "dev")[: config.eval.limit]


def dev_scores(config: "RunConfig", student: Path, out: Path, corpus: Path) -> Scores:
    """Scores of a student on the dev questions; its chains are written to `out`.

    corpus: the version to search, which the caller holds
    """
    reasoner, log = evaluated_model(config, str(student)), config.folder.log("eval")
    asked = list(map(MissingAttempts, dev_questions(config)))
    return summarize(as_rows(answer(reasoner, asked, out, corpus=corpus, log=log))).overall


def check_variants(config: "RunConfig") -> dict[str, dict[str, Any]]:
    """The variants, each with its keys of the train section.

    Raises ConfigError for a variant without a usable name or with unusable keys, and for names in
    `baseline` and `repeated` that no variant has.
    """
    section = config.compare
    for name in (section.baseline, *section.repeated_variants):
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
    train: "Callable[..., TrainSummary]",
    config: "RunConfig",
    variant: str,
    lr: float | None,
    seed: int,
    work: _Work,
) -> TrainedStudent:
    """The student of one variant; a finished training is not repeated."""
    values = {**config.train.model_dump(), **config.compare.variants[variant], "lr": lr}
    settings = type(config.train).model_validate(values)
    lr = settings.peak_lr
    work.begin(f"training {variant}, lr {lr:g}, seed {seed}")
    folder = config.folder.compare / variant / f"lr-{lr:g}-seed-{seed}"
    student_config = config.model_copy(
        update={
            "run": config.run.model_copy(
                update={"dir": str(folder), "data": str(config.folder.data), "seed": seed}
            ),
            "train": settings,
        }
    )
    summary = train(student_config, corpus=work.corpus)
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


def _answers_of_student(
    config: "RunConfig",
    student: TrainedStudent,
    split: str,
    questions: Sequence[Question],
    work: _Work,
) -> list[dict[str, Any]]:
    work.begin(f"{student.variant}, lr {student.lr:g}, seed {student.seed}: {split} questions")
    model, out = str(student.folder / "student"), student.folder / split
    return _answers(config, model, out, questions, work.corpus)


def _answers_of_model(
    config: "RunConfig",
    name: str,
    model: str,
    questions: Sequence[Question],
    work: _Work,
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """Answers of the base student or the teacher to the test questions."""
    work.begin(f"{name}: test questions")
    out = config.folder.compare / name / "test"
    return _answers(config, model, out, questions, work.corpus, revision)


def _answers(
    config: "RunConfig",
    model: str,
    out: Path,
    questions: Sequence[Question],
    corpus: Path,
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """One row a question, ordered by id; the model is asked only where none of its answers exist."""
    reasoner, log = evaluated_model(config, model, revision), config.folder.log("eval")
    asked = list(map(MissingAttempts, questions))
    return as_rows(kept_answers(reasoner, asked, out, corpus=corpus, log=log))
