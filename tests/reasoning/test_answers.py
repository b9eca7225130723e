"""Answers, worked by hand: every wording of the flag, and what belongs to the answer behind it."""

import pytest

from steper_ray.reasoning.answers import Flagged, bare_answer, ends_in_flag, flagged, split_answer
from steper_ray.reasoning.cleaning import clean_line
from steper_ray.reasoning.frameworks import FRAMEWORKS, ircot
from steper_ray.toy.pretrain_rows import rationales
from steper_ray.toy.world import make_world


@pytest.mark.parametrize(
    "text",
    [
        "So the answer is: Paris.",
        "so the answer is Paris",
        "So, the answer is Paris.",
        "So the final answer is: Paris.",
        "Therefore, the answer is: Paris.",
        "Thus the correct answer is Paris.",
        "Hence： the answer is： Paris。",
        "And so the answer to the question is Paris.",
        "The answer is: Paris.",
        "The answer is Paris.",
        "My answer is: Paris",
        "The answer is therefore Paris.",
        "The answer, thus, is Paris.",
        "The final answer is then: Paris.",
        "Answer: Paris",
        "Final answer : Paris",
        "**Answer:** Paris",
        "The answer is: - Paris",
        "\\boxed{Paris}",
        "The answer is $\\boxed{\\text{Paris}}$.",
        "So the answer is: \\(\\boxed{Paris}\\).",
        "所以答案是：Paris。",
        "因此，最终答案为 Paris。",
        "答案：Paris",
        "したがって、答えはParisです。",
        "따라서 정답은 Paris입니다.",
        "Also ist die Antwort: Paris.",
        "Donc, la réponse est : Paris.",
        "Por lo tanto, la respuesta es: Paris.",
        "Hence the answer would be Paris.",
        "In conclusion, the answer must be: Paris.",
        "Somit ist die Antwort Paris.",
        "Por lo tanto, la respuesta es Paris.",
        "所以答案应该是Paris。",
        "따라서 답은 다음과 같습니다: Paris.",
        "よって、正解はParisです。",
        # `Answer:` elsewhere
        *(
            "정답: Paris",
            "최종 답변: Paris",
            "答え：Paris",
            "最終的な答え：Paris",
            "答：Paris",
            "Respuesta final: Paris",
        ),
        *(
            "Réponse : Paris.",
            "Antwort: Paris.",
            "Итак, ответ: Paris.",
            "Quindi la risposta è: Paris.",
        ),
        *(
            "उत्तर: Paris।",
            "इसलिए उत्तर है: Paris।",
            "ดังนั้นคำตอบคือ: Paris",
            "الإجابة: Paris.",
            "إذن الجواب هو: Paris.",
        ),
        # JSON and a tag
        "<answer>Paris</answer>",
        "So the answer is: <answer> Paris </answer> It is so.",
        '{"answer": "Paris"}',
        '{"answer": "Paris", "confidence": 0.9}',
        # The same twice, and a flag without an answer before it or behind it
        "So the answer is: Paris. So the answer is: Paris.",
        "So the answer is: Paris. So, the final answer is **paris**.",
        "The answer is: So the answer is: Paris.",
        "So the answer is: Paris. So the answer is:",
        # What follows
        "So the answer is: Paris. Let me know if you have other questions!",
        "So the answer is: Paris! I hope this helps.",
        "So the answer is: Paris. The tower was built in 1889. It is tall.",
        "So the answer is: Paris (the capital of France).",
        "So the answer is: Paris (Passage 2)",
        "So the answer is: Paris（法国的首都）。",
        *(
            f"So the answer is: Paris ({said})."
            for said in ("born 1950", "7 May 1833 – 1897", "see [1]")
        ),
        "So the answer is: Paris [1].",
        "So the answer is: Paris[1][2, 3].",
        "So the answer is: Paris【1†source】",
        "So the answer is: Paris 🎉",
        # What surrounds it
        "So the answer is: “Paris”.",
        "So the answer is: 'Paris.'",
        "So the answer is: [Paris].",
        "So the answer is: <Paris>",
        "So the answer is: Paris…",
        *(
            f"So the answer is: {quoted}."
            for quoted in ("„Paris“", "„Paris”", "”Paris”", "»Paris«", "‚Paris‘")
        ),
        *(
            f"So the answer is: {quoted}."
            for quoted in ("‹Paris›", "＂Paris＂", "〈Paris〉", "« Paris »")
        ),
    ],
)
def test_every_wording_says_paris(text: str) -> None:
    found = split_answer(clean_line(f"It is there. {text}"))
    assert (found.before, found.answer.casefold()) == ("It is there.", "paris")
    assert split_answer(clean_line(text)).before == ""


