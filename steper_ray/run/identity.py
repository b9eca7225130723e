"""Identity of results: what each was made with, as plain JSON, and how two such records differ.

A record stands beside every result that a later command may use again or resume (chains, measurements of a
plan, answers, checkpoints, a student, a sweep, the demo's stages):

    {"format": 1, "steper_ray": "0.1.0", "result": "training", "train": {"lr": 5e-6, …}, "rules": {…}}

Only keys that are listed here go into it, never a whole dump of settings. A new setting therefore changes
no record until somebody decides that a result depends on it; tests/run/test_identity.py asks.

How to add a key that a result depends on: list it below, and give in ADDED the value with which the code
before did what it did. FORMAT is raised when an older version could no longer read what is written.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from steper_ray import __version__
from steper_ray.errors import InputError
from steper_ray.files import write_whole

Record = dict[str, Any]
"""Plain JSON values."""

FORMAT: Final = 1
"""Of records, of `steper.json` in a student's folder, of checkpoints and of the chain store."""

RULES: Final[dict[str, int]] = {
    # Layout of prompts: raise it when the same question, passages and settings give another prompt.
    "prompt": 1,
    # Reading what a model wrote: raise it when the same text gives another answer, query or rationale.
    "parse": 1,
    # Comparing with gold answers: raise it when the same answer gets another EM, F1 or accuracy.
    "match": 1,
    # From prompt and target to token ids (chat template, cut of long prompts): raise it when ids change.
    "tokens": 1,
    # Searching and what the loop does with it: raise it when the same query brings other passages.
    "search": 1,
    # Loss, weights, σ and the order of the data: raise it when the same examples teach something else.
    "objective": 1,
}
"""Numbers of the rules by which results are made beyond settings, raised by hand with the code.

A raised `parse` or `match` rule scores the existing chains again; `prompt`, `tokens` and `search` must not
mix unasked (`steper build --mix`). A finished student stays as it is; its `steper.json` has its rules.
"""

ADDED: Final[dict[str, Any]] = {}
"""Key path → value that reproduces what was done before the key existed, for keys added after format 1.

A path begins with the kind of result, as "training.train.new_key"; `*` stands for any one key or index.
"""

RENAMED: Final[dict[str, str]] = {}
"""Key path of an older record → the key's new name, for keys renamed after format 1."""

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
    "stem",
    "remove_stop_words",
    "title_boost",
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
    "endpoint.retries",
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
    "engine": ("actors", "restarts"),
    "build": (
        *_NOT_OF_A_TEACHER,
        *(f"ensemble.{key}" for key in _NOT_OF_A_TEACHER),
        *(f"ensemble.engine.{key}" for key in ("actors", "restarts")),
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
        "max_failures",
        "trackers",
        "push_to_hub",
    ),
    # what is compared; each student and each model's answers have records of their own
    "compare": ("variants", "baseline", "learning_rates", "seeds", "repeated"),
    "sweep": ("concurrent", "retries", "retry_failed"),
    # a server makes nothing that stays
    "serve": (
        "model",
        "host",
        "port",
        "engines",
        "max_engines",
        "retrievers",
        "max_retrievers",
        "retriever_cpus",
        "ingresses",
        "max_ingresses",
        "ingress_cpus",
        "keys_file",
        "keys_env",
        "requests_per_minute",
        "open",
        "cors_origins",
        "max_question_chars",
        "max_body_bytes",
        "max_batch",
        "most_passages_per_step",
        "most_steps",
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
    return {name: _picked(getattr(section, name), rests) for name, rests in below.items()}


def _picked(value: Any, keys: list[str]) -> Any:
    """The values of some keys of a section within; of any other value itself."""
    if isinstance(value, BaseModel):
        return pick(value, keys)
    if isinstance(value, list | tuple):
        return [_picked(item, keys) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _picked(item, keys) for name, item in value.items()}
    return to_jsonable_python(value)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that change with plain JSON values, not with the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# The records of results -------------------------------------------------------------------------------


def record(result: str, made_with: Mapping[str, Any], rules: Iterable[str] = ()) -> Record:
    """The record of a result.

    result:    its kind, with which paths in ADDED and RENAMED begin
    made_with: what it depends on
    rules:     names of the rules that it depends on
    """
    head = {"format": FORMAT, "steper_ray": __version__, "result": result}
    numbers = {name: RULES[name] for name in rules}
    plain: Record = json.loads(json.dumps({**head, **made_with, "rules": numbers}))
    return plain


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


def chains_identity(corpus_version: str, asked: Mapping[str, Record]) -> Record:
    """The record of a chain store.

    asked: the teachers by name, from `asked_identity`; the first is `build.teacher`
    """
    first, *others = asked
    ensemble = {name: asked[name] for name in others}
    made_with = {"corpus_version": corpus_version, **asked[first], "ensemble": ensemble}
    return record("chains", made_with, ASKING_RULES)


def answers_identity(corpus_version: str, name: str, asked: Record) -> Record:
    """The record of one model's answers, or of chains that are still being made.

    name: what the ensemble calls it, with which ids of chains are made; empty outside of one
    """
    made_with = {"corpus_version": corpus_version, "name": name, **asked}
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
        "engine": pick(engine, ("actors", *ENGINE_KEYS)),
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


# Comparing records ------------------------------------------------------------------------------------

HEAD: Final = ("format", "steper_ray", "result")
MISSING: Final = object()


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignore: Collection[str] = ()
) -> list[str]:
    """`key: before → now` for each value in which two records of one kind of result differ.

    before: may be of an older format: a key that it lacks has the value that ADDED gives
    ignore: key paths that do not count, as `rules`
    """
    return list(_differences(migrated(before), now, {*HEAD, *ignore}))


