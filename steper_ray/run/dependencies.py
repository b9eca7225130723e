"""What each result depends on, key by key: chains, measurements, students, sweeps and stages."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from steper_ray.run.identity import HEAD, Record, record

ASKING_RULES: Final = ("prompt", "parse", "match", "tokens", "search")
"""Rules that chains depend on."""


SCORING_RULES: Final = ("parse", "match")
"""Those of them that are applied again to chains without asking a model."""


TRAINING_RULES: Final = ("prompt", "tokens", "objective")
"""Rules that a student's training depends on."""


# What results depend on, as key paths within a section of the run file ---------------------------------

REASONING_KEYS: Final = (
    "framework",
    "passages_per_step",
    "max_steps",
    "max_empty_searches",
    "instruction",
    "demonstrations.question",
    "demonstrations.steps.passages.title",
    "demonstrations.steps.passages.text",
    "demonstrations.steps.text",
    "chat",
    "max_prompt_tokens",
    "max_step_tokens",
)


ENDPOINT_KEYS: Final = ("base_url", "api", "tokenizer")


ENDPOINT_PACE_KEYS: Final = ("concurrency", "requests_per_minute")


ENGINE_KEYS: Final = (
    "cpus",
    "gpus",
    "max_num_seqs",
    "dtype",
    "cpu_kv_cache_gib",
    "args",
)
"""What the speed of an engine depends on; chains do not (the same model, computed elsewhere)."""


LEARNING_KEYS: Final = (
    "objective",
    "abilities",
    "fixed_weights",
    "sigma_init",
    "sigma_optimizer",
    "sigma_lr",
    "sigma_min",
    "sigma_max",
    "lr",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "epochs",
    "chains_per_batch",
    "lora.rank",
    "lora.alpha",
    "lora.dropout",
    "lora.target_modules",
    "deepspeed",
    "validation_chains",
    "validate_every_steps",
    "patience",
    "best_by",
)


CHECKPOINT_KEYS: Final = ("zero_stage", "offload_optimizer", "offload_weights", "use_gpu")
"""What a checkpoint can be resumed with; a finished student does not depend on it."""


SWEEP_KEYS: Final = (
    "parameters.choice",
    "parameters.range",
    "parameters.log",
    "search",
    "trials",
    "metric",
    "scheduler",
    "asha_grace",
    "asha_factor",
)


TEACHER_KEYS: Final = ("temperature", "top_p")


ATTEMPT_KEYS: Final = ("samples", "self_correction", "rationalization")
"""Chains of other attempts may lie side by side; a measurement of the pace depends on them."""


TOY_KEYS: Final = ("seed", "scale", "train", "dev", "test")


CORPUS_KEYS: Final = (
    "passages",
    "columns.id",
    "columns.title",
    "columns.text",
    "passage_size",
    "passage_overlap",
    "bad_rows",
    "retriever.type",
    "retriever.stem",
    "retriever.remove_stop_words",
    "retriever.title_boost",
)


QUESTIONS_KEYS: Final = (
    "train",
    "dev",
    "test",
    "columns.id",
    "columns.question",
    "columns.answer",
    "columns.answer_aliases",
    "columns.supporting_ids",
    "columns.hops",
    "task",
    "aliases",
    "bad_rows",
)


SELECT_KEYS: Final = (
    "match",
    "min_f1",
    "keep_forced",
    "keep_rationalized",
    "grounded",
    "repeated_steps",
    "min_support",
    "min_logprob",
    "min_steps",
    "max_steps",
    "min_words",
    "max_words",
    "choose",
    "abilities",
    "per_hops",
)


EVAL_KEYS: Final = ("models", "limit")


TRAIN_KEYS: Final = ("model", "revision", "precision", *LEARNING_KEYS, *CHECKPOINT_KEYS)


_TEACHER: Final = (
    "teacher",
    "revision",
    "instruction",
    "demonstrations",
    *(f"endpoint.{key}" for key in (*ENDPOINT_KEYS, *ENDPOINT_PACE_KEYS)),
    *TEACHER_KEYS,
    *ATTEMPT_KEYS,
)


