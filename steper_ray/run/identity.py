"""Identity of results: what each was made with, as plain JSON, and how two such records differ.

A record stands beside every result that a later command may use again or resume (chains, measurements of a
plan, answers, checkpoints, a student, a sweep, the demo's stages):

    {"format": 1, "steper_ray": "0.1.0", "result": "training", "train": {"lr": 5e-6, …}, "rules": {…}}

Only keys that are listed go into it, never a whole dump of settings. A new setting therefore changes
no record until somebody decides that a result depends on it; tests/run/test_identity.py asks.

How to add a key that a result depends on: list it in `run/keys.py`, and give in ADDED the value with which
the code before did what it did. FORMAT is raised when an older version could not read what is written.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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
    "parse": 2,
    # Comparing with gold answers: raise it when the same answer gets another EM, F1 or accuracy.
    "match": 2,
    # From prompt and target to token ids (chat template, cut of long prompts): raise it when ids change.
    "tokens": 2,
    # Searching and what the loop does with it: raise it when the same query brings other passages.
    "search": 2,
    # Loss, weights, σ and the order of the data: raise it when the same examples teach something else.
    "objective": 2,
}
"""Numbers of the rules by which results are made beyond settings, raised by hand with the code.

A raised `parse` or `match` rule scores the existing chains again; `prompt`, `tokens` and `search` must not
mix unasked (`steper build --mix`). A finished student stays as it is; its `steper.json` has its rules.
"""


_ENDPOINT_ADDED: Final[dict[str, Any]] = {
    "max_reasoning_tokens": 0,
    "send_stop": True,
    "send_sampling": True,
    "extra_body": {},
}


_ENDPOINTS: Final = (
    *("chains", "chains.ensemble.*", "answers", "measurement"),
    *("stage.build", "stage.build.ensemble.*"),
)
"""Where the settings of an endpoint stand in records."""


REASONING: Final = (
    *(
        f"{kind}.reasoning"
        for kind in ("answers", "chains", "measurement", "stage", "sweep", "training")
    ),
    "chains.ensemble.*.reasoning",
    "student",
)
"""Where records, and a student's `steper.json`, have the settings of the section `reasoning`."""


def _cue_before(reasoning: Mapping[str, Any]) -> str | None:
    """The cue that prompts had before it could be set."""
    return "Step" if reasoning.get("framework") == "ircot" else None


ADDED: Final[dict[str, Any]] = {
    "chains.retriever": "bm25",
    "chains.task": "qa",
    "answers.retriever": "bm25",
    "answers.task": "qa",
    # meaningless before search rule 2, which the index stage's record tells
    "stage.corpus.retriever.analyzer": "auto",
    "stage.corpus.retriever.title_weight": 8,
    "stage.corpus.search_rule": 1,
    "stage.questions.gold_passages": True,
    "stage.questions.columns.type": "type",
    # abilities were not scored by themselves
    "stage.eval.abilities": False,
    "stage.eval.reasoning": {},
    # no chain of that time says that a step was cut off
    "stage.select.keep_cut_off": False,
    **{
        f"{where}.endpoint.{key}": value
        for where in _ENDPOINTS
        for key, value in _ENDPOINT_ADDED.items()
    },
    # templates that call `strftime_now` had each day another date
    **{f"{reasoning}.template_date": "2024-07-26" for reasoning in REASONING},
    # an ability's loss was the mean over its examples in the batch
    **{f"{result}.train.ability_means": "batch" for result in ("stage", "sweep", "training")},
    # nothing else was trained on
    **{f"{result}.train.mix": None for result in ("stage", "sweep", "training")},
    # the frozen matrices were kept as they are
    **{f"{result}.train.lora.quantize": None for result in ("stage", "sweep", "training")},
    # passages were whole
    **{f"{reasoning}.max_passage_tokens": 0 for reasoning in REASONING},
    **{f"{reasoning}.cue": _cue_before for reasoning in REASONING},
    **{f"{reasoning}.whole_line": True for reasoning in REASONING},
}
"""Key path → value that reproduces what was done before the key existed, for keys added after format 1.

A path begins with the kind of result, as "training.train.new_key"; `*` stands for any one key or index. A
function gives the value from what stands beside the key.
"""


RENAMED: Final[dict[str, str]] = {}
"""Key path of an older record → the key's new name, for keys renamed after format 1."""


REMOVED: Final = ("sweep.sweep.trials",)
"""Key paths of older records that results depend on no more: a sweep goes on with more trials."""


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
    for path in REMOVED:
        *above, key = path.split(".")
        for parent in _parents(tree, above):
            parent.pop(key, None)
    for path, value in ADDED.items():
        *above, key = path.split(".")
        for parent in _parents(tree, above):
            parent.setdefault(key, value(parent) if callable(value) else value)
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
    parent: Path, now: Record, prefix: str = "", *, ignore: Collection[str] = ()
) -> tuple[Path, list[tuple[Path, list[str]]]]:
    """The folder of a result below `parent`: the existing one that does not differ, else a new name.

    ignore: key paths in which it may differ, as of `differences`

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
        found = ["no record"] if before is None else differences(before, now, ignore=ignore)
        if found or match is not None:
            others.append((folder, found))
        else:
            match = folder
    if match is None:
        body = {name: value for name, value in now.items() if name not in HEAD}
        match = parent / f"{prefix}{digest(body)[:12]}"
    return match, others