def migrated(older: Mapping[str, Any]) -> Record:
    """A record with the names of today, and with a value for each key that was added later."""
    values: Record = json.loads(json.dumps(older))
    tree = {values.get("result", ""): values}
    for path, name in RENAMED.items():
        *above, key = path.split(".")
        for parent in _parents(tree, above):
            if key in parent:
                parent[name] = parent.pop(key)
    for path, value in ADDED.items():
        *above, key = path.split(".")
        for parent in _parents(tree, above):
            parent.setdefault(key, value)
    return values


def _parents(value: Any, path: list[str]) -> Iterator[dict[str, Any]]:
    """The dictionaries at a path of keys, in which `*` is any key or index."""
    if not path:
        if isinstance(value, dict):
            yield value
        return
    first, *rest = path
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values() if first == "*" else (value[first],) if first in value else ()
    elif isinstance(value, list) and first == "*":
        items = value
    for item in items:
        yield from _parents(item, rest)


def _differences(before: Any, now: Any, ignore: Collection[str], path: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            inner = f"{path}.{key}" if path else str(key)
            if inner not in ignore:
                was, is_ = before.get(key, MISSING), now.get(key, MISSING)
                yield from _differences(was, is_, ignore, inner)
    elif before != now:
        yield f"{path}: {_shown(before)} → {_shown(now)}"


def because(found: Sequence[str]) -> str:
    """Differences as the reason of something, the first three of them."""
    changes = [one.partition(": ") for one in found]
    said = [f"{key} changed ({values})" for key, _, values in changes[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(said) + more


def _shown(value: Any) -> str:
    """A value in a message, on at most 60 characters."""
    if value is MISSING:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


# Records on disk --------------------------------------------------------------------------------------

RECORD_FILE: Final = "identity.json"


def check_format(values: Mapping[str, Any], where: Path | str) -> None:
    """Raises InputError for what a newer version of steper_ray has written.

    values: the plain JSON values that carry `format`, and the version under `steper_ray`
    """
    number = values.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise InputError(
            f"{where}: written by steper_ray {values.get('steper_ray', 'of a later version')} in format "
            f"{number}; this is steper_ray {__version__}, which reads formats up to {FORMAT}: install that "
            "version or a later one"
        )


def read_record(file: Path) -> Record | None:
    """A record on disk; None where there is none, or what is there is none.

    Raises InputError for one that a newer version has written.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        return None
    check_format(values, file)
    return values


def write_record(file: Path, values: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_whole(
        file, json.dumps(values, indent=2, ensure_ascii=False) + "\n", errors="surrogatepass"
    )


def find_folder(
    parent: Path, now: Record, prefix: str = ""
) -> tuple[Path, list[tuple[Path, list[str]]]]:
    """The folder of a result below `parent`: the existing one that does not differ, else a new name.

    A folder holds its record in RECORD_FILE. Returns it with every other such folder and how that differs,
    newest first.
    """
    folders = sorted(
        (file.parent for file in parent.glob(f"{prefix}*/{RECORD_FILE}")),
        key=lambda folder: (folder / RECORD_FILE).stat().st_mtime_ns,
        reverse=True,
    )
    others: list[tuple[Path, list[str]]] = []
    match = None
    for folder in folders:
        before = read_record(folder / RECORD_FILE)
        found = ["no record"] if before is None else differences(before, now)
        if found or match is not None:
            others.append((folder, found))
        else:
            match = folder
    if match is None:
        body = {name: value for name, value in now.items() if name not in HEAD}
        match = parent / f"{prefix}{digest(body)[:12]}"
    return match, others
