"""Whether a step says only what it could know: its names and numbers, looked up in what it saw.

A rationale is *grounded* when each name and each number in it occurs in a passage that stood in the step's
prompt, in an earlier rationale, or in the question. No model is asked; the rule is made for languages that
write names, and little else, with capital letters:

* A *name* is a sequence of words with a capital letter, with nothing between them but spaces, hyphens,
  apostrophes and the full stops of initials. It occurs where the same words follow one another, whatever
  their case, accents and punctuation. Up to two other capitalised words may stand between two of them
  (Barack Obama, Barack Hussein Obama), and three or more words may be found in two pieces (President
  Barack Obama). Single letters are no names.
* The first word of a sentence is capitalised anyway, so it belongs to a name only where the same word is
  seen capitalised away from a sentence's start, and never in lower case.
* A name may be written in another way: a country for its people (France, French), initials for names
  (F. W. Murnau, BBC), a number of it as numeral (Louis the 14th), an abbreviation (Sept, Inc, St, OH), an
  umlaut as two letters, two parts as one word (Jin-ri, Jinri), a common noun with a capital letter (the
  Director). Titles (Mr, Junior) may be left out.
* A *number* is written in digits, with its thousands separated or not; `19th` and `1990s` contain 19 and
  1990. The source may have it in words, as a Roman numeral, as a century, with a scale (1.5 million), or
  as the years between one that the step names and one that it saw.
* What points to a step or a passage by its number (Step 2, Document [1]) is left out.

So an invented name and two halves of different names are found out; a wrong relation between names that
were both seen is not, and neither is a name of one word at the start of a sentence.

A fault is *certain* where a word of a name occurs nowhere, and no name of the source is like it: one edit
away (Defence, Defense), another form of it (Brit, British). What says of which kind a name is (Washington
State), initials of words in small letters (POW) and words with a digit are not certain either, and what
else is not found may be worded or reckoned in a way that is not known here.

Of 136 supporting sentences and answers of HotpotQA none is faulted over the passages of their own question,
and 93 of 96 sentences over those of another; of 19 true sentences in other words none; of 60 sentences with
a name or number of another question's passages in place of their own, 57, of which 30 for certain
(`tests/selection/test_grounding.py`). Of 64 true sentences that a tester wrote freely over the passages of
HotpotQA and MuSiQue, three are faulted for certain (16 before other forms of names were known), each for
what its passages do not have.

Cost: a few milliseconds a chain of five steps and twenty passages; it grows with the length of the texts,
however often they repeat a name.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from steper_ray.schema import Chain, Passage, Step
from steper_ray.selection.lookup import ENDS, WORD, Source, Text
from steper_ray.selection.readings import NUMBER, readings
from steper_ray.selection.wordings import BEFORE_NAMES, NO_NAMES, TITLES

_JOINS: Final = re.compile(r"\s+|['’.-]\s*|\s?&\s?")
"""What may stand between two words of one name; a full stop after an initial or `Mr` only."""


_REFERENCES: Final = re.compile(
    r"\b(?:step|fact|passage|document|doc|source|text|context)s?\s*[\[(#]*\d+[\])]*|\[\d+(?:\s*,\s*\d+)*\]",
    re.IGNORECASE,
)
"""What points to a step or passage by its number."""


_SPAN: Final = re.compile(
    r"(?:\bag(?:ed|e of)\s+)(\d{1,3})\b|\b(\d{1,3})[\s-]years?\b", re.IGNORECASE
)
"""A number of years, which a reader counts from two years."""


@dataclass(frozen=True, slots=True)
class Ungrounded:
    """A name or number that a step could not know."""

    step: int
    """From 1 on."""
    text: str
    """As written."""
    certain: bool
    """Whether it is a name with a word of which the step saw nothing; others may be worded or reckoned."""


class Grounding:
    """What the steps of a chain can know, which grows from step to step."""

    def __init__(self, question: str) -> None:
        self._question = Text(question)
        self._said: list[Text] = []
        self._shown: list[Text] = []

    def check(self, step: Step, found: Sequence[Passage]) -> list[tuple[str, bool]]:
        """Each name and number of the next step that it could not know, and whether that is certain.

        found: the passages that its search added
        """
        # Two texts a passage. The comma: a title is a name, so its first word starts no sentence.
        self._shown += [Text(text) for p in found for text in (f", {p.title}", p.text)]
        prompt = self._shown[2 * step.dropped_passages :]
        rationale = Text(_REFERENCES.sub(" ", step.rationale))
        unknown = list(_unknown(rationale, Source([*prompt, self._question, *self._said])))
        self._said.append(rationale)
        return unknown

    def unknown_names(self) -> list[str]:
        """Names of the question of which no passage so far has anything.

        So the corpus may not know what was asked about, and an answer be about something else. Of 40
        questions of HotpotQA one has such a name over its own passages, a misspelt one, and 39 have one
        over the passages of another question.
        """
        unknown = _unknown(self._question, Source(self._shown))
        return list(dict.fromkeys(name for name, certain in unknown if certain))


def ungrounded(chain: Chain) -> list[Ungrounded]:
    """Each name and number that a step could not know, in their order."""
    grounding, passages = Grounding(chain.question), iter(chain.passages)
    return [
        Ungrounded(number, *unknown)
        for number, step in enumerate(chain.steps, 1)
        for unknown in grounding.check(step, list(islice(passages, len(step.passage_ids))))
    ]


def news(text: str, known: Sequence[str]) -> list[str]:
    """Names and numbers of a text that none of the others has, in their order."""
    source = Source([Text(one) for one in known])
    return [name for name, _ in _unknown(Text(_REFERENCES.sub(" ", text)), source)]


def _unknown(rationale: Text, source: Source) -> Iterator[tuple[str, bool]]:
    """Names and numbers of a rationale that the source does not have, and whether that is certain."""
    for words, starts_sentence in names(source.rejoined(rationale.folded)):
        if source.has_name(words):
            continue
        start = int(starts_sentence and not source.has_as_name(words[0]))
        rest = [word for word in words[start:] if word.lower() not in TITLES]
        said = [word for word in rest if len(word) > 1 and word.lower() not in NO_NAMES]
        if said and (rest == words or not source.has_name(rest)):
            yield (
                " ".join(rest),
                any(not source.has_name([w]) and not source.may_have(w) for w in said),
            )
    spans = {match.start(match.lastindex or 0) for match in _SPAN.finditer(rationale.folded)}
    for match in NUMBER.finditer(rationale.folded):
        if source.has_number(readings(rationale.folded, match)):
            continue
        if match.start() not in spans or not source.has_span(int(match[0]), rationale.years):
            yield match[0], False


def _goes_on(word: str) -> bool:
    """Whether a name goes on behind a word with a full stop: an initial or `Mr`."""
    return (len(word) == 1 and word != "I") or word.lower() in BEFORE_NAMES


def names(text: str) -> Iterator[tuple[list[str], bool]]:
    """(words, whether they start a sentence) of each sequence of capitalised words in a folded text."""
    words: list[str] = []
    starts, end = True, 0
    for match in WORD.finditer(text):
        word, gap = match[0], text[end : match.start()]
        goes_on = bool(words) and gap.startswith(".") and _goes_on(words[-1])
        ends_sentence = not end or (ENDS.search(gap) is not None and not goes_on)
        capital = word != word.lower() and not word[0].isdigit()
        if words and (ends_sentence or not capital or not _JOINS.fullmatch(gap)):
            yield words, starts
            words = []
        if capital:
            if not words:
                starts = ends_sentence
            words.append(word)
        end = match.end()
    if words:
        yield words, starts
