"""Does step-wise learning help? Students that differ in one thing only, judged on the same questions.

Every variant learns from the same chains, in the same number of optimizer steps, and may try the same
learning rates; the one whose student answers most of `questions.dev` exactly is kept. Then all students,
the base student and the teacher answer `questions.test`, each through the one reasoning loop. Variants of
most interest are trained with several seeds (a seed is another order of the data).

Finished students and answers are used again: the same command resumes where the last one stopped.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, PositiveFloat, ValidationError

from steper_ray.errors import ConfigError, InputError
from steper_ray.evaluation.evaluate import answer, evaluated
from steper_ray.evaluation.significance import difference_interval, holm, interval, paired_p
from steper_ray.evaluation.summary import BASE, TEACHER, Scores, Summary, summarize
from steper_ray.models import check_model, reasoning_for
from steper_ray.questions import load_questions
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.retrieval import Retriever
from steper_ray.run.identity import (
    RECORD_FILE,
    SCORING_RULES,
    answers_identity,
    differences,
    read_record,
    write_record,
)
from steper_ray.section import Section

if TYPE_CHECKING:
    from steper_ray.config import RunConfig
    from steper_ray.display import StageProgress
    from steper_ray.evaluation.summary import Row
    from steper_ray.schema import Question

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "vanilla-kd": {"objective": "vanilla-kd"},
    "uniform": {"objective": "uniform"},
    "fixed 1.5,1,0.5": {"objective": "fixed", "fixed_weights": [1.5, 1.0, 0.5]},
    "fixed 0.5,1,1.5": {"objective": "fixed", "fixed_weights": [0.5, 1.0, 1.5]},
    "init only": {"objective": "difficulty", "abilities": ["init"]},
    "init+exp": {"objective": "difficulty", "abilities": ["init", "exp"]},
    "difficulty": {"objective": "difficulty"},
}
"""The paper's comparison: name → the keys of the train section in which it differs."""

METRICS: Final = ("em", "f1", "acc")


class CompareConfig(Section):
    """Which ways of learning are compared."""

    variants: dict[str, dict[str, Any]] = Field(default_factory=lambda: dict(VARIANTS))
    """Name → the keys of the train section in which it differs from the run file."""
    baseline: str = "vanilla-kd"
    """The variant that all others are tested against."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Learning rates that every variant tries; empty takes `train.lr` for all."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Seeds of the variants in `repeated`; all others are trained with the first."""
    repeated: tuple[str, ...] = ("vanilla-kd", "uniform", "difficulty")
    """Variants that are trained with every seed."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One student and what it cost."""

    variant: str
    lr: float
    seed: int
    folder: Path
    """Its run folder: `student/`, `training/`, and the chains it answered with."""
    steps: int
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    """Those of them that are targets."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A model's answers to the test questions, and how they compare with the baseline's."""

    name: str
    lr: float | None
    """The learning rate that won on the dev questions; null where nothing was trained."""
    steps: int
    input_tokens: int
    supervised_tokens: int
    """Of one seed's training."""
    summary: Summary
    """Means over questions and seeds; counts are those of one seed."""
    em_of_seed: tuple[float, ...]
    interval: dict[str, tuple[float, float]]
    """95 % bootstrap interval over questions of em, f1 and acc."""
    difference: dict[str, float]
    """em, f1 and acc less the baseline's."""
    difference_interval: tuple[float, float]
    """95 % bootstrap interval of the difference in em."""
    p: float | None
    """Of the paired test of em against the baseline, Holm-adjusted; null for the baseline."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Exact match on the dev questions of one learning rate."""

    variant: str
    lr: float
    em: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    baseline: str
    questions: int
    dev_questions: int
    """0 where no learning rate had to be chosen."""
    epochs: int
    contenders: tuple[Contender, ...]
    tuning: tuple[Tuning, ...]


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


