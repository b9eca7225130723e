"""What a step could know and what it could not, by hand."""

import itertools
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.schema import Chain, Passage
from steper_ray.selection.grounding import Ungrounded, names, ungrounded
from steper_ray.selection.lookup import Source, Text
from tests.conftest import ROOT
from tests.samples import CHAIN, PASSAGES, step

FIRST, SECOND, LAST = CHAIN.steps


def faults(rationale: str, *texts: str) -> list[Ungrounded]:
    """What a one-step chain says that is not in passages of these texts, titled `Old Harbour`."""
    passages = tuple(Passage(str(n), "Old Harbour", text) for n, text in enumerate(texts))
    steps = (step(rationale, *(passage.id for passage in passages)),)
    chain = replace(CHAIN, question="Who is Ann Lee?", passages=passages, steps=steps)
    return ungrounded(chain)


def missing(rationale: str, *texts: str) -> list[str]:
    return [one.text for one in faults(rationale, *texts)]


def test_a_true_chain_is_grounded() -> None:
    assert ungrounded(CHAIN) == []


@pytest.mark.parametrize(
    ("rationale", "unknown"),
    [
        # Names
        ("The band is Kek Bibro.", []),
        ("The band is Kek Stumum.", ["Kek Stumum"]),
        ("The band is Bibro.", []),
        ("The band is kek stumum.", []),  # not written as a name
        ("It is Old Harbour, says Ann Lee.", []),  # the title; the question
        ("It is New Harbour.", ["New Harbour"]),
        ("It was praised by Kek Bibro's Zalk.", ["Zalk"]),
        ("Beyonce sang with Rene.", []),
        ("By Beyoncé and RENÉ.", []),
        ("Written by J.R.R. Tolkien.", []),
        ("Written by J. R. R. Tolkien and J. K. Rowling.", ["J K Rowling"]),
        ("Spider Man met Spider-Man.", []),
        # Middle names and pieces
        ("It was Barack Obama.", []),
        ("It was Barack Hussein Obama.", []),
        ("It was Barack Trucks.", ["Barack Trucks"]),
        ("It was Senator Barack Obama.", []),
        ("It was Duke Barack Obama.", ["Duke Barack Obama"]),
        # A sentence's start
        ("However, it ran.", []),
        ("In Harbour it ran.", []),
        ("Zork Bibro ran.", []),  # Zork is seen nowhere, so it may be any word; Bibro is known
        ("Zork Stumum ran.", ["Stumum"]),
        ("Kek Harbour ran.", ["Kek Harbour"]),  # Kek is a name elsewhere
        ("The Harbour ran. Old trucks! Seven?", []),
        *((f"x{sign} So it ran.", []) for sign in ".!?:;…。！？：；।؟۔｡"),
        ("Zork ran.", []),  # one word: not found out
        ("So the answer is: Yes.", []),
        ("So the answer is: Kek Stumum.", ["Kek Stumum"]),
        ('He wrote "Zork Nights" then.', ["Zork Nights"]),
        ("I think I saw it.", []),
        # Numbers
        ("It was in 1984 and 2000.", ["2000"]),
        ("It has 12,500 seats or 12500.", []),
        ("It has 12,50 seats.", ["12", "50"]),
        ("It costs 3.5 or 35 or 5.", ["35", "5"]),
        ("The 19th, in the 1990s.", []),
        ("It has 7 trucks and 8 cars.", ["8"]),
        ("An F16 flew.", []),
        ("An F17 flew.", ["F17"]),
        ("A 16 flew.", ["16"]),
        ("", []),
    ],
)
def test_names_and_numbers(rationale: str, unknown: list[str]) -> None:
    texts = (
        "In 1984 Kek Bibro praised it. It owns seven trucks and the old 19 hall, built around 1990.",
        "Beyoncé and René read Tolkien, J. R. R. Spider-Man flew an F16 at 3.5. It has 12,500 seats.",
        "They saw senator Barack Hussein Obama II. J.R.R. Tolkien wrote. Zalkien ran.",
    )
    assert missing(rationale, *texts) == unknown


