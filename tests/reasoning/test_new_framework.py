"""A framework that a test adds: it is asked, runs in the loop, and is rendered for training."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from steper_ray.reasoning.demonstrations import complete_reasoning, render_head
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.frameworks.protocol import ParsedStep, Prompt, render_question
from steper_ray.reasoning.loop import reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage
from steper_ray.selection.examples import step_examples
from steper_ray.serving.api.schema import AnswerRequest
from tests.fakes import ScriptedEngine, ScriptedRetriever
from tests.samples import CHAIN

A, B = (Passage(name, name.upper(), f"About {name}.") for name in "ab")
FILE = """
framework: notes
demonstrations:
  - question: Where?
    steps:
      - passages: [{title: Sea, text: It is wet.}]
        text: the sea
      - text: "= in the sea"
"""


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    cue: str = "",
) -> Prompt:
    lines = "".join(f"- {rationale}\n" for rationale in rationales)
    return Prompt(render_question(question, searches), f"{lines}-{' =' if forced else ''}")


def render_chain(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    cue: str = "",
) -> str:
    prompt = lay_out(question, searches, rationales[:-1], forced=False)
    return f"{prompt.text} {rationales[-1]}"


def render_target(rationale: str, *, forced: bool) -> str:
    return f" {rationale.removeprefix('= ') if forced else rationale}"


def render_path(rationales: Sequence[str], *, cue: str = "") -> str:
    return " " + "\n- ".join(rationales)


def unfinished(text: str, *, forced: bool) -> str:
    return ""


def parse(text: str, *, forced: bool, whole_line: bool = False) -> ParsedStep:
    line = text.strip()
    if forced or line.startswith("="):
        answer = line.removeprefix("=").strip()
        return ParsedStep(f"= {answer}", "", answer)
    return ParsedStep(line, line, None)


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework of short notes: a line is searched with, `= x` is the answer."""
    module = SimpleNamespace(
        INSTRUCTION="Take notes.",
        CUE="",
        STOPS=("\n",),
        lay_out=lay_out,
        render_chain=render_chain,
        render_target=render_target,
        render_path=render_path,
        parse=parse,
        unfinished=unfinished,
    )
    monkeypatch.setitem(FRAMEWORKS, "notes", module)


def test_it_is_prompted_with_its_demonstrations_and_runs_in_the_loop(tmp_path: Path) -> None:
    file = tmp_path / "notes.yaml"
    file.write_text(FILE)
    settings = complete_reasoning(ReasoningConfig(framework="notes", demonstrations=str(file)))
    assert render_head(settings) == (
        "Take notes.",
        "Question: Where?\n\nTitle: Sea\nText: It is wet.\n\n- the sea\n- = in the sea",
    )
    engine, retriever = ScriptedEngine(" b", " = Ann"), ScriptedRetriever([A], [B])
    done = asyncio.run(reason("Who?", engine=engine, retriever=retriever, config=settings))
    assert retriever.queries == ["Who?", "b"]
    assert (done.answer, [step.rationale for step in done.steps]) == ("Ann", ["b", "= Ann"])
    asked = "Question: Who?\n\nTitle: A\nText: About a.\n\nTitle: B\nText: About b.\n\n- b\n-"
    assert engine.prompts[-1] == "\n\n".join([*render_head(settings), asked])


def test_its_chains_become_examples() -> None:
    settings = complete_reasoning(ReasoningConfig(framework="notes"))
    examples = step_examples(CHAIN, settings)
    assert [example.target for example in examples] == [
        f" {step.rationale}" for step in CHAIN.steps
    ]
    assert examples[1].prompt.endswith(f"\n\n- {CHAIN.steps[0].rationale}\n-")


def test_the_server_knows_it() -> None:
    assert AnswerRequest(question="Who?", framework="notes").framework == "notes"
    with pytest.raises(ValidationError, match=r"Input should be .*'react' or 'notes'"):
        AnswerRequest(question="Who?", framework="nots")
    schema = AnswerRequest.model_json_schema()["properties"]["framework"]
    assert schema["anyOf"][0] == {"type": "string", "enum": ["ircot", "self_ask", "react"]}