def compare(config: "RunConfig", progress: "StageProgress") -> Comparison:
    """Train and judge every variant; writes `compare/comparison.json`, `.md` and `.html`.

    Needs a running Ray, an indexed corpus and step-wise examples. Raises InputError for unusable input.
    """
    from steper_ray.evaluation.comparison_page import write_comparison

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

    students: dict[str, list[Trained]] = {}
    tuning: list[Tuning] = []
    for name in trains:
        best = -1.0
        for lr in rates:
            student = _train(config, name, lr, section.seeds[0], units)
            em = 0.0
            if tuned:
                em = summarize(_answers(config, student, "dev", dev, units)).overall.em
                tuning.append(Tuning(name, lr, em))
            if em > best:
                students[name], best = [student], em
    for name in repeated:
        lr = students[name][0].lr
        students[name] += [_train(config, name, lr, seed, units) for seed in section.seeds[1:]]
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
    write_comparison(config.compare_dir, result, students)
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
            type(config.train).model_validate({**config.train.model_dump(), **keys})
        except ValidationError as error:
            finding = error.errors()[0]
            where = ".".join(str(part) for part in (name, *finding["loc"]))
            raise ConfigError(f"compare.variants.{where}: {finding['msg']}") from None
    return section.variants


def judge(
    answers: Mapping[str, Sequence[Sequence["Row"]]],
    students: Mapping[str, Sequence[Trained]],
    baseline: str,
) -> tuple[Contender, ...]:
    """Scores, intervals and tests, from every model's rows.

    answers: by name, for each seed one row a question, all in the same order of questions
    students: what was trained, by name
    """
    import numpy as np

    scores = {
        name: {
            metric: np.array([[row[metric] for row in rows] for rows in seeds])
            for metric in METRICS
        }
        for name, seeds in answers.items()
    }
    against = scores[baseline]
    others = [name for name in answers if name != baseline]
    adjusted = holm([paired_p(scores[name]["em"], against["em"]) for name in others])
    p_of = dict(zip(others, adjusted, strict=True))
    contenders = []
    for name, seeds in answers.items():
        first = students[name][0] if name in students else None
        contenders.append(
            Contender(
                name=name,
                lr=first.lr if first else None,
                steps=first.steps if first else 0,
                input_tokens=first.input_tokens if first else 0,
                supervised_tokens=first.supervised_tokens if first else 0,
                summary=_mean_summary(seeds),
                em_of_seed=tuple(scores[name]["em"].mean(1).tolist()),
                interval={metric: interval(scores[name][metric]) for metric in METRICS},
                difference={
                    metric: float(scores[name][metric].mean() - against[metric].mean())
                    for metric in METRICS
                },
                difference_interval=difference_interval(scores[name]["em"], against["em"]),
                p=p_of.get(name),
            )
        )
    return tuple(contenders)


def _mean_summary(seeds: Sequence[Sequence["Row"]]) -> Summary:
    """Scores over all seeds; the number of questions is that of one."""
    pooled = summarize([row for rows in seeds for row in rows])

    def one(scores: Scores) -> Scores:
        return replace(scores, questions=scores.questions // len(seeds))

    return Summary(one(pooled.overall), {hops: one(s) for hops, s in pooled.hops.items()})


def _train(config: "RunConfig", variant: str, lr: float, seed: int, units: _Units) -> Trained:
    """The student of one variant; trained only if it is not there yet."""
    from steper_ray.training.trainer import train

    units.next(f"training {variant}, lr {lr:g}, seed {seed}")
    folder = config.compare_dir / variant / f"lr-{lr:g}-seed-{seed}"
    values = {**config.train.model_dump(), **config.compare.variants[variant], "lr": lr}
    its_config = config.model_copy(
        update={
            "run": config.run.model_copy(
                update={"dir": str(folder), "data": str(config.data_dir), "seed": seed}
            ),
            "train": type(config.train).model_validate(values),
        }
    )
    summary = train(its_config)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Trained(
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
    student: Trained,
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
    return _rows(config, model, config.compare_dir / name / "test", questions, revision)


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
    from steper_ray.stepwise.asking import score_again
    from steper_ray.stepwise.chains import read_chains

    now = answers_identity(
        Retriever(config.corpus_dir).corpus_version,
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
        framework = framework_named(reasoning_for(config, model).framework)
        chains = [score_again(chain, framework) for chain in chains]
    return [asdict(chain) for chain in chains]
