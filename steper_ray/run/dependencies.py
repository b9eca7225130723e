"""What each result depends on: chains, measurements, students, sweeps and stages."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from steper_ray.run.identity import HEAD, Record, record
from steper_ray.run.keys import (
    CHECKPOINT_KEYS,
    ENDPOINT_KEYS,
    ENDPOINT_PACE_KEYS,
    ENGINE_KEYS,
    LEARNING_KEYS,
    REASONING_KEYS,
    SWEEP_KEYS,
)

ASKING_RULES: Final = ("prompt", "parse", "match", "tokens", "search")
"""Rules that chains depend on."""


SCORING_RULES: Final = ("parse", "match")
"""Those of them that are applied again to chains without asking a model."""


SCORED_BY: Final = ("task", *(f"rules.{name}" for name in SCORING_RULES))
"""Parts of a record of chains by which they are scored: where these alone differ, they are scored again."""


TRAINING_RULES: Final = ("prompt", "tokens", "objective")
"""Rules that a student's training depends on."""


def pick(section: BaseModel, keys: Iterable[str]) -> Record:
    """The values of some keys of a section, as plain JSON.

    keys: paths within the section; a path through a list or a dictionary is taken in each of its items
    """
    below: dict[str, list[str]] = {}
    for key in keys:
        first, _, rest = key.partition(".")
        below.setdefault(first, []).append(rest)
    return {
        name: _picked(getattr(section, name), rests)
        for name, rests in below.items()
        if name in type(section).model_fields  # another member of a union has other keys
    }


def _picked(value: Any, keys: list[str]) -> Any:
    """The values of some keys of a section within; of any other value itself."""
    if isinstance(value, BaseModel):
        return pick(value, keys)
    if isinstance(value, list | tuple):
        return [_picked(item, keys) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _picked(item, keys) for name, item in value.items()}
    return to_jsonable_python(value)