def test_each_step_knows_what_stood_in_its_prompt() -> None:
    told = step("It presents Kek Bibro, whose mayor is Marie-Claire O'Neill.", "p1")
    early = replace(CHAIN, steps=(told, SECOND, LAST))
    assert ungrounded(early) == [Ungrounded(1, "Marie Claire O Neill", certain=True)]
    # What an earlier step said is known, be it true or not; that step is the one that is blamed.
    later = replace(CHAIN, steps=(step("Of Foo Bar.", "p1"), step("So Foo Bar.", "p2"), LAST))
    assert ungrounded(later) == [Ungrounded(1, "Foo Bar", certain=True)]
    # A passage that did not fit into the prompt was not seen.
    whole = step("It praised Zalk Stumum, presents Kek Bibro.", "p2")
    first = step("A show.", "p1")
    asked = replace(CHAIN, question="Who?", steps=(first, whole, LAST))
    assert ungrounded(asked) == []
    cut = replace(asked, steps=(first, replace(whole, dropped_passages=1), LAST))
    assert ungrounded(cut) == [Ungrounded(2, "Zalk Stumum", certain=True)]


def test_titles_and_texts_do_not_run_together() -> None:
    assert missing("It is Harbour Kek.", "Kek Bibro sang.") == ["Harbour Kek"]
    assert missing("It is Bibro Zalk.", "He met Kek Bibro", "Zalk sang.") == ["Bibro Zalk"]


def test_sequences_of_capitalised_words() -> None:
    found = list(
        names("In Rome J. F. Kennedy met AT&T's iPhone, World War I. The Pope (Pius) left.")
    )
    assert found == [
        (["In", "Rome", "J", "F", "Kennedy"], True),
        (["AT", "T"], False),
        (["iPhone"], False),
        (["World", "War", "I"], False),
        (["The", "Pope"], True),
        (["Pius"], False),
    ]  # fmt: skip


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_a_passage_says_may_be_repeated(before: str, after: str) -> None:
    rationale = f"Kek Bibro met {after}"
    source = Source([Text(f"{before} {rationale}")])
    assert all(source.has_name(words) for words, _ in names(Text(rationale).folded))
    assert all(source.has_number([number]) for number in Text(rationale).numbers)


@pytest.mark.parametrize("repeated", ["Kek ", "Kek Bibro ", "Kek. ", "12 "])
@pytest.mark.parametrize("end", ["", "Stumum "])
def test_repeated_words_take_time_by_their_number(repeated: str, end: str) -> None:
    """Each repeat made it three times as long, where every way to read them was tried."""

    def seconds(repeats: int) -> float:
        taken = []
        for _ in range(3):
            started = time.process_time()
            missing(repeated * repeats + end, repeated * 3 * repeats + "Zalk")
            taken.append(time.process_time() - started)
        return min(taken)

    before, repeats = max(seconds(5), 0.001), 5
    while repeats < 10_000:
        repeats *= 2
        now = seconds(repeats)
        assert now < 20 * before
        before = max(now, 0.001)


@given(st.text())
def test_any_text_can_be_looked_at(text: str) -> None:
    passages = (Passage("p1", text, text), *PASSAGES[1:])
    chain = replace(CHAIN, question=text, passages=passages, steps=(step(text, "p1"), SECOND, LAST))
    assert all(one.step != 1 for one in ungrounded(chain))


def real_questions() -> list[dict[str, Any]]:
    """40 questions of HotpotQA, each with its ten passages."""
    path = ROOT / "tests" / "data" / "hotpotqa_distractor_40.json"
    questions: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return questions


def test_real_sentences_over_their_own_passages_and_over_others() -> None:
    """HotpotQA's supporting sentences, said as rationales: over the passages of their own question, then
    over those of another one."""
    questions = real_questions()
    said = []
    for question in questions:
        context = dict(question["context"])
        facts = [(title, n) for title, n in question["supporting_facts"] if n < len(context[title])]
        said.append([context[title][n].strip() for title, n in facts])
    found, rationales = {0: 0, 7: 0}, {0: 0, 7: 0}
    for shift in found:
        for number, question in enumerate(questions):
            sentences = said[(number + shift) % len(questions)]
            if not shift:
                sentences = [*sentences, f"So the answer is: {question['answer']}."]
            passages = tuple(
                Passage(str(n), title, "".join(text))
                for n, (title, text) in enumerate(question["context"])
            )
            for sentence in sentences:
                steps = (step(sentence, *(passage.id for passage in passages)),)
                chain = replace(
                    CHAIN, question=question["question"], passages=passages, steps=steps
                )
                found[shift] += bool(ungrounded(chain))
                rationales[shift] += 1
    assert rationales == {0: 136, 7: 96}
    assert found == {0: 0, 7: 93}


