"""Generated texts: docs/configuration.md, the table of commands in docs/architecture.md, jobs/*.py.

    python -m steper_ray.pipeline.reference FOLDER    # the repository's root; `make docs` does it

They are made from the sections of the run file and from the table of commands, so that they cannot differ
from the code; tests/pipeline/test_reference.py compares.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from steper_ray.pipeline.command import Command
from steper_ray.pipeline.commands import all_commands
from steper_ray.run import keys
from steper_ray.run.config import RunConfig
from steper_ray.run.folder import RunFolder
from steper_ray.text import squeeze

JOB_NAMES: Final = {"select": "select_chains"}
"""Command → its script in jobs/, where a script of the command's name would hide a module of Python."""

TABLE_BEGINS: Final = "<!-- commands: made by `make docs` -->\n"
TABLE_ENDS: Final = "<!-- end of commands -->\n"

INTRODUCTION: Final = """\
# Configuration

<!-- Made by `make docs` from the settings.py of each package: change it there. -->

One YAML file describes a run. Every key is optional; an unknown key is refused with the nearest valid
one. A section, a list or a mapping that is left empty has its default.

- **Texts** are what is written: `dir: 2026-11-27` and `answer: no` are a folder and a column. A text with
  `: ` or ` #`, or that begins with one of ``[ { * & ! % @ ` ``, needs quotes in the file.
- **Numbers** are finite, and `1e-5` is one. `010` and `1:30`, which YAML 1.1 and 1.2 read differently,
  are refused.
- **Paths** may begin with `~` and name environment variables, as `$DATA/train.jsonl` or
  `${DATA}/train.jsonl`; `$$` is a dollar sign. A variable that is not set is refused, and so is one that
  is called like a secret (`$HF_TOKEN`). `{run.dir}` stands for the run folder. Both hold for folders,
  files, models and addresses, also in the middle of one; other texts, such as an instruction, are left
  alone. `{run.dir}` is filled in too where values are passed through to a library (`engine.args`).
  Relative paths are relative to the working directory.
- **Anchors** (`&name`, `*name`) and merge keys (`<<: *name`) work; keys at the top that begin with `x-`
  are yours, to put anchors under.
- **On the command line**, `--set section.key=value` overrides one value. Where a text is expected, the
  value is the text as it is given, whatever signs are in it: `--set "reasoning.instruction=Use #1: {x}"`.
  `null` is null, quotes around the whole are taken off, and lists and sections are written as in the
  file: `--set "corpus.passages=[a.jsonl, b.jsonl]"`.

The last column names the results that depend on a key: when the key changes, they are made again, or the
stage refuses to mix old and new. Where it is empty, the key may change at any time. What follows from a
result is invalid with it: chains depend on the corpus, and the student depends on the examples. See
[Identity](decisions/identity.md).
"""

INVALIDATED: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("student", "run", ("seed",)),
    ("toy world", "toy", keys.TOY_KEYS),
    ("corpus", "corpus", keys.CORPUS_KEYS),
    ("scores of chains and answers", "questions", ("task",)),
    ("chains, student, answers", "reasoning", keys.REASONING_KEYS),
    ("plan", "engine", keys.ENGINE_KEYS),
    (
        "chains",
        "build",
        (
            *("teacher", "revision", "instruction", "demonstrations"),
            *(f"endpoint.{key}" for key in keys.ENDPOINT_KEYS),
            *keys.TEACHER_KEYS,
        ),
    ),
    (
        "plan",
        "build",
        (
            *(f"endpoint.{key}" for key in keys.ENDPOINT_PACE_KEYS),
            *keys.ATTEMPT_KEYS,
        ),
    ),
    ("examples", "select", keys.SELECT_KEYS),
    ("student", "train", ("model", "revision", "precision", "mix.data", *keys.LEARNING_KEYS)),
    ("checkpoints", "train", keys.CHECKPOINT_KEYS),
    ("sweep", "sweep", keys.SWEEP_KEYS),
)
"""(result, section, keys that its record holds)."""


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    schema = RunConfig.model_json_schema()
    pages = [INTRODUCTION]
    documented: dict[str, str] = {}
    for name, section in schema["properties"].items():
        pages += _section(name, _reference(section), schema["$defs"], documented)
    return "\n".join(pages)


def _section(
    path: str, model: str, models: Mapping[str, Any], documented: dict[str, str]
) -> Iterator[str]:
    """A heading with the table of a section's keys, then those of the sections within it.

    documented: model → heading under which it is described; grows
    """
    documented.setdefault(model, path)
    description = squeeze(models[model].get("description", ""))
    within = []
    rows = ["| key | type | default | meaning | invalidates |", "|---|---|---|---|---|"]
    for key, field in models[model]["properties"].items():
        for inner in _references(field):
            if inner not in documented:
                kind = models[inner]["properties"].get("type", {}).get("const")
                documented[inner] = f"{path}.{key}" + (f": {kind}" if kind else "")
                within.append((f"{path}.{key}", inner))
        cells = (
            f"`{key}`",
            _type(field, documented),
            _default(field),
            squeeze(field.get("description", "")),
            _invalidated(f"{path}.{key}"),
        )
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    yield "\n".join([f"## {documented[model]}", "", description, "", *rows, ""])
    for inner_path, inner in within:
        yield from _section(inner_path, inner, models, documented)


def _reference(field: Mapping[str, Any]) -> str:
    """The model that a field is."""
    return next(_references(field))


