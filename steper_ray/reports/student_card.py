"""Model card of a student, its README.md: base student, teacher, training, scores.

The text is `student_card.md.j2`; the metadata above it, by which the Hub files a model, is
huggingface_hub's. A card may be published, so it holds no path of the machine it was written on and
nothing secret, and names that a person chose are written so that Markdown reads them as text.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.reports.markdown import CARD_FILE, as_text, render_template
from steper_ray.run.secrets import is_on_hub, public_name, settings_text
from steper_ray.text import one_line, percent_number
from steper_ray.training.objective import objective_named

PICTURES: Final = {
    "losses.png": "Loss of each ability over the optimizer steps",
    "sigma.png": "Learned difficulty σ of each ability over the optimizer steps",
}
"""Files beside the card that it shows, with their text for readers who cannot see them."""


BEGIN: Final = "<!-- evaluation: `steper eval` rewrites what stands from here -->"


END: Final = "<!-- evaluation: to here -->"


HELD_OUT: Final = "held-out questions"


METRICS: Final = {
    "em": ("exact_match", "Exact match"),
    "f1": ("f1", "F1"),
    "acc": ("accuracy", "Accuracy"),
}
"""Score → the Hub's identifier of the metric, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Facts about a training that a model card states."""

    base_model: str
    """Hub name or folder of the base student; of a folder only the last part is shown."""
    base_revision: str = ""
    """Commit of a base student from the Hub; empty for a folder."""
    teacher: str
    """Hub name or folder of the teacher; empty if unknown."""
    objective: str
    abilities: tuple[str, ...]
    """Abilities that were trained on."""
    settings: Mapping[str, Any]
    """The train section of the run file."""
    framework: str
    passages_per_step: int
    """k in the paper."""
    max_steps: int
    """S in the paper."""
    max_prompt_tokens: int
    corpus_version: str
    """Version of the corpus that the chains' passages come from; empty if unknown."""
    chains: int
    """Chains trained on."""
    examples: Mapping[str, int]
    """Training examples of each ability."""
    dropped_passages: int
    """Passages left out of training prompts that would have outgrown the context."""
    steps: int
    """Optimizer steps."""
    epochs: int
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    """Target tokens among the input tokens."""
    losses: Mapping[str, float | None]
    """L_j of the last global batch, in nats; None for an ability it had no example of."""
    validation_loss: float | None = None
    """⅓ Σ L_j of the best checkpoint on held-out chains, in nats; None if nothing was held out."""
    validation_step: int | None = None
    """Optimizer step of that checkpoint."""
    sigma: Mapping[str, float]
    """σ of each ability at the end."""
    workers: int
    seconds: float
    """Wall clock of the training."""
    versions: Mapping[str, str]
    """Package → version it was trained with."""


def render_card(card: Card, pictures: Collection[str] = ()) -> str:
    """The card's text, metadata first.

    pictures: names of PICTURES that will lie beside it
    """
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        base_model=card.base_model if is_on_hub(card.base_model) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["steper", "retrieval", "distillation", "multi-hop", "question-answering"],
    )
    objective = objective_named(card.objective)
    body = render_template(
        "student_card.md.j2",
        card=card,
        staged=not objective.whole_path,
        learned=objective.learns_sigma,
        base=public_name(card.base_model),
        teacher=public_name(card.teacher),
        settings=settings_text(card.settings),
        evaluation=_between_marks("Not evaluated yet."),
        pictures={name: text for name, text in PICTURES.items() if name in pictures},
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def write_card(folder: Path, card: Card) -> None:
    """Write the card into an exported student's folder, whole or not at all.

    It shows those of PICTURES that the folder has by then.
    """
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    write_whole(folder / CARD_FILE, render_card(card, pictures))


def add_scores(
    folder: Path, name: str, scores: Mapping[str, Mapping[str, float]], questions: int
) -> None:
    """Write the scores of an evaluation into a student's card, in place of earlier ones.

    Everything else in the card stays as it is, text that a person wrote included. A folder without a card
    stays without one.

    name:      which of `scores` is this student
    scores:    model → em, f1 and acc as shares of the questions, in [0, 1]
    questions: number of questions that were asked

    Raises InputError if the card's metadata cannot be read.
    """
    from huggingface_hub import EvalResult, ModelCard

    file = folder / CARD_FILE
    if not file.is_file():
        return
    try:
        card: Any = ModelCard(file.read_text(encoding="utf-8-sig"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{file}: the metadata between its --- lines cannot be read ({type(error).__name__}); "
            "correct it, or move the file away"
        ) from None
    others = [result for result in card.data.eval_results or [] if result.dataset_name != HELD_OUT]
    card.data.model_name = one_line(name) or "student"
    card.data.eval_results = others + [
        EvalResult(
            task_type="question-answering",
            dataset_type=HELD_OUT,
            dataset_name=HELD_OUT,
            dataset_args={"questions": questions},
            metric_type=metric,
            metric_name=title,
            metric_value=round(float(scores[name][score]), 4),
        )
        for score, (metric, title) in METRICS.items()
    ]
    # The last pair of marks: settings, which are shown as they are, stand before it.
    before, begin, rest = card.text.rpartition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        before, after = f"{card.text.rstrip()}\n\n## Evaluation\n\n", "\n"
    card.text = before + _between_marks(_score_table(name, scores, questions)) + after
    write_whole(file, str(card))


def _between_marks(text: str) -> str:
    return f"{BEGIN}\n\n{text}\n\n{END}"


def _score_table(name: str, scores: Mapping[str, Mapping[str, float]], questions: int) -> str:
    titles = [title for _, title in METRICS.values()]
    lines = [
        f"On {questions:,} held-out question{'' if questions == 1 else 's'}, in percent:",
        "",
        f"| Model | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    for model, shares in scores.items():
        shown = f"{as_text(model)}{' (this model)' if model == name else ''}"
        cells = " | ".join(percent_number(shares[score]) for score in METRICS)
        lines.append(f"| {shown} | {cells} |")
    return "\n".join(lines)