TRUE_SENTENCES = [
    (
        "Anna Kowalska (3 May 1961 – 12 June 2004) was a Polish painter.",
        "Anna Kowalska was born on 3rd May 1961 and died aged 43.",
    ),
    (
        "Smith was born in 1961. Jones was born in 1965.",
        "Smith was born in 1961 and Jones in 1965, so Smith is 4 years older.",
    ),
    (
        "It was made for $1,500,000.",
        "It was made for $1.5 million.",
    ),
    (
        "Barack Hussein Obama II was the 44th president of the United States.",
        "Obama led the USA.",
    ),
    (
        "The Beatles were an English rock band formed in Liverpool.",
        "The Beatles were formed in Liverpool, England.",
    ),
    (
        "Robyn Rihanna Fenty is a Barbadian singer.",
        "Rihanna is from Barbados.",
    ),
    (
        "Nosferatu was directed by Friedrich Wilhelm Murnau.",
        "Nosferatu was directed by F. W. Murnau.",
    ),
    (
        "He fought in World War II.",
        "He fought in the Second World War.",
    ),
    (
        "The office is in New York City.",
        "The office is in NYC.",
    ),
    (
        "It was aired by the British Broadcasting Corporation.",
        "It was aired by the BBC.",
    ),
    (
        "The castle was built in the 19th century.",
        "The castle was built in the 1800s.",
    ),
    (
        "There are twenty episodes.",
        "The series has 20 episodes.",
    ),
    (
        "It opens at 7:30 p.m.",
        "It opens at 7:30 PM.",
    ),
    (
        "The siege lasted from September to December 1941.",
        "The siege began in Sept. 1941.",
    ),
    (
        "Smith directed it.",
        "The film was directed by Smith. Therefore, Smith is the Director. So the answer is: Smith.",
    ),
    (
        "Smith directed it.",
        "Based on Document [1], Smith directed it.",
    ),
    (
        "It was a Spanish and Portuguese production.",
        "The producers were Spaniards.",
    ),
    (
        "It ran 1990–1995.",
        "It ran for 5 years, from 1990 to 1995.",
    ),
    (
        "He was king Louis XIV.",
        "He was Louis the 14th.",
    ),
]
"""(source, what is true of it in other words)"""


def test_true_sentences_in_other_words_are_grounded() -> None:
    faulted = [said for source, said in TRUE_SENTENCES if missing(said, source)]
    assert faulted == []


FREE_WORDING = [
    # (source, what is said of it in free wording, what is not found, whether for certain)
    # Titles, and words that are no names
    ("Vedder wrote it.", "It is by Mr. Vedder.", [], False),
    ("Marie Curie got it.", "It went to Mrs Curie and to Dr. Curie.", [], False),
    ("Sammy Davis Jr. sang.", "It was Sammy Davis Junior.", [], False),
    ("Johann Strauss II led.", "It was Johann Strauss Jr.", [], False),
    ("Johann Strauss II led.", "It was Johann Strauss the Younger.", [], False),
    ("Both are older.", "So the answer is Yes.", [], False),
    ("Both are older.", "They are NOT younger, so the answer is No.", [], False),
    ("It is a television film.", "According to the Passage, it is a TV film.", [], False),
    # Abbreviations, both ways
    ("It ended in Sept. 1941.", "It ended in September 1941.", [], False),
    ("It ended in September.", "It ended in Sep. and not sooner.", [], False),
    ("Ford Motor Company", "It is Ford Motor Co.", [], False),
    ("He led Acme Inc. and Zork Ltd.", "He led Acme Incorporated and Zork Limited.", [], False),
    ("It lies in St. Louis.", "It lies in Saint Louis.", [], False),
    ("It lies in Saint Louis.", "It lies in St. Louis.", [], False),
    ("From Mount Kek to Fort Bibro.", "From Mt. Kek to Ft. Bibro.", [], False),
    ("It is in Columbus, Ohio.", "It is in Columbus, OH.", [], False),
    ("It is in Columbus, OH.", "It is in Columbus in Ohio.", [], False),
    ("It is in North Carolina.", "It is in N. Carolina, that is, in NC.", [], False),
    # Spelling
    ("It is by Müller.", "It is by Mueller.", [], False),
    ("It was Goering.", "It was Göring.", [], False),
    ("Choi Jin-ri sang.", "It was Choi Jinri.", [], False),
    ("Choi Jinri sang.", "It was Choi Jin-ri.", [], False),
    ("He lived in Hawaii.", "He lived in Hawai'i.", [], False),
    ("He lived in Hawai\u02bbi.", "He lived in Hawaii.", [], False),
    ("O\u02bcBrien won.", "It was O'Brien.", [], False),
    ("He is in defense.", "He is in the Ministry of Defence.", ["Ministry", "Defence"], True),
    ("Ministry of Defense", "the Ministry of Defence", ["Defence"], False),
    ("the Theater Royal", "the Theatre Royal", ["Theatre Royal"], False),
    ("Al-Qaeda did it.", "It was al-Qaida.", ["Qaida"], False),
    ("It was Weizman.", "It was Weizmann.", ["Weizmann"], False),
    # Other forms of a name
    ("He is a British man.", "He is a Brit.", ["Brit"], False),
    ("It is an Anglican place.", "They are Anglicans.", ["Anglicans"], False),
    ("He lived in Paris.", "He was a Parisian.", ["Parisian"], False),
    ("She is from Texas.", "She is a Texan.", ["Texan"], False),
    ("He is a Buddhist.", "He followed Buddhism.", ["Buddhism"], False),
    ("Freud wrote it.", "It is Freudian.", ["Freudian"], False),
    ("An English-American film.", "It is an Anglo-American film.", ["Anglo American"], False),
    # Of which kind something is, initials, words with digits
    ("From Seattle in Washington.", "It is from Washington State.", ["Washington State"], False),
    ("The Bubye flows.", "It crosses the Bubye River.", ["Bubye River"], False),
    ("He was a prisoner of war.", "He was a POW.", ["POW"], False),
    ("the chief executive officer", "She is the CEO.", ["CEO"], False),
    ("the first season", "It is S01E03.", ["S01E03"], False),
    # What the source does not have
    ("He lived in Paris.", "He lived in London.", ["London"], True),
    ("He was washing.", "He lived in Washington.", ["Washington"], True),
    ("It is a christian name.", "It was Christina.", ["Christina"], True),
    ("a central station", "It is in Centralia.", ["Centralia"], True),
    ("It is in Oregon.", "It is in TX.", ["TX"], True),
    ("He met Ann.", "He met Ana.", ["Ana"], True),
    ("It was John.", "It was Johnson.", ["Johnson"], True),
    ("It costs, oh, much.", "It is in Ohio.", ["Ohio"], True),
    ("on the market", "It is in Mar.", ["Mar"], True),
]