@pytest.mark.parametrize(
    "answer",
    [
        *("Washington, D.C.", "the U.S.", "7 a.m.", "a Ph.D.", "J. R. R.", "Apple Inc.", "J. Smith Jr."),
        *("J. K. Rowling", "St. Louis", "Dr. No", "Warner Bros. Pictures", "Mr. & Mrs. Smith", "1,234 m"),
        *("3.5", "-5", "No. 5", "1. FC Köln", "3. Oktober 1990", "yes", "no", "X", "vitamin C", "$5"),
        *("Mamma Mia! Here We Go Again", "Jeopardy!", "Who's Afraid of Virginia Woolf?", "C++", "50%"),
        *("(500) Days of Summer", "The Office (US)", "Paris (Texas)", "Titanic (1997 film)", "f(x)"),
        *("'Til Dawn", "the '90s", "Sagittarius A*", "Hawai`i", "\"Heroes\" and \"Low\"", "巴黎", "東京"),
        *("Halo (video game)", "C#", "🎉", "Bogotá", "आगरा", "القاهرة", "กรุงเทพ", "아이다"),
        *("July 14, 1789", "$5.2 million"),
        *("The Passage", "In the Passage of Time", "a note", "the answer"),
    ],
)  # fmt: skip
def test_an_answer_in_the_canonical_form_is_as_it_was(answer: str) -> None:
    rationale = ircot.parse(f" It is there. {flagged(ircot.ANSWER_FLAG, answer)}", forced=False)
    assert rationale.answer == answer
    assert rationale.rationale == f"It is there. {flagged(ircot.ANSWER_FLAG, answer)}"
    for code in FRAMEWORKS.values():
        read = code.parse(f"{answer}]" if code is FRAMEWORKS["react"] else answer, forced=True)
        assert (read.answer or "").rstrip("?") == answer.rstrip("?")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is not in the passages.",
        "So the answer is still unknown.",
        "The answer is in the passages.",
        "He said the answer is 42.",
        "The intermediate answer is: 42.",
        "Respuesta intermedia: 42.",
        "중간 답변: 42.",
        "그의 대답은 42이다.",
        "中间答案：42。",
        "Zwischenantwort: 42.",
        "Intermediate answer: 42.",
        "The question has one answer: hers.",
        "Therefore it is Paris.",
        "La réponse est dans le texte.",
        "His answering machine is red.",
    ],
)
def test_what_gives_no_answer(text: str) -> None:
    assert split_answer(text) == Flagged(text, "")


@pytest.mark.parametrize(
    ("text", "before", "answer"),
    [
        ("It is in Paris, so the answer is Paris.", "It is in Paris.", "Paris"),
        ("It is in Paris and therefore the answer is Paris.", "It is in Paris.", "Paris"),
        ("在巴黎，所以答案是巴黎。", "在巴黎。", "巴黎"),
        ("Is it in Paris? Yes. Answer: Paris", "Is it in Paris? Yes.", "Paris"),
        ("So the answer is: Rome. So the answer is: Paris.", "So the answer is: Rome.", "Paris"),
        ("So the answer is: Washington, D.C. Let me know!", "", "Washington, D.C."),
        ("It is there. So the answer is: .", "It is there.", ""),
        ("It is there. So the answer is: the U.S. It is big.", "It is there.", "the U.S."),
        ("So the answer is: vitamin C. It is good.", "", "vitamin C"),
        ("The answer is Thus Spoke Zarathustra.", "", "Thus Spoke Zarathustra"),
        ("🎉 So the answer is: Paris!", "", "Paris!"),
        ("So the answer is:", "", ""),
        ('So the answer is: "**".', "", ""),
    ],
)
def test_what_stands_before_the_flag_is_a_sentence(text: str, before: str, answer: str) -> None:
    assert split_answer(text) == Flagged(before, answer)


def test_a_text_that_ends_in_a_flag_is_seen() -> None:
    assert ends_in_flag("It is. So the answer is:")
    assert ends_in_flag("Answer:")
    assert not ends_in_flag("So the answer is: .")
    assert not ends_in_flag("")


@pytest.mark.parametrize(
    "text", ["### Final Answer\nParis", "**Final Answer**\n\n\\boxed{Paris}", "答案\n**Paris**"]
)
def test_a_heading_over_the_answer_is_a_flag(text: str) -> None:
    heading = text.partition("\n")[0]
    assert ircot.unfinished(heading, forced=False) == "\n"
    for name in ("ircot", "self_ask"):
        assert FRAMEWORKS[name].parse(f"It is.\n{text}", forced=False).answer == "Paris"


def test_answers_alone() -> None:
    assert bare_answer(" “Paris.” ") == "Paris"
    assert bare_answer("Paris?", "?") == "Paris"
    assert bare_answer("Paris (the capital of France)") == "Paris"


def test_what_the_toy_world_says_is_read_as_ever() -> None:
    world = make_world(0, 0.2)
    for _, chain in world.chains({"train": 200}):
        *before, last = rationales(world, chain)
        for sentence in before:
            read = ircot.parse(ircot.render_target(sentence, forced=False), forced=False)
            assert (read.rationale, read.query, read.answer) == (sentence, sentence, None)
            assert read.cut_sentences == 0
        answer = world.entities[chain[-1].object].name
        read = ircot.parse(ircot.render_target(last, forced=False), forced=False)
        assert (read.rationale, read.query, read.answer) == (last, last, answer)
        read = ircot.parse(f" {answer}.\n", forced=True)
        assert (read.rationale, read.answer) == (f"So the answer is: {answer}.", answer)
        assert ircot.render_target(read.rationale, forced=True) == f" {answer}.\n"
