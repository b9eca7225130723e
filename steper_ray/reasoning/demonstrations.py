"""Demonstrations: finished chains that a prompt shows before the question (few-shot).

A demonstration is written as a chain is: a question, and for each step the passages that its search
brings and the text that is written then. The framework renders it with the code that renders prompts, so
an example and what follows it cannot look different. They stand right after the instruction, the same for
every question, where vLLM's prefix cache keeps them.

The file is YAML and names its framework, since what a step writes is the framework's own:

    framework: ircot
    demonstrations:
      - question: …
        steps:
          - passages:
              - {title: …, text: …}
            text: One sentence.
          - text: "Another sentence. So the answer is: …"

`bundled` in place of a file takes the one beside this module. Its facts are invented, so that a model
learns from it to read and not to remember. None are used unless the run file asks for them.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import yaml
from pydantic import Field, ValidationError

from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.reasoning.settings import Demonstration, ReasoningConfig
from steper_ray.run.findings import explained
from steper_ray.run.section import Section, local_path
from steper_ray.run.yaml_text import load_yaml, yaml_reason
from steper_ray.schema import Passage

BUNDLED: Final = "bundled"


FOLDER: Final = Path(__file__).parent / "demonstrations"


class _File(Section):
    framework: str
    demonstrations: tuple[Demonstration, ...] = Field(min_length=1)


@lru_cache(maxsize=64)
def complete_reasoning(settings: ReasoningConfig) -> ReasoningConfig:
    """The settings with the framework's own instruction and cue where none are set, demonstrations read in,
    and the longest passage as a number.

    Settings that are complete come back unchanged in what they say. Raises InputError for an unknown
    framework, for a cue that its layout does not have, and for demonstrations that cannot be used.
    """
    framework, given = framework_named(settings.framework), settings.demonstrations
    if isinstance(given, str):
        shown = (
            read_demonstrations(given, settings.framework, framework, settings.whole_line)
            if given
            else ()
        )
    else:
        shown = canonical(given, framework, "demonstrations", settings.whole_line)
    if settings.cue is not None and not framework.CUE:
        raise InputError(
            f"reasoning.cue: the layout of {settings.framework} has no cue before a step; leave it out"
        )
    instruction = framework.INSTRUCTION if settings.instruction is None else settings.instruction
    return settings.model_copy(
        update={
            "instruction": instruction,
            "cue": cue_of(settings) or None,
            "demonstrations": shown,
            "max_passage_tokens": settings.passage_limit,
        }
    )


def read_demonstrations(
    path: str, framework: str, code: Framework, whole_line: bool = False
) -> tuple[Demonstration, ...]:
    """The demonstrations of a file, or of the bundled one.

    framework:  its name; code: what it names
    whole_line: see `ReasoningConfig`
    Raises InputError for a file that cannot be used, naming the demonstration and the step.
    """
    try:
        local_path(path)
    except ValueError as error:
        raise InputError(f"demonstrations: {path}: {error}") from None
    file = FOLDER / f"{framework}.yaml" if path == BUNDLED else Path(path).expanduser()
    where = f"demonstrations: {file}"
    try:
        values = load_yaml(file.read_text(encoding="utf-8-sig"), _File)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; check the path, or use {BUNDLED!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: {yaml_reason(error)}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{where}: expected the keys framework and demonstrations; begin with `framework: {framework}` "
            "and put the list under `demonstrations:`"
        )
    try:
        content = _File.model_validate(values)
    except ValidationError as error:
        place, reason = explained(error, values, _File)
        raise InputError(f"{where}: {place}: {reason}") from None
    if content.framework != framework:
        raise InputError(
            f"{where}: written for {content.framework!r}, but reasoning.framework is {framework!r}; "
            "choose another file"
        )
    return canonical(content.demonstrations, code, where, whole_line)


def canonical(
    demonstrations: Sequence[Demonstration],
    code: Framework,
    where: str,
    whole_line: bool = False,
) -> tuple[Demonstration, ...]:
    """The demonstrations with every step's text as the framework would keep it.

    where:      names their place in errors
    whole_line: see `ReasoningConfig`
    Raises InputError where a step but the last has an answer, or asks nothing, or the last has no answer,
    and where the framework would keep the first sentence alone.
    """
    checked = []
    for number, demonstration in enumerate(demonstrations, 1):
        steps = []
        for step, given in enumerate(demonstration.steps, 1):
            written = code.parse(given.text, forced=False, whole_line=whole_line)
            last = step == len(demonstration.steps)
            if last and written.answer is None:
                wrong = "the last step gives no answer"
            elif not last and written.answer is not None:
                wrong = "a step before the last gives an answer"
            elif not last and not written.query:
                wrong = "names nothing to search next"
            elif written.cut_sentences:
                wrong = "has several sentences (reasoning.whole_line would keep them)"
            else:
                steps.append(given.model_copy(update={"text": written.rationale}))
                continue
            raise InputError(f"{where}: demonstration {number}, step {step}: {wrong}; rewrite it")
        checked.append(demonstration.model_copy(update={"steps": tuple(steps)}))
    return tuple(checked)


@lru_cache(maxsize=64)
def render_head(settings: ReasoningConfig) -> tuple[str, ...]:
    """The blocks that begin every prompt: the instruction, then each demonstration."""
    settings, framework = complete_reasoning(settings), framework_named(settings.framework)
    assert settings.instruction is not None, "complete settings have an instruction"
    assert not isinstance(settings.demonstrations, str), "complete settings have read their file"
    cue = cue_of(settings)
    shown = (render_demonstration(one, framework, cue) for one in settings.demonstrations)
    return (settings.instruction, *shown)


def check_room(settings: ReasoningConfig) -> None:
    """Raises InputError where instruction and demonstrations alone fill the longest prompt.

    No tokenizer is needed to know that: a word takes a token at least.
    """
    words = sum(len(block.split()) for block in render_head(settings))
    if words >= settings.max_prompt_tokens:
        raise InputError(
            f"reasoning.max_prompt_tokens: {settings.max_prompt_tokens} leaves no room for a passage: the "
            f"instruction and the demonstrations have {words} words; raise it, or shorten them"
        )


def render_demonstration(demonstration: Demonstration, code: Framework, cue: str) -> str:
    """A demonstration as a block of a prompt."""
    searches = [
        [Passage("", passage.title, passage.text) for passage in step.passages]
        for step in demonstration.steps
    ]
    rationales = [step.text for step in demonstration.steps]
    return code.render_chain(demonstration.question, searches, rationales, cue=cue)
