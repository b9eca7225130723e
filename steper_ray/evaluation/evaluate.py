"""The eval stage: the answers of models to the same questions, and their scores."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.chains.attempts import MissingAttempts
from steper_ray.errors import InputError
from steper_ray.evaluation.abilities import ability_scores, given_steps
from steper_ray.evaluation.answer import as_rows, kept_answers
from steper_ray.evaluation.pairs import Pair, f1_interval, pair_text, pairs_of
from steper_ray.evaluation.settings import STEPS_FOLDER
from steper_ray.evaluation.summary import (
    TEACHER,
    Summary,
    interval_text,
    summarize,
    wilson_interval,
)
from steper_ray.files import write_whole
from steper_ray.models.student_settings import carried_settings
from steper_ray.retrieval import corpus_version
from steper_ray.run.lock import locked
from steper_ray.schema import Chain

if TYPE_CHECKING:
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.schema import Question
    from steper_ray.selection.abilities import AbilityScheme


SUMMARY_FILE: Final = "summary.json"
"""The scores of every model, in the folder of an evaluation."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers and scores of the evaluated models, by name, in the order given."""

    chains: dict[str, list[dict[str, Any]]]
    """One row a question, with the columns of `arrow.CHAIN_SCHEMA`, ordered by id."""
    summaries: dict[str, Summary]
    pairs: tuple[Pair, ...] = ()
    """Every two of them."""


def evaluate(
    models: Mapping[str, "Reasoner"],
    questions: Sequence["Question"],
    *,
    corpus: Path,
    out: Path,
    log: Path,
    abilities: "AbilityScheme | None" = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Answers of every model to the questions, and their scores.

    A model is not asked again that has answered the same questions with the same settings. Writes a folder
    of chains for each model and `summary.json` to `out`. Needs a running Ray and an indexed corpus. Raises
    InputError for unusable input, and if another command evaluates to `out`.

    models:      by the name of their folder in `out`
    log:         folder for the log of a new launch; within a launch its log is written on
    abilities:   to score one by one, over the right chains of the model that is called teacher; see
                 `evaluation.abilities`
    on_progress: called with answers so far, answers in all, and a line about the model at work
    """
    if abilities is not None and TEACHER not in models:
        raise InputError(
            f"abilities are scored over the chains of a model called {TEACHER}; add one"
        )
    version = corpus_version(corpus)
    asked = list(map(MissingAttempts, questions))
    chains: dict[str, list[Chain]] = {}
    rounds = len(models) if abilities is None else 2 * len(models) - 1

    def asks(name: str, missing: Sequence[MissingAttempts], folder: str, done: int) -> list[Chain]:
        """A model's chains; done: rounds before this one."""

        def show(so_far: int, total: int) -> None:
            if on_progress is not None:
                text = f"{folder} {so_far:,}/{total:,}"
                on_progress(done * total + so_far, rounds * total, text)

        return kept_answers(
            models[name], missing, out / folder, corpus=corpus, log=log, on_progress=show
        )

    with locked(out):
        for number, (name, reasoner) in enumerate(models.items()):
            carried = carried_settings(reasoner.model)
            if carried and carried[1] != version:
                print(f"  eval  {name} was trained on corpus {carried[1]}, asked on {version}")
            chains[name] = asks(name, asked, name, number)
        rows = {name: as_rows(made) for name, made in chains.items()}
        summaries = {name: summarize(answers) for name, answers in rows.items()}
        if abilities is not None:
            given = given_steps(chains[TEACHER])
            others = _asked_alike(models) if given else []
            for number, name in enumerate(others, len(models)):
                written = asks(name, given, f"{STEPS_FOLDER}/{name}", number)
                scores = ability_scores(given, {chain.id: chain for chain in written}, abilities)
                summaries[name] = replace(summaries[name], abilities=scores)
        evaluation = Evaluation(rows, summaries, pairs_of(rows))
        write_whole(out / SUMMARY_FILE, json.dumps(_as_json(evaluation), indent=2) + "\n")
    return evaluation


def _asked_alike(models: Mapping[str, "Reasoner"]) -> list[str]:
    """The models that can go on with the teacher's steps: of its framework, with as many steps."""

    def layout(name: str) -> tuple[str, int]:
        reasoning = models[name].reasoning
        return reasoning.framework, reasoning.max_steps

    others = [name for name in models if name != TEACHER]
    for name in others:
        if layout(name) != layout(TEACHER):
            print(f"  eval  {name} writes no single steps: its framework or max_steps is another")
    return [name for name in others if layout(name) == layout(TEACHER)]


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    """By model: its summary, 95 % intervals of its scores, and how far it is from each other model."""
    values: dict[str, Any] = {}
    for name, summary in evaluation.summaries.items():
        scores, rows = summary.overall, evaluation.chains[name]
        intervals: dict[str, Any] = {
            metric: wilson_interval(getattr(scores, metric), scores.questions)
            for metric in ("em", "acc", "answered")
        }
        intervals["f1"] = f1_interval(rows)
        against = {pair.other: asdict(pair) for pair in evaluation.pairs if pair.model == name}
        values[name] = {**asdict(summary), "intervals": intervals, "against": against}
    return values


def score_lines(evaluation: Evaluation) -> list[str]:
    """Table of the scores as lines of text, one model a line; then what is known of every two models."""
    summaries = evaluation.summaries
    hops = list(dict.fromkeys(hop for summary in summaries.values() for hop in summary.hops))
    head = "".join(f"{f'{hop}-hop EM':>11}" for hop in hops)
    lines = [f"{'model':<10}{'EM':>7}{'F1':>7}{'Acc':>7}{head}{'s/question':>12}{'tokens':>8}"]
    for name, summary in summaries.items():
        scores = summary.overall
        by_hop = "".join(
            f"{100 * summary.hops[hop].em:>11.1f}" if hop in summary.hops else f"{'–':>11}"
            for hop in hops
        )
        lines.append(
            f"{name:<10}{100 * scores.em:>7.1f}{100 * scores.f1:>7.1f}{100 * scores.acc:>7.1f}"
            f"{by_hop}{scores.seconds:>12.2f}{scores.generated_tokens:>8.0f}"
        )
    return [*lines, *map(pair_text, evaluation.pairs), *_ability_lines(summaries)]


def _ability_lines(summaries: Mapping[str, Summary]) -> list[str]:
    """Each ability by itself, with its interval: one line a model that was asked for single steps."""
    lines = []
    for name, summary in summaries.items():
        parts = [
            f"{ability} {interval_text(score.right, score.steps)} of {score.steps:,}"
            for ability, score in summary.abilities.items()
            if score.steps
        ]
        if parts:
            lines.append(f"{name}, each step after the teacher's: {', '.join(parts)}")
    return lines
