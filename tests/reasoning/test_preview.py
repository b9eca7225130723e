"""`steper prompt`: what it prints, with a scripted retriever and then with a real index."""

import re
from pathlib import Path

import pytest

from steper_ray.cli import main
from steper_ray.data.questions import read_questions
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.ircot import render_prompt
from steper_ray.reasoning.preview import preview
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval import open_retriever
from steper_ray.run.config import RunConfig
from steper_ray.schema import Passage
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.toy.write import MODELS
from tests.fakes import ScriptedRetriever, hits_of

A, B = (Passage(name, name.upper(), f"About {name}.") for name in "ab")
SETTINGS = ReasoningConfig(instruction="Go.", max_steps=3, max_step_tokens=64)


def shown(*rationales: str, settings: ReasoningConfig = SETTINGS) -> list[str]:
    encoder = PromptEncoder(make_tokenizer(), settings.chat)
    return list(preview("Who?", rationales, encoder, ScriptedRetriever([A], [A, B]), settings))


def test_without_rationales_the_first_step_is_shown() -> None:
    prompt = render_prompt("Who?", [A], instruction="Go.")
    tokens = len(make_tokenizer()(prompt)["input_ids"])
    lines = shown()
    assert [line.rstrip("─ ") for line in lines] == [
        "",
        "── step 1 of at most 3: 1 new passage for 'Who?'",
        prompt,
        f"── {tokens} tokens of 4,096",
        "   goes on until '\\n', 64 tokens at most",
        "",
        "to see step 2, say what step 1 writes: --rationale '…' once more",
    ]


def test_each_rationale_leads_to_the_next_prompt() -> None:
    lines = shown("One.\nand more")
    assert "   assumed: 'One.'" in lines
    assert render_prompt("Who?", [A, B], ["One."], instruction="Go.") in lines
    (count,) = [line for line in lines if "as in step 1" in line]
    trunk = len(make_tokenizer()("Go.\n\nTitle: A\nText: About a.\n\n")["input_ids"])
    assert f"the first {trunk} as in step 1" in count
    assert "1 new passage for 'One.'" in lines[lines.index("   assumed: 'One.'") + 2]
    assert lines[-1].startswith("to see step 3")


def test_the_last_step_is_said_to_be_forced() -> None:
    lines = shown("One.", "Two.")
    assert render_prompt("Who?", [A, B], ["One.", "Two."], forced=True, instruction="Go.") in lines
    assert lines[-1] == "step 3 is the last: its answer is forced (forced)"
    settings = SETTINGS.model_copy(update={"max_steps": 9, "max_empty_searches": 1})
    lines = shown("One.", "Two.", "Three.", settings=settings)
    assert lines[-1] == "step 4 is the last: its answer is forced (nothing_new)"
    assert "step 4 of at most 9: no search" in lines[-6]


def test_a_rationale_with_an_answer_ends_the_chain() -> None:
    lines = shown("One. So the answer is: X.", "Two.")
    assert lines[-2:] == [
        "step 1 answers 'X', so there is no further one",
        "1 --rationale not used",
    ]


def test_what_is_left_out_is_said() -> None:
    settings = SETTINGS.model_copy(update={"max_prompt_tokens": 20})
    assert any("; the 1 oldest passage left out" in line for line in shown(settings=settings))


@pytest.mark.engine
def test_the_command_searches_the_real_index(
    toy_corpus: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(
        f"run: {{dir: {tmp_path}, data: {toy_corpus.folder.root}}}\n"
        "reasoning: {framework: react, passages_per_step: 2, instruction: Go.}\n"
        f"build: {{teacher: {MODELS / 'teacher'}, demonstrations: bundled}}\n"
        f"train: {{model: {MODELS / 'base'}}}\n"
    )
    retriever = open_retriever(toy_corpus.folder.corpus)
    question = read_questions(toy_corpus.questions.dev, "questions.dev")[0].question
    first = [hit.passage for hit in hits_of(retriever, question, 2)]
    asked = ["prompt", "--config", str(run), "--question", question]
    query = first[0].text
    thought = f"Hm. Action: Search[{query}]"
    assert main([*asked, "--rationale", thought]) == 0
    student = capsys.readouterr().out
    assert "base, as plain text; react, k = 2, at most 5 steps, 0 demonstrations" in student
    assert f"Go.\n\nQuestion: {question}\n\nTitle: {first[0].title}\n" in student
    second = [hit.passage for hit in hits_of(retriever, query, 2)]
    new = len([passage for passage in second if passage not in first])
    assert f"step 2 of at most 5: {new} new passage" in student
    assert all(f"Text: {passage.text}\n" in student for passage in [*first, *second])
    assert re.search(r"── [\d,]+ tokens of 4,096, the first [\d,]+ as in step 1", student)
    assert main([*asked, "--teacher"]) == 0
    teacher = capsys.readouterr().out
    assert "teacher, as plain text; react, k = 2, at most 5 steps, 2 demonstrations" in teacher
    assert "Go.\n\nQuestion: In which valley" in teacher
    run.write_text(
        run.read_text().replace(
            f"teacher: {MODELS / 'teacher'}",
            "teacher: hosted, endpoint: {base_url: 'http://h/v1', tokenizer: TOKENIZER}",
        )
    )
    name = str(MODELS / "teacher")
    assert main([*asked, "--teacher", "--set", f"build.endpoint.tokenizer={name}"]) == 0
    assert capsys.readouterr().out == teacher.replace("teacher, as", "hosted, as")
    assert main([*asked, "--teacher", "--set", "build.endpoint.tokenizer=null"]) == 2
    assert capsys.readouterr().err == (
        "steper prompt: --teacher: the teacher is an endpoint, whose tokenizer is not known; name one "
        "in build.endpoint.tokenizer\n"
    )
    assert main([*asked, "--model", str(tmp_path / "nowhere")]) == 2
    assert "--model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*asked, "--teacher", "--model", "x"])
