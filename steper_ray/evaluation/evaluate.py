"""The eval stage: the answers of models to the same questions, and their scores."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.evaluation.answer import kept_answers
from steper_ray.evaluation.summary import Summary, summarize
from steper_ray.files import write_whole
from steper_ray.models.student_settings import carried_settings
from steper_ray.retrieval import corpus_version
from steper_ray.run.lock import locked

if TYPE_CHECKING:
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.schema import Question


SUMMARY_FILE: Final = "summary.json"
"""The scores of every model, in the folder of an evaluation."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers and scores of the evaluated models, by name, in the order given."""

    chains: dict[str, list[dict[str, Any]]]
    """One row a question, with the columns of `arrow.CHAIN_SCHEMA`, ordered by id."""
    summaries: dict[str, Summary]


def evaluate(
    models: Mapping[str, "Reasoner"],
    questions: Sequence["Question"],
    *,
    corpus: Path,
    out: Path,
    log: Path,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Answers of every model to the questions, and their scores.

    A model is not asked again where `out` has its answers to the same questions, by the same settings.
    Writes a folder of chains for each model and `summary.json` to `out`. Needs a running Ray and an indexed
    corpus. Raises InputError for unusable input, and if another command evaluates to `out`.

    models:      by the name of their folder in `out`
    log:         folder for the log of a new launch; within a launch its log is written on
    on_progress: called with answers so far, answers in all, and a line about the model at work
    """
    version = corpus_version(corpus)
    chains: dict[str, list[dict[str, Any]]] = {}
    with locked(out):
        for number, (name, reasoner) in enumerate(models.items()):
            carried = carried_settings(reasoner.model)
            if carried and carried[1] != version:
                print(f"  eval  {name} was trained on corpus {carried[1]}, asked on {version}")

            def show(done: int, total: int, name: str = name, number: int = number) -> None:
                if on_progress is not None:
                    so_far = number * total + done
                    on_progress(so_far, len(models) * total, f"{name} {done:,}/{total:,}")

            chains[name] = kept_answers(
                reasoner, questions, out / name, corpus=corpus, log=log, on_progress=show
            )
        summaries = {name: summarize(rows) for name, rows in chains.items()}
        values = {name: asdict(summary) for name, summary in summaries.items()}
        write_whole(out / SUMMARY_FILE, json.dumps(values, indent=2) + "\n")
    return Evaluation(chains, summaries)


def score_lines(summaries: Mapping[str, Summary]) -> list[str]:
    """Table of the scores as lines of text, one model a line."""
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
    return lines
