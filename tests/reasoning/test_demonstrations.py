"""Demonstration files, the bundled ones first; and what of them teacher and student are shown."""

import json
from pathlib import Path

import pytest

from steper_ray.chains.teachers import model_reasoning, teacher_settings
from steper_ray.errors import InputError
from steper_ray.models.student_settings import SETTINGS_FILE, carried_settings, student_settings
from steper_ray.reasoning.demonstrations import (
    FOLDER,
    check_room,
    complete_reasoning,
    read_demonstrations,
    render_demonstration,
)
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.loading import load_config

FILE = """
framework: ircot
demonstrations:
  - question: Where?
    steps:
      - passages: [{title: A, text: About a.}]
        text: There   is a.
      - text: "It is b. So the answer is: b"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "examples.yaml"
    file.write_text(text)
    return file


def test_every_framework_has_a_bundled_file_and_no_other_is_there() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(FRAMEWORKS)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_bundled_ones_are_written_as_the_framework_keeps_them(name: str) -> None:
    code = FRAMEWORKS[name]
    demonstrations = read_demonstrations("bundled", name, code)
    assert len(demonstrations) >= 2
    for demonstration in demonstrations:
        text = render_demonstration(demonstration, code, code.CUE)
        assert text.count("Title: ") == sum(len(step.passages) for step in demonstration.steps)
        for step in demonstration.steps:
            written = code.parse(step.text, forced=False)
            assert written.rationale == step.text
            if written.answer:
                # What is to be found out stands in the passages, or in the question.
                said = [p.title + p.text for s in demonstration.steps for p in s.passages]
                known = "\n".join([*said, demonstration.question]).lower()
                assert written.answer.lower() in known


def test_none_are_used_unless_asked_for() -> None:
    assert ReasoningConfig().demonstrations == ()
    assert ReasoningConfig(demonstrations=None).demonstrations == ()


def test_instructions_are_the_framework_s_own_unless_given() -> None:
    for name, code in FRAMEWORKS.items():
        assert complete_reasoning(ReasoningConfig(framework=name)).instruction == code.INSTRUCTION
        given = ReasoningConfig(framework=name, instruction="Go.")
        assert complete_reasoning(given).instruction == "Go."
    complete = complete_reasoning(ReasoningConfig())
    assert complete_reasoning(complete) == complete


def test_an_unknown_framework_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"framework: no .* 'reakt'; did you mean react\?"):
        complete_reasoning(ReasoningConfig(framework="reakt"))


def test_a_file_is_read_where_the_run_file_names_it(tmp_path: Path) -> None:
    file = write(tmp_path, FILE)
    run = tmp_path / "run.yaml"
    run.write_text(f"reasoning: {{demonstrations: {file}}}\n")
    demonstrations = complete_reasoning(load_config(run).reasoning).demonstrations
    assert not isinstance(demonstrations, str)
    (demonstration,) = demonstrations
    assert [step.text for step in demonstration.steps] == [
        "There is a.",
        "It is b. So the answer is: b.",
    ]
    with pytest.raises(InputError, match=r"demonstrations: .*no such file"):
        complete_reasoning(load_config(run, ["reasoning.demonstrations=nowhere.yaml"]).reasoning)
    with pytest.raises(InputError, match="written for 'ircot', but reasoning"):
        complete_reasoning(load_config(run, ["reasoning.framework=react"]).reasoning)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("So the answer is: b", "Yes."), "demonstration 1, step 2: the last step gives no answer"),
        (
            ("There   is a.", "'So the answer is: a'"),
            "step 1: a step before the last gives an answer",
        ),
        (("There   is a.", "''"), "step 1: names nothing to search next"),
        (("There   is a.", "There is one. It is a."), "step 1: has several sentences"),
        (("question", "query"), "demonstrations.0.question: field required"),
        (("framework: ircot", ""), "framework: field required"),
        (("- question", "question"), "not valid YAML: line 5, column 10: "),
        (
            ("text: There   is a.", "rationale: a"),
            r"demonstrations\.0\.steps\.0\.text: field required",
        ),
        (
            ("title: A, text", "title: A, id: 1, text"),
            r"passages\.0\.id: unknown key; valid keys: te",
        ),
        (
            ('"It is b. So the answer is: b"', "So the answer is: b"),
            r"line 8, column 31: .* in quotes",
        ),
        (("framework: ircot\n", "\tframework: ircot\n"), "spaces, not tabs"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    file = write(tmp_path, FILE.replace(*change))
    with pytest.raises(InputError, match=message) as caught:
        read_demonstrations(str(file), "ircot", FRAMEWORKS["ircot"])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- question: Where?\n  steps: []\n", "", "ircot"])
def test_a_file_without_its_two_keys_is_told_what_to_write(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_demonstrations(str(file), "ircot", FRAMEWORKS["ircot"])
    assert str(caught.value) == (
        f"demonstrations: {file}: expected the keys framework and demonstrations; begin with "
        "`framework: ircot` and put the list under `demonstrations:`"
    )


def test_a_file_may_have_a_byte_order_mark_anchors_and_empty_lists(tmp_path: Path) -> None:
    text = FILE.replace("passages: [{title: A, text: About a.}]", "passages: ")
    text = text.replace("question: Where?", "question: *q")
    file = write(tmp_path, f"\ufeffx-texts: [&q 2026-11-27]\n{text}")
    (demonstration,) = read_demonstrations(str(file), "ircot", FRAMEWORKS["ircot"])
    assert demonstration.question == "2026-11-27"
    assert demonstration.steps[0].passages == ()


def test_a_prompt_that_is_full_without_a_passage_is_refused() -> None:
    settings = ReasoningConfig(instruction="one two  three\nfour", max_prompt_tokens=5)
    check_room(settings)
    with pytest.raises(InputError) as caught:
        check_room(settings.model_copy(update={"max_prompt_tokens": 4}))
    assert str(caught.value) == (
        "reasoning.max_prompt_tokens: 4 leaves no room for a passage: the instruction and the "
        "demonstrations have 4 words; raise it, or shorten them"
    )
    shown = ReasoningConfig(demonstrations="bundled", max_prompt_tokens=100)
    with pytest.raises(InputError, match=r"100 leaves no room for a passage: .* have \d{3} words"):
        check_room(shown)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_student_s_folder_carries_what_was_in_the_file(tmp_path: Path, name: str) -> None:
    trained = ReasoningConfig(framework=name, demonstrations="bundled", instruction="Go.")
    settings = student_settings(complete_reasoning(trained), "v1", chat=True)
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    whole = complete_reasoning(trained).model_copy(update={"chat": True})
    assert whole.demonstrations not in ("bundled", ())
    assert carried_settings(str(tmp_path)) == (whole, "v1")


def test_a_student_whose_settings_lack_later_keys_is_still_asked(tmp_path: Path) -> None:
    settings = student_settings(ReasoningConfig(instruction="Go."), "v1", chat=False)
    for key in ("chat", "demonstrations", "max_empty_searches"):
        del settings[key]
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    carried = carried_settings(str(tmp_path))
    assert carried is not None
    assert (carried[0].chat, carried[0].demonstrations) == ("auto", ())


def test_the_teacher_may_be_shown_what_the_student_is_not_trained_with(tmp_path: Path) -> None:
    file, run = write(tmp_path, FILE), tmp_path / "run.yaml"
    run.write_text(f"build: {{teacher: some/teacher, demonstrations: {file}, instruction: Teach.}}")
    config = load_config(run)
    assert config.reasoning == ReasoningConfig()
    teacher = model_reasoning("some/teacher", build=config.build, reasoning=config.reasoning)
    assert (len(teacher.demonstrations), teacher.instruction) == (1, "Teach.")
    assert (
        teacher.model_copy(
            update={"demonstrations": (), "instruction": FRAMEWORKS["ircot"].INSTRUCTION}
        )
        == complete_reasoning(config.reasoning)
        == model_reasoning("some/other", build=config.build, reasoning=config.reasoning)
    )


def test_the_teacher_may_be_shown_nothing_where_the_student_is_shown_examples() -> None:
    student = ReasoningConfig(demonstrations="bundled")
    same = teacher_settings(student, instruction=None, demonstrations=None)
    assert same == complete_reasoning(student)
    none = teacher_settings(student, instruction=None, demonstrations="")
    assert none == complete_reasoning(ReasoningConfig())