def asked_identity(
    model: Record | str,
    reasoning: BaseModel,
    *,
    endpoint: BaseModel | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Record:
    """A model and how it is asked: what must be the same for its chains to lie side by side.

    model: from `model_identity`, or the name by which an endpoint knows it
    """
    return {
        "teacher": model,
        "endpoint": None if endpoint is None else pick(endpoint, ENDPOINT_KEYS),
        "reasoning": pick(reasoning, REASONING_KEYS),
        "temperature": temperature,
        "top_p": top_p,
    }


def chains_identity(corpus: Mapping[str, str], asked: Mapping[str, Record], task: str) -> Record:
    """The record of a chain store.

    corpus: from `corpus_identity`
    asked:  the teachers by name, from `asked_identity`; the first is `build.teacher`
    task:   what scores the chains
    """
    first, *others = asked
    ensemble = {name: asked[name] for name in others}
    made_with = {**corpus, **asked[first], "ensemble": ensemble, "task": task}
    return record("chains", made_with, ASKING_RULES)


def answers_identity(corpus: Mapping[str, str], name: str, asked: Record, task: str) -> Record:
    """The record of one model's answers, or of chains that are still being made.

    corpus: from `corpus_identity`
    name:   what the ensemble calls it, with which ids of chains are made; empty outside of one
    task:   what scores the answers
    """
    made_with = {**corpus, "name": name, **asked, "task": task}
    return record("answers", made_with, ASKING_RULES)


def measurement_identity(
    corpus_version: str,
    questions: str,
    asked: Record,
    attempts: Mapping[str, Any],
    engine: BaseModel,
    endpoint: BaseModel | None,
) -> Record:
    """The record of a measured pace.

    questions: digest of their ids; attempts: the values of ATTEMPT_KEYS
    """
    made_with = {
        "corpus_version": corpus_version,
        "questions": questions,
        **asked,
        **attempts,
        "engine": pick(engine, ("replicas", *ENGINE_KEYS)),
        "pace": None if endpoint is None else pick(endpoint, ENDPOINT_PACE_KEYS),
    }
    return record("measurement", made_with)


def training_identity(
    train: BaseModel,
    reasoning: BaseModel,
    *,
    bf16: bool,
    seed: int,
    model: Record,
    examples: str,
    corpus_version: str,
    mix: str,
) -> Record:
    """The record of a training.

    bf16:     whether it computes in bf16
    model:    the base student, from `model_identity`
    examples: digest of what is read of the step-wise examples
    mix:      digest of the rows of `train.mix`; empty without one
    """
    made_with: Record = {
        "run": {"seed": seed},
        "train": {
            "model": model,
            "precision": "bf16" if bf16 else "fp32",
            **pick(train, LEARNING_KEYS),
        },
        "checkpoint": pick(train, CHECKPOINT_KEYS),
        "reasoning": pick(reasoning, REASONING_KEYS),
        "corpus_version": corpus_version,
        "examples": examples,
    }
    if made_with["train"]["mix"] is not None:
        made_with["train"]["mix"]["data"] = mix
    return record("training", made_with, TRAINING_RULES)


TOKENIZER_PARTS: Final = (
    *("tokenizer", "chat_template", "code"),  # of a folder
    *("name", "commit", "revision"),  # on the Hub
)
"""Parts of a model's identity that token ids depend on."""


def prepared_identity(
    reasoning: BaseModel,
    *,
    model: Mapping[str, str],
    examples: str,
    scheme: Mapping[str, Any],
    abilities: Iterable[str],
    whole_path: bool,
) -> Record:
    """The record of prepared training data.

    model:      the base student, from `model_identity`
    examples:   digest of what is read of the step-wise examples
    scheme:     the record of their ability scheme
    abilities:  whose examples are made
    whole_path: whether an example is a chain's whole path
    """
    made_with = {
        "tokenizer": {part: model[part] for part in TOKENIZER_PARTS if part in model},
        "reasoning": pick(reasoning, REASONING_KEYS),
        "examples": examples,
        "scheme": dict(scheme),
        "abilities": list(abilities),
        "whole_path": whole_path,
    }
    return record("prepared", made_with, ("prompt", "tokens"))


def prepared_mix_identity(
    reasoning: BaseModel, *, model: Mapping[str, str], mix: str, longest: int
) -> Record:
    """The record of prepared rows of `train.mix`.

    model:   the base student, from `model_identity`
    mix:     digest of the rows
    longest: tokens that a row is cut at
    """
    made_with = {
        "tokenizer": {part: model[part] for part in TOKENIZER_PARTS if part in model},
        "reasoning": pick(reasoning, ("template_date",)),
        "mix": mix,
        "longest": longest,
    }
    return record("prepared_mix", made_with, ("tokens",))


OF_A_STUDENT: Final = ("train.patience", "train.validate_every_steps")
"""Parts of a training's record that its steps do not depend on: it is resumed with other values."""


OF_SHARDS: Final = tuple(
    f"checkpoint.{key}" for key in ("zero_stage", "offload_optimizer", "offload_weights")
)
"""Parts of it that say how a checkpoint is cut up, which is converted for others."""


OF_A_CHECKPOINT: Final = ("checkpoint", "rules")
"""Parts of a training's record that its finished student does not depend on."""


def sweep_identity(
    sweep: BaseModel, training: Record, *, models: list[Record], judged: Record | None
) -> Record:
    """The record of a sweep.

    training: the record of the training that its trials vary
    models:   the base students of its trials
    judged:   what scores depend on beyond the students; None where the validation loss is the score
    """
    parts = {name: training[name] for name in training if name not in HEAD and name != "rules"}
    made_with = {"sweep": pick(sweep, SWEEP_KEYS), **parts, "models": models, "judged": judged}
    return record("sweep", made_with, (*TRAINING_RULES, *(ASKING_RULES if judged else ())))


def stage_identity(stage: str, inputs: Mapping[str, Any]) -> Record:
    """The record of a finished stage of `steper demo`."""
    return record("stage", {"stage": stage, **inputs})