_NOT_OF_A_TEACHER: Final = (
    "endpoint.api_key_env",
    "endpoint.max_retries",
    "endpoint.timeout_seconds",
)


BUILD_KEYS: Final = (
    *_TEACHER,
    "limit",
    "ensemble.name",
    *(f"ensemble.{key}" for key in _TEACHER),
    *(f"ensemble.engine.{key}" for key in ENGINE_KEYS),
)


DEPENDED_ON: Final[dict[str, tuple[str, ...]]] = {
    "run": ("seed",),
    "toy": TOY_KEYS,
    "corpus": CORPUS_KEYS,
    "questions": QUESTIONS_KEYS,
    "reasoning": REASONING_KEYS,
    "engine": ENGINE_KEYS,
    "build": BUILD_KEYS,
    "select": SELECT_KEYS,
    "train": TRAIN_KEYS,
    "eval": EVAL_KEYS,
    "sweep": SWEEP_KEYS,
}
"""Section → keys that some result's record holds, as they are or by what follows from them."""


EXCLUDED: Final[dict[str, tuple[str, ...]]] = {
    # where things lie
    "run": ("dir", "data"),
    # how models are reached
    "hub": ("trust_remote_code", "offline", "token_env"),
    # how many engines there are, and how they are kept alive
    "engine": ("replicas", "max_restarts"),
    "build": (
        *_NOT_OF_A_TEACHER,
        *(f"ensemble.{key}" for key in _NOT_OF_A_TEACHER),
        *(f"ensemble.engine.{key}" for key in ("replicas", "max_restarts")),
        "fresh",
        "mix",
        "plan_sample",
        "push_to_hub",
    ),
    # how a training is cut up, watched and published
    "train": (
        "micro_batch_tokens",
        "offload_dir",
        "packing",
        "gradient_checkpointing",
        "workers",
        "cpus_per_worker",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "num_to_keep",
        "max_restarts",
        "trackers",
        "push_to_hub",
    ),
    # what is compared; each student and each model's answers have records of their own
    "compare": ("variants", "baseline", "learning_rates", "seeds", "repeated"),
    "sweep": ("concurrent", "max_restarts", "retry_failed"),
    # a server makes nothing that stays
    "serve": (
        "model",
        "host",
        "port",
        "llm_replicas",
        "max_llm_replicas",
        "retriever_replicas",
        "max_retriever_replicas",
        "retriever_cpus",
        "ingress_replicas",
        "max_ingress_replicas",
        "ingress_cpus",
        "keys_file",
        "keys_env",
        "requests_per_minute",
        "open",
        "cors_origins",
        "max_question_chars",
        "max_body_bytes",
        "max_batch",
        "max_requested_passages_per_step",
        "max_requested_steps",
        "max_concurrent",
        "request_timeout_s",
        "passages_per_step",
        "max_steps",
    ),
}
"""Section → keys that no result depends on."""


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


def chains_identity(corpus: Mapping[str, str], asked: Mapping[str, Record]) -> Record:
    """The record of a chain store.

    corpus: from `corpus_identity`
    asked:  the teachers by name, from `asked_identity`; the first is `build.teacher`
    """
    first, *others = asked
    ensemble = {name: asked[name] for name in others}
    made_with = {**corpus, **asked[first], "ensemble": ensemble}
    return record("chains", made_with, ASKING_RULES)


def answers_identity(corpus: Mapping[str, str], name: str, asked: Record) -> Record:
    """The record of one model's answers, or of chains that are still being made.

    corpus: from `corpus_identity`
    name:   what the ensemble calls it, with which ids of chains are made; empty outside of one
    """
    made_with = {**corpus, "name": name, **asked}
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
) -> Record:
    """The record of a training.

    bf16:     whether it computes in bf16
    model:    the base student, from `model_identity`
    examples: digest of what is read of the step-wise examples
    """
    made_with = {
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
    return record("training", made_with, TRAINING_RULES)


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