def _references(field: Any) -> Iterator[str]:
    """The models that a field's values may be or hold."""
    if isinstance(field, Mapping):
        for key, value in field.items():
            if key == "$ref":
                yield value.rpartition("/")[2]
            elif key not in ("default", "discriminator"):
                yield from _references(value)
    elif isinstance(field, list):
        for value in field:
            yield from _references(value)


def _type(field: Mapping[str, Any], documented: Mapping[str, str]) -> str:
    """What a value may be, with its bounds, in words."""
    if "$ref" in field:
        heading = documented[_reference(field)]
        anchor = heading.replace(".", "").replace(":", "").replace(" ", "-")
        return f"[{heading}](#{anchor})"
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(member, documented) for member in field[union]))
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{_yaml(value)}`" for value in values)
    if field.get("type") == "array":
        return _array_type(field, documented)
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"name → {_type(values, documented)}" if isinstance(values, Mapping) else "mapping"
    names = {"string": "text", "boolean": "true or false", "null": "null"}
    kind = field.get("type", "any")
    return f"{names.get(kind, kind)}{_bounds(field)}"


def _array_type(field: Mapping[str, Any], documented: Mapping[str, str]) -> str:
    """What the items of a list may be."""
    if "prefixItems" in field:
        kinds = dict.fromkeys(_type(item, documented) for item in field["prefixItems"])
        return f"list of {len(field['prefixItems'])}: {', '.join(kinds)}"
    items = field.get("items", {})
    return f"list of {_type(items, documented)}" if items else "list"


def _bounds(field: Mapping[str, Any]) -> str:
    """The least and the largest value that a number may have."""
    whole = field.get("type") == "integer"
    least, above = field.get("minimum"), field.get("exclusiveMinimum")
    largest, below = field.get("maximum"), field.get("exclusiveMaximum")
    if whole and above is not None:
        least, above = above + 1, None
    if whole and below is not None:
        largest, below = below - 1, None
    signs = (("≥", least), (">", above), ("≤", largest), ("<", below))
    shown = [f"{sign} {value:g}" for sign, value in signs if value is not None]
    return f" {', '.join(shown)}" if shown else ""


def _default(field: Mapping[str, Any]) -> str:
    """The value that stands where the run file says nothing."""
    if "default" not in field:
        return "`{}`" if field.get("type") == "object" else ""
    if isinstance(field["default"], Mapping) and any(_references(field)):
        # each key has a default of its own
        kind = field["default"].get("type") if "discriminator" in field else None
        return f"`type: {kind}`" if kind else ""
    return f"`{_yaml(field['default'])}`"


def _yaml(value: Any) -> str:
    """A value as it may be written into the run file."""
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum():
        return value
    return json.dumps(value, ensure_ascii=False)


def _invalidated(path: str) -> str:
    """The results that a key, or a key within it, decides."""
    section, _, key = path.partition(".")
    key = key.removeprefix("ensemble.")  # one more teacher decides what the first decides
    results = [
        result
        for result, of, keys in INVALIDATED
        if of == section and any(key == name or name.startswith(f"{key}.") for name in keys)
    ]
    return "; ".join(dict.fromkeys(results))


def command_table() -> str:
    """The table of commands in docs/architecture.md."""
    rows = [
        "| command | section of the run file | package | writes in the run folder |",
        "|---|---|---|---|",
    ]
    for name, command in all_commands().items():
        sections = ", ".join(f"`{section}`" for section in command.sections) or "all"
        packages = ", ".join(f"`steper_ray/{package}/`" for package in command.packages)
        writes = ", ".join(f"`{path}`" for path in map(_shown_path, command.writes)) or "nothing"
        rows.append(f"| `steper {name}` | {sections} | {packages} | {writes} |")
    return "\n".join(rows) + "\n"


def _shown_path(name: str) -> str:
    """A file of the run folder as docs show it; folders end with a slash.

    name: a property of RunFolder, or a file name
    """
    if not hasattr(RunFolder, name):
        return name
    path: Path = getattr(RunFolder(Path(), Path()), name)
    return f"{path}" if path.suffix else f"{path}/"


def job_script(name: str, command: Command) -> str:
    """The script in jobs/ that runs a command as a Ray job."""
    why = ""
    if name in JOB_NAMES:
        why = (
            f"\n\nA script `{name}.py` would hide Python's module of that name from its neighbours."
        )
    return f'''"""`steper {name}` as a Ray job: {command.help}.

    ray job submit --working-dir . -- python {job_path(name)} --config jobs/configs/toy.yaml

Options are those of `steper {name}`.{why}
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["{name}", *sys.argv[1:]]))
'''


def job_path(name: str) -> str:
    """Where the script of a command is."""
    return f"jobs/{JOB_NAMES.get(name, name)}.py"


def generated_texts(root: Path) -> dict[Path, str]:
    """Every generated file below the repository's root, and the text that it should have."""
    architecture = root / "docs" / "architecture.md"
    before, _, rest = architecture.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    return {
        root / "docs" / "configuration.md": configuration_page(),
        architecture: f"{before}{TABLE_BEGINS}\n{command_table()}\n{TABLE_ENDS}{after}",
        **{
            root / job_path(name): job_script(name, command)
            for name, command in all_commands().items()
            if command.has_job
        },
    }


if __name__ == "__main__":
    for file, text in generated_texts(Path(sys.argv[1])).items():
        file.write_text(text, encoding="utf-8")
