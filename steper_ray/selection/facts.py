"""Whether a chain states anything on its way to the answer, or only plans and repeats the question.

A step states something if it has a number, a name or a content word that the question does not have. A
content word is one that a passage has which the step saw, and that is not about the task itself (`identify
the relevant information`); so no grammar is needed, in any language. A name is a word with a capital letter
away from a sentence's start. Scripts without spaces are compared by pairs of characters, of which at least
one is no hiragana, since that alone writes grammar.

The rule is lenient: a plan that borrows a word from a passage passes. Where words are asked for and not
stated (Self-Ask, ReAct), the first step has nothing to state yet and is not asked. No model is asked; the
cost is some milliseconds a chain.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from steper_ray.reasoning.frameworks.protocol import ParsedStep
from steper_ray.schema import Chain
from steper_ray.selection.grounding import names
from steper_ray.selection.lookup import Text

_UNSPACED: Final = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese and Japanese
    "\uac00-\ud7a3"  # Korean, whose words carry their particles
)


_TOKENS: Final = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")


_GRAMMAR: Final = re.compile(r"[\u3041-\u309f]+")


_ABOUT_THE_TASK: Final = """
    a an the this that these those it its he his him she her they them their i me my we us our you your
    who whom whose which what when where why how there here
    is are was were be been being am do does did done has have had having can could will would shall should
    may might must need needs needed want let get
    and or but nor not no yes so if then than thus hence therefore because since as while also both either
    of in on at by to from with without for about into onto over under between after before during through
    up down out off
    all any each every some other another same more most first second next last final finally now only very
    identify find look search seek determine check read know see consider review examine analyze compare use
    using used gather locate figure establish start begin step steps
    question questions answer answers asked asks asking passage passages text texts context document
    documents information info detail details fact facts source sources data evidence knowledge
    relevant related specific following given provided based according mentioned stated key main known
"""
"""Words that state nothing: grammar, and those that plans are made of."""


_NO_CONTENT: Final = frozenset(_ABOUT_THE_TASK.split())


def states_nothing(chain: Chain, before: Sequence[ParsedStep]) -> bool:
    """Whether no step before the last says anything that is not in the question.

    before: these steps as the framework reads them
    """
    asks = bool(before) and before[0].query != before[0].rationale
    judged = range(1 if asks else 0, len(before))
    if not judged:
        return False
    known = words(chain.question)
    seen: set[str] = set()
    passages = iter(chain.passages)
    for number, step in enumerate(chain.steps[:-1]):
        for _, passage in zip(step.passage_ids, passages, strict=False):
            seen |= words(passage.title) | words(passage.text)
        if number in judged and _states(step.rationale, known, seen):
            return False
    return True


def _states(rationale: str, known: frozenset[str], seen: set[str]) -> bool:
    """Whether a rationale has a number, a name or a content word that is not known.

    seen: words of the passages; without any, every word but those about the task is a content word
    """
    new = words(rationale) - known - _NO_CONTENT
    if any(word.isdecimal() or not seen or word in seen for word in new):
        return True
    named = (word for group in _names(rationale) for word in group)
    return any(words(word) & new for word in named if len(word) > 1)


def _names(rationale: str) -> Iterator[Sequence[str]]:
    """The capitalised words of each name, without one that is capitalised as a sentence begins with it."""
    for group, starts_sentence in names(Text(rationale).folded):
        yield group[1:] if starts_sentence else group


@lru_cache(maxsize=4096)
def words(text: str) -> frozenset[str]:
    """The words of a text without accents and capitals; of scripts without spaces pairs of characters."""
    found: set[str] = set()
    for token in _TOKENS.findall(_plain(text).casefold()):
        if re.match(f"[{_UNSPACED}]", token) is None:
            found.add(token)
        else:
            pairs = (token[start : start + 2] for start in range(max(1, len(token) - 1)))
            found.update(pair for pair in pairs if not _GRAMMAR.fullmatch(pair))
    return frozenset(found)


def _plain(text: str) -> str:
    """The text without accents, vowel signs and other marks on letters."""
    if text.isascii():
        return text
    letters = (
        sign
        for sign in unicodedata.normalize("NFKD", text)
        if unicodedata.category(sign) not in ("Mn", "Mc")
    )
    return unicodedata.normalize("NFC", "".join(letters))
