"""Prompts and targets of each framework, worked by hand; what holds for all of them, by property."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import InputError
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import FRAMEWORKS, ircot, react, self_ask
from steper_ray.reasoning.frameworks.protocol import (
    EMPTY_LINE,
    STEP_TERMINATOR,
    Framework,
    ParsedStep,
    render_passages,
)
from steper_ray.reasoning.frameworks.reading import settled
from steper_ray.reasoning.prompts import make_prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Passage
from steper_ray.toy import asking
from tests.fakes import cut

A, B, C = (Passage(name, name.upper(), f"About {name}.") for name in "abc")

TOY_PROMPT = (
    "Answer the question step by step, one sentence at a time, using the passages. "
    "End with: So the answer is:\n\n"
    "Title: A\nText: About a.\n\n"
    "Title: B\nText: About b.\n\n"
    "Question: Who?\n"
    "Step 1: One.\n"
    "Step 2:"
)
"""What the bundled models were trained on; changing a character of it makes them useless."""


def test_ircot_prompts_are_laid_out_exactly_so() -> None:
    assert asking.render_prompt("Who?", [A, B], ["One."]) == TOY_PROMPT
    prompt = ircot.lay_out("Who?", [[A], [B]], ["One."], forced=False, cue="Step")
    assert prompt.headed(asking.INSTRUCTION).text == TOY_PROMPT
    assert prompt.assistant == "Step 1: One.\nStep 2:"
    forced = ircot.render_prompt("Who?", [], [], forced=True, instruction="Go.")
    assert forced == "Go.\n\nQuestion: Who?\nFact 1: So the answer is:"


def test_the_toy_s_run_file_asks_its_models_as_they_were_trained() -> None:
    reasoning = load_config(TOY_RUN_FILE).reasoning
    assert {name: getattr(reasoning, name) for name in asking.REASONING} == asking.REASONING
    assert make_prompt(reasoning, "Who?", [[A, B]], ["One."], forced=False).text == TOY_PROMPT


@pytest.mark.parametrize("cue", ["Step", "Known fact", "Schritt", "事实"])
def test_a_cue_stands_before_every_step(cue: str) -> None:
    settings = complete_reasoning(
        ReasoningConfig(cue=cue, instruction="Go.", demonstrations="bundled")
    )
    prompt = make_prompt(settings, "Who?", [[A]], ["One."], forced=True)
    assert prompt.assistant == f"{cue} 1: One.\n{cue} 2: So the answer is:"
    steps = sum(len(one.steps) for one in settings.demonstrations if not isinstance(one, str))
    assert prompt.user.count(f"\n{cue} ") == steps > 4
    assert ircot.render_path(["One.", "Two."], cue=cue) == f" One.\n{cue} 2: Two.\n"


@pytest.mark.parametrize(
    "cue", ["", "Fact:", "Fact 1", "a\nb", "One two three four five", " a", "#"]
)
def test_a_cue_is_a_few_words(cue: str) -> None:
    with pytest.raises(ValidationError, match="expected one to four words"):
        ReasoningConfig(cue=cue)


def test_a_passage_without_a_title_has_no_line_for_it() -> None:
    assert render_passages([Passage("a", "", "x"), Passage("b", "T", "y")]) == [
        "Text: x",
        "Title: T\nText: y",
    ]


@pytest.mark.parametrize("name", ["self_ask", "react"])
def test_a_layout_without_a_cue_refuses_one(name: str) -> None:
    assert complete_reasoning(ReasoningConfig(framework=name)).cue is None
    with pytest.raises(InputError, match=f"reasoning.cue: the layout of {name} has no cue"):
        complete_reasoning(ReasoningConfig(framework=name, cue="Fact"))


def test_self_ask_prompts_are_laid_out_exactly_so() -> None:
    first = self_ask.lay_out("Who?", [[A]], [], forced=False)
    assert first.user == "Question: Who?\n\nTitle: A\nText: About a.\n\n"
    assert first.assistant == "Are follow up questions needed here:"
    rationales = ["Yes.\nFollow up: Who made b?", "Ann.\nFollow up: Who is Ann?"]
    third = self_ask.lay_out("Who?", [[A], [B, C], []], rationales, forced=False)
    assert third.user == first.user
    assert third.assistant == (
        "Are follow up questions needed here: Yes.\n"
        "Follow up: Who made b?\n\n"
        "Title: B\nText: About b.\n\n"
        "Title: C\nText: About c.\n\n"
        "Intermediate answer: Ann.\n"
        "Follow up: Who is Ann?\n"
        "Intermediate answer:"
    )
    forced = self_ask.lay_out("Who?", [[A], [B, C], []], rationales, forced=True)
    assert forced.assistant == (
        third.assistant.removesuffix("Intermediate answer:") + "So the final answer is:"
    )


def test_react_prompts_are_laid_out_exactly_so() -> None:
    first = react.lay_out("Who?", [[A]], [], forced=False)
    assert first.user == "Question: Who?\n\nTitle: A\nText: About a.\n\n"
    assert first.assistant == "Thought:"
    rationales = ["I need b.\nAction: Search[b maker]", "Action: Search[Ann]"]
    third = react.lay_out("Who?", [[A], [B, C], []], rationales, forced=False)
    assert third.user == first.user
    assert third.assistant == (
        "Thought: I need b.\n"
        "Action: Search[b maker]\n"
        "Observation:\n\n"
        "Title: B\nText: About b.\n\n"
        "Title: C\nText: About c.\n\n"
        "Thought:\n"
        "Action: Search[Ann]\n"
        "Observation: no further passages\n"
        "Thought:"
    )
    forced = react.lay_out("Who?", [[A], [B, C], []], rationales, forced=True)
    assert forced.assistant == (
        third.assistant + " I have to answer with what I have found.\nAction: Finish["
    )


@pytest.mark.parametrize(
    ("code", "rationale", "forced", "target"),
    [
        (ircot, "One.", False, " One.\n"),
        (ircot, "So the answer is: X.", True, " X.\n"),
        (self_ask, "Yes.\nFollow up: Who?", False, " Yes.\nFollow up: Who?\n"),
        (self_ask, "Follow up: Who?", False, "\nFollow up: Who?\n"),
        (
            self_ask,
            "No.\nSo the final answer is: X.",
            False,
            " No.\nSo the final answer is: X.\n\nQuestion:",
        ),
        (self_ask, "So the final answer is: X.", True, " X.\n"),
        (react, "Hm.\nAction: Finish[X]", False, " Hm.\nAction: Finish[X]\n"),
        (react, "Action: Search[x]", False, "\nAction: Search[x]\n"),
        (react, f"{react.FORCED}X]", True, "X]\n"),
    ],
)
def test_targets(code: Framework, rationale: str, forced: bool, target: str) -> None:
    assert code.render_target(rationale, forced=forced) == target
    assert code.parse(target, forced=forced).rationale == rationale


def test_paths_have_every_step_and_no_passages() -> None:
    assert ircot.render_path(["One.", "Two."]) == " One.\nFact 2: Two.\n"
    asked = ["Yes.\nFollow up: Who?", "Ann.\nSo the final answer is: Ann."]
    assert self_ask.render_path(asked) == (
        " Yes.\nFollow up: Who?\nIntermediate answer: Ann.\nSo the final answer is: Ann.\n\nQuestion:"
    )
    assert self_ask.render_path([asked[0], "So the final answer is: Ann."]) == (
        " Yes.\nFollow up: Who?\nSo the final answer is: Ann.\n\nQuestion:"
    )
    done = ["Hm.\nAction: Search[x]", "Ah.\nAction: Finish[Ann]"]
    assert react.render_path(done) == (
        " Hm.\nAction: Search[x]\nThought: Ah.\nAction: Finish[Ann]\n"
    )


def test_a_finished_chain_reads_like_the_prompts_it_had() -> None:
    shown = react.render_chain("Who?", [[A], [B]], ["Hm.\nAction: Search[b]", "Action: Finish[X]"])
    prompt = react.lay_out("Who?", [[A], [B]], ["Hm.\nAction: Search[b]"], forced=False)
    assert shown == prompt.text + "\nAction: Finish[X]"
    sentences = ["One.", "Two. So the answer is: X."]
    assert ircot.render_chain("Who?", [[A], [B]], sentences) == (
        ircot.lay_out("Who?", [[A], [B]], sentences[:1], forced=False).text + f" {sentences[1]}"
    )


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        ("So the answer is: New York.", "So the answer is: New York.", "New York"),
        ("He is. so the ANSWER is: 42", "He is. So the answer is: 42.", "42"),
        ("It is a, so the answer is b", "It is a. So the answer is: b.", "b"),
        ("**Fact 2:** It is.\n**Answer:** b", "It is. So the answer is: b.", "b"),
        ("So the answer is:", "", None),
        ("It is a. So the answer is: .", "It is a.", None),
        (
            "a. So the answer is: b. So the answer is: c.",
            "a. So the answer is: b. So the answer is: c.",
            "c",
        ),
        ("So the answer is: J. R. R.", "So the answer is: J. R. R.", "J. R. R."),
        (
            "One. Two. Three. So the answer is: 4. It is so.",
            "One. Two. Three. So the answer is: 4.",
            "4",
        ),
    ],
)
def test_ircot_writes_every_answer_in_one_form(
    text: str, rationale: str, answer: str | None
) -> None:
    for kept in (False, True):
        read = ircot.parse(f" {text}", forced=False, whole_line=kept)
        assert read == ParsedStep(rationale, rationale, answer)


@pytest.mark.parametrize(
    ("text", "kept", "cut"),
    [
        ("One fact.", "One fact.", 0),
        ("One fact. Another. A third.", "One fact.", 2),
        ("Dr. J. R. Li is in the U.S. Army, No. 5. He is.", "Dr. J. R. Li is in the U.S. Army, No. 5.", 1),
        ("It grew by 3.5 percent", "It grew by 3.5 percent", 0),
        ("它在巴黎。它很高。", "它在巴黎。", 1),
        ("Who knows? Nobody.", "Who knows?", 1),
        ("", "", 0),
    ],
)  # fmt: skip
def test_ircot_takes_the_first_sentence_of_a_line(text: str, kept: str, cut: int) -> None:
    assert ircot.parse(f" {text}", forced=False) == ParsedStep(kept, kept, None, cut)
    assert ircot.parse(f" {text}", forced=False, whole_line=True) == ParsedStep(text, text, None)


@pytest.mark.parametrize(
    ("code", "text", "answer", "rationale"),
    [
        (ircot, " **Paris** (the capital of France)", "Paris", "So the answer is: Paris."),
        (ircot, " So the answer is: Paris.", "Paris", "So the answer is: Paris."),
        (ircot, " It is in Paris. So the answer is: Paris.", "Paris", "So the answer is: Paris."),
        (ircot, "\n\nParis", "Paris", "So the answer is: Paris."),
        (ircot, "", "", "So the answer is:"),
        (self_ask, " The final answer is Paris? ", "Paris", "So the final answer is: Paris."),
        (self_ask, " 巴黎。", "巴黎", "So the final answer is: 巴黎。"),
        (react, "Paris.]", "Paris", f"{react.FORCED}Paris]"),
        (react, "\nAction: Finish[Paris]", "Paris", f"{react.FORCED}Paris]"),
        (react, " **Paris** (the capital of France)", "Paris", f"{react.FORCED}Paris]"),
        (react, "It is Paris. **Action 2**: Finish[Paris]", "Paris", f"{react.FORCED}Paris]"),
        (react, "The answer is Paris.]", "Paris", f"{react.FORCED}Paris]"),
        (react, "", "", f"{react.FORCED}]"),
    ],
)
def test_forced_answers(code: Framework, text: str, answer: str, rationale: str) -> None:
    read = code.parse(text, forced=True)
    assert (read.answer, read.rationale) == (answer, rationale)


@pytest.mark.parametrize(
    ("code", "text", "forced", "put_behind"),
    [
        (ircot, " One.", False, ""),
        (ircot, "", False, EMPTY_LINE),
        (ircot, " **", False, EMPTY_LINE),
        (ircot, " ```", True, EMPTY_LINE),
        (ircot, " It is. So the answer is:", False, STEP_TERMINATOR),
        (ircot, " **Answer:**", False, STEP_TERMINATOR),
        (ircot, " It is. So the answer is: .", False, ""),
        (self_ask, "", True, EMPTY_LINE),
        (self_ask, "", False, ""),
        (self_ask, " Paris", True, ""),
        (react, "", True, EMPTY_LINE),
        (react, "", False, ""),
        (react, " As said in [1] and [2", False, "]\n"),
        (react, " I look.\nAction: Search[Paris [France", False, ""),
        (react, " I look. Search[Paris", False, ""),
        (react, " As said in [1].", False, ""),
    ],
)
def test_a_stop_text_that_came_too_early_is_put_back(
    code: Framework, text: str, forced: bool, put_behind: str
) -> None:
    assert code.unfinished(text, forced=forced) == put_behind


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (" Yes.\n\nFollow up:  Who\n is", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        ("Yes. follow-up question: Who?", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        (
            " Ann.\nSo the answer is: Ann Lee.\n\nQuestion: Where",
            ParsedStep("Ann.\nSo the final answer is: Ann Lee.", "", "Ann Lee"),
        ),
        (
            "Ann.\nFollow up: Who is Ann?\nIntermediate answer: A painter.\nSo the final answer is: B",
            ParsedStep("Ann.\nFollow up: Who is Ann?", "Who is Ann?", None),
        ),
        (" Just Ann.", ParsedStep("Just Ann.", "", None)),
        (" No.\nAnn", ParsedStep("No. Ann", "", None)),
        (" Yes.\nWho is she", ParsedStep("Yes.\nFollow up: Who is she?", "Who is she?", None)),
        ("Who is she?", ParsedStep("Follow up: Who is she?", "Who is she?", None)),
        (
            " **Yes**.\n2. **Follow-up question #2：** “Who is she？”\n",
            ParsedStep("Yes.\nFollow up: Who is she?", "Who is she?", None),
        ),
        (" Yes.\nFollow up: 她是谁", ParsedStep("Yes.\nFollow up: 她是谁？", "她是谁？", None)),
        (
            " Ann, so the final answer is Ann (a painter of old).",
            ParsedStep("Ann.\nSo the final answer is: Ann.", "", "Ann"),
        ),
        (" No.\nFinal answer:\n", ParsedStep("No.", "", None)),
        (" Ann.\nFollow up:", ParsedStep("Ann.", "", None)),
        (" Yes.\nFollow up (1): Who?", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        (" Yes.\nFollow up 1. Who?", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        (" Yes.\nFollow up: [Who?]", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        (" Yes.\nFollow up: Who? (to know)\n", ParsedStep("Yes.\nFollow up: Who?", "Who?", None)),
        (
            " Yes.\nFollow up: Is it “Who?” by Li? 🤔",
            ParsedStep("Yes.\nFollow up: Is it “Who?” by Li?", "Is it “Who?” by Li?", None),
        ),
        (
            " No.\n**Follow up:** None.\nSo the final answer is: Ann.",
            ParsedStep("No.\nSo the final answer is: Ann.", "", "Ann"),
        ),
        (" Yes.\nFollow up: N/A", ParsedStep("Yes.", "", None)),
        (
            " Yes.\nFollow up: No one did?",
            ParsedStep("Yes.\nFollow up: No one did?", "No one did?", None),
        ),
        (
            "Intermediate answer: Ann.\nFollow up: Who?",
            ParsedStep("Ann.\nFollow up: Who?", "Who?", None),
        ),
        ("", ParsedStep("", "", None)),
    ],
)
def test_self_ask_reads_what_models_write(text: str, written: ParsedStep) -> None:
    assert self_ask.parse(text, forced=False) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (" Hm.\nAction: Search[x", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        (
            " Hm.\n\nAction 1: search [ x  y ]\nObservation 1: z",
            ParsedStep("Hm.\nAction: Search[x y]", "x y", None),
        ),
        ("Hm. Action: Finish[X.]", ParsedStep("Hm.\nAction: Finish[X]", "", "X")),
        ("Hm.\nAction: Finish[]", ParsedStep("Hm.\nAction: Finish[]", "", None)),
        ("Hm.\nAction: Finish", ParsedStep("Hm.\nAction: Finish[]", "", None)),
        ("Hm.\nAction：Search（x (y)）", ParsedStep("Hm.\nAction: Search[x (y)]", "x (y)", None)),
        ("**Action 2**: **Search**(x)", ParsedStep("Action: Search[x]", "x", None)),
        ("Hm. Search[“x”]", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Hm.\nfinish(x)", ParsedStep("Hm.\nAction: Finish[x]", "", "x")),
        ("I search (in vain) for it.", ParsedStep("I search (in vain) for it.", "", None)),
        ("Hm.\nAction 2: Search: x", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Hm.\nAction: Search[<x>]", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Thought: Hm.\nAction: Search: x", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Hm.\nAction: Lookup[x]", ParsedStep("Hm. Action: Lookup(x)", "", None)),
        ("A.\nAction: Finish[f[0]] as said", ParsedStep("A.\nAction: Finish[f(0)]", "", "f(0)")),
        (
            "A.\nAction: Search[x]\nThought: B.\nAction: Finish[y]",
            ParsedStep("A.\nAction: Search[x]", "x", None),
        ),
        (" Just a thought [1].", ParsedStep("Just a thought (1).", "", None)),
        (" Hm.\nAction: Search[]", ParsedStep("Hm.\nAction: Search[]", "", None)),
        ("Hm.\nAction (2): Search[x]", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Hm.\nAction2: Search[x]", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        ("Hm.\nAction: Search\nAction Input: x\n", ParsedStep("Hm.\nAction: Search[x]", "x", None)),
        (
            "Hm.\nAction: Finish\n**Action Input:** “y”",
            ParsedStep("Hm.\nAction: Finish[y]", "", "y"),
        ),
        (
            "Hm.\nAction: Finish[So the answer is: X.]",
            ParsedStep("Hm.\nAction: Finish[X]", "", "X"),
        ),
        ("Hm.\nAction: Finish[\\boxed{X}]", ParsedStep("Hm.\nAction: Finish[X]", "", "X")),
    ],
)
def test_react_reads_what_models_write(text: str, written: ParsedStep) -> None:
    assert react.parse(text, forced=False) == written


PIECES = [
    *"aB é.?![]:\n1。？،।*_`\"'()<>#|\\{}",
    *("**", "```", "“", "”", "「", "」", "\n- ", "\n2. ", "\n\n", "> ", "\r", "\u2028"),
    *("**b**", '"b"', "U.S.", "So the answer is: ", "Answer: ", " (see step 1)"),
    *("the final answer is ", "\\boxed{", "答案是", "답은 "),
    *("Follow up: ", "Intermediate answer: ", "Action 1: Search[", "finish(", "Thought: ", "Fact 2: "),
]  # fmt: skip
WORDS = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
"""Any text; and everything that ends or begins something, with the marks of chat models."""
PASSAGES = st.lists(st.sampled_from([A, B, C]), max_size=3)


@st.composite
def texts(draw: st.DrawFn, name: str, last: bool) -> str:
    """What a model might write at a step."""
    said = draw(WORDS)
    if name == "ircot":
        return said + (f" So the answer is: {draw(WORDS)}" if last else "x")
    if name == "self_ask":
        label = "So the final answer is:" if last else "Follow up:"
        return f"{said}\n{label} {draw(WORDS)}" + ("" if last else "x")
    return f"{said}\nAction: {'Finish' if last else 'Search'}[{draw(WORDS)}" + ("" if last else "x")


@st.composite
def chains(
    draw: st.DrawFn, name: str
) -> tuple[Sequence[Sequence[Passage]], Sequence[str], Sequence[str]]:
    """Searches, the steps' rationales, and the texts they were read from; the last one answers."""
    count = draw(st.integers(1, 4))
    written = [draw(texts(name, number == count - 1)) for number in range(count)]
    code = FRAMEWORKS[name]
    read = [code.parse(text, forced=False) for text in written]
    assume(all(step.answer is None for step in read[:-1]))  # a chain ends with its answer
    rationales = [step.rationale for step in read]
    return draw(st.lists(PASSAGES, min_size=count, max_size=count)), rationales, written