@pytest.mark.parametrize(("source", "said", "unknown", "certain"), FREE_WORDING)
def test_free_wording(source: str, said: str, unknown: list[str], certain: bool) -> None:
    found = faults(said, source)
    assert [one.text for one in found] == unknown
    assert any(one.certain for one in found) is certain


NAMES_AND_NUMBERS = (
    re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)+"),
    re.compile(r"\b\d{2,4}\b"),
)


def inventions() -> Iterator[tuple[Chain, str]]:
    """Chains of one step, a supporting sentence of HotpotQA with one name or number (which is given too)
    replaced by one of another question's passages; names and numbers in turn."""
    questions = real_questions()
    chance = random.Random(0)
    for number in itertools.count():
        question, other = questions[number % 40], questions[(number + 7) % 40]
        context = dict(question["context"])
        facts = [(title, n) for title, n in question["supporting_facts"] if n < len(context[title])]
        title, place = chance.choice(facts)
        sentence = context[title][place].strip()
        pattern = NAMES_AND_NUMBERS[number % 2]
        strange = pattern.findall(
            " ".join(itertools.chain.from_iterable(s for _, s in other["context"]))
        )
        if not strange or not (known := list(pattern.finditer(sentence))):
            continue
        match, new = chance.choice(known), chance.choice(sorted(set(strange)))
        passages = tuple(
            Passage(str(n), name, "".join(text))
            for n, (name, text) in enumerate(question["context"])
        )
        said = f"{sentence[: match.start()]}{new}{sentence[match.end() :]}"
        steps = (step(said, *(passage.id for passage in passages)),)
        told = {"question": question["question"], "passages": passages, "steps": steps}
        yield replace(CHAIN, **told), new


def test_inventions_in_real_sentences_are_found() -> None:
    """58 of 60 were found before other wordings were known; lost is the United States, for an American is
    in the passages. A name is certain, a number never."""
    faults = [(ungrounded(told), new) for told, new in itertools.islice(inventions(), 60)]
    assert sum(bool(found) for found, _ in faults) == 57
    certain = [any(one.certain for one in found) for found, new in faults if not new.isdecimal()]
    assert (sum(certain), len(certain)) == (30, 31)
    assert not any(one.certain for found, new in faults for one in found if new.isdecimal())