@pytest.mark.parametrize("name", FRAMEWORKS)
@given(data=st.data())
def test_prompts_only_grow(name: str, data: st.DataObject) -> None:
    code = FRAMEWORKS[name]
    searches, rationales, _ = data.draw(chains(name))
    for step in range(1, len(rationales)):
        before = code.lay_out(
            "Who?", searches[:step], rationales[: step - 1], forced=False, cue=code.CUE
        )
        after = {
            forced: code.lay_out(
                "Who?", searches[: step + 1], rationales[:step], forced=forced, cue=code.CUE
            )
            for forced in (False, True)
        }
        target = code.render_target(rationales[step - 1], forced=False)
        for prompt in after.values():
            assert prompt.assistant.startswith(before.assistant + target)
            given_before = before.user.removesuffix("Question: Who?\n")
            assert prompt.user.startswith(given_before)
            if name != "ircot" or not searches[step]:
                assert prompt.text.startswith(before.text + target)
        shown = "".join(f"Title: {p.title}\n" for search in searches[: step + 1] for p in search)
        titles = re.findall(r"^Title: .\n", after[False].text, re.MULTILINE)
        if all(code.parse(r, forced=False).query for r in rationales[:step]):
            assert "".join(titles) == shown


@pytest.mark.parametrize("name", FRAMEWORKS)
@given(data=st.data())
def test_what_is_rendered_is_read_back(name: str, data: st.DataObject) -> None:
    code = FRAMEWORKS[name]
    _, rationales, written = data.draw(chains(name))
    for rationale, text in zip(rationales, written, strict=True):
        read = code.parse(text, forced=False)
        target = code.render_target(rationale, forced=False)
        kept = replace(read, cut_sentences=0)
        assert code.parse(target, forced=False) == kept
        assert code.parse(cut(target, code.STOPS), forced=False) == kept
        if read.query or read.answer is not None:
            assert any(stop in target for stop in code.STOPS)
    path = code.render_path(rationales, cue=code.CUE)
    assert path.startswith((" ", "\n"))
    if read_first := code.parse(written[0], forced=False).query:
        assert code.parse(cut(path, code.STOPS), forced=False).query == read_first


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("forced", [False, True])
def test_noise_that_never_reads_the_same_says_nothing(name: str, forced: bool) -> None:
    code = FRAMEWORKS[name]
    nothing = code.parse("", forced=forced)
    assert not nothing.query or nothing.rationale == ircot.ANSWER_FLAG
    assert (
        code.parse(code.render_target(nothing.rationale, forced=forced), forced=forced) == nothing
    )
    changing = itertools.count()
    read = settled(
        "x",
        lambda text, **_: ParsedStep(str(next(changing)), "", None) if text else nothing,
        lambda rationale, **_: str(rationale),
        forced=False,
        stops=(),
    )
    assert read == nothing


@pytest.mark.parametrize("name", FRAMEWORKS)
@given(text=WORDS)
def test_forced_answers_are_read_back(name: str, text: str) -> None:
    code = FRAMEWORKS[name]
    read = code.parse(cut(text, [STEP_TERMINATOR]), forced=True)
    assert read.answer is not None
    target = code.render_target(read.rationale, forced=True)
    assert target.index(STEP_TERMINATOR) == len(target) - 1
    assert code.parse(target, forced=True) == read
    begun = code.lay_out("Who?", [[A]], [], forced=True, cue=code.CUE)
    assert (
        code.render_chain("Who?", [[A]], [read.rationale], cue=code.CUE)
        == ((begun.text + target).rstrip())
        or name == "ircot"
    )
