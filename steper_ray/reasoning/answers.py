"""Answers in what a model wrote: the flag that says one, in every wording, and the answer behind it.

One reader for all frameworks. A flag is `so the answer is`, with or without the connector, `final` and the
colon; `Answer:` at the beginning of a sentence; LaTeX's box; and what chat models write in its place where
the question is in another language. Of several flags the last one with an answer counts, and equal ones
are one. The answer ends with its sentence; courtesy, an explanation in brackets, quotes and the full stop
are not part of it, but the full stop of `Washington, D.C.` is. Cost: linear in the length of the text.
"""

import re
from typing import Final, NamedTuple

from steper_ray.reasoning.cleaning import unquoted
from steper_ray.sentences import end_sign, finished, sentences


class Flagged(NamedTuple):
    """A text that may give an answer."""

    before: str
    """What stands before the flag; the whole text where there is none."""
    answer: str
    """The answer; empty where there is none."""


_CONNECTOR: Final = (
    r"(?:(?:and|but)\s)?\b(?:so|therefore|thus|hence|consequently|in\sconclusion)\s?[,，:：]?\s?"
)


_SUBJECT: Final = (
    r"(?:the\s|my\s)?(?:final\s|correct\s|short\s)?(?<!intermediate\s)\banswer"
    r"(?:\sto\s(?:the|this)\squestion)?"
)


_SO: Final = r"(?:\s(?-i:therefore|thus|hence|then)\b,?)?"
"""A connector behind the verb, but not in Thus Spoke Zarathustra."""


_START: Final = r"(?:^|(?<=[.!?:;]\s)|(?<=[。！？]))"
"""The beginning of a line or a sentence."""


_NO_ANSWER: Final = (
    r"(?!\s(?:not|still|un(?:clear|known|certain)"
    r"|in\sthe\s(?:passages?|texts?|context|documents?))\b)"
)
"""`The answer is not in the passages.` gives none; behind a colon anything is an answer."""


_LABEL: Final = (
    "antwort|réponse|respuesta|resposta|risposta|ответ|câu trả lời|정답|답변|답|答案|答え|回答|正解|答"
    "|उत्तर|คำตอบ|الإجابة|الجواب"
)
"""`Answer` in other languages."""


_INTERMEDIATE: Final = r"[^:：\n]{0,20}(?:interm[eé]d|zwischen|中间|中間|중간)"


_ELSEWHERE: Final = (
    rf"{_START}(?!{_INTERMEDIATE})(?:[^\s:：]{{1,20}}\s){{0,2}}(?:최종|最終的な|ดังนั้น)?(?:{_LABEL})(?:คือ|\s[^\s:：]{{1,9}})?\s?[:：]",
    r"(?:所以|因此|因而|故)?[,，]?\s?(?:最终|最終|正确|正確)?的?(?<!中间)(?<!中間)答案(?:(?:应该是|應該是|是|为|為)\s?[:：]?|\s?[:：])",
    r"(?:したがって|従って|よって)?[、,]?\s?(?:最終的な)?(?:答え|正解)は\s?[:：、]?",
    r"(?:따라서|그러므로|그래서)?\s?,?\s?(?<![가-힣])(?:최종\s?)?(?:정답|답)은\s?(?:다음과\s같습니다\s?)?[:：]?",
    r"(?:also|daher|deshalb|somit)\s(?:ist|lautet)\sdie\s(?:\w+\s)?antwort\b\s?[:：]?",
    r"\bdie\s(?:\w+\s)?antwort\s(?:ist|lautet)\s?[:：]",
    r"(?:donc|ainsi)\s?,?\sla\sréponse(?:\sfinale)?\sest\b\s?[:：]?",
    r"\bla\sréponse(?:\sfinale)?\sest\s?[:：]",
    r"(?:entonces|así\sque|por\s(?:lo\s)?tanto)\s?,?\sla\srespuesta(?:\sfinal)?\ses\b\s?[:：]?",
    r"\bla\srespuesta(?:\sfinal)?\ses\s?[:：]",
)
"""The flag in other languages; where a colon is asked for, the words alone are too common."""


_FLAG: Final = re.compile(
    "|".join(
        (
            rf"{_CONNECTOR}{_SUBJECT}\s(?:is|was|(?:would|should|must)\sbe)\b{_SO}(?:\s?[:：]|{_NO_ANSWER})",
            rf"\b{_SUBJECT}\sis{_SO}\s?[:：]",
            rf"{_START}{_SUBJECT}(?:(?:,\s(?:therefore|thus|hence),)?\sis\b{_SO}{_NO_ANSWER}|\s?[:：])",
            *_ELSEWHERE,
            r"(?:\$\$?|\\[(\[])?\s?(?P<box>\\boxed)\s?\{",
            r"(?P<tag><answer>)",
            r'[{,]\s?"(?:final[_\s]?)?answer"\s?:\s?(?P<quoted>")(?=[^"]*")',
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)


_HEADING: Final = re.compile(rf"^(?:final\s)?(?:answer|{_LABEL})$", re.IGNORECASE | re.MULTILINE)


_COURTESY: Final = re.compile(
    r"(?<=[.!?。！？…])\s?(?:let me know|i hope|i trust|hope th|please|feel free|if you (?:have|need|would)"
    r"|is there any|do you (?:have|need)|thank you|thanks|explanation|note)\b",
    re.IGNORECASE,
)


_LATEX: Final = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it))\s?\{([^{}]*)\}")


_FULL_STOPS: Final = ".…。．｡।۔"


_COPULAS: Final = ("です", "である", "입니다", "예요")
"""`is`, where it stands behind the answer."""


_ORDINAL: Final = re.compile(r"\d{1,2}\.(?: (?![a-z])\w+){1,3}\.?")
"""1. FC Köln, 3. Oktober 1990: one sentence."""


_DOTTED: Final = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
"""D.C., U.S., a.m., Ph.D., without the last full stop."""


_ABBREVIATED_ENDS: Final = ("inc", "ltd", "corp", "bros", "jr", "sr")
"""Words with a full stop of their own at the end of names."""


_BRACKETS: Final = {"(": ")", "[": "]", "<": ">", "（": "）", "【": "】", "$": "$"}


_OPENING: Final = {")": "(", "）": "（", "]": "["}


_EXPLAINS: Final = re.compile(
    r"(?:from )?(?:passage|step|fact|source|text|document)s?\b|(?:see|born|died|i\.e\.)\s|.*\d{3,4}\s?[-–]",
    re.IGNORECASE,
)
"""Where an answer was found, and when a person lived."""


_CITATIONS: Final = re.compile(r"(?:\s?(?:\[[1-9]\d?(?:, ?[1-9]\d?)*\]|【\d{1,2}[^】]{0,20}】))+$")
"""Numbers of passages behind an answer: [1], [1, 2], 【1†source】."""


_EMOJI: Final = re.compile(r"\s[\U0001f300-\U0001faff✅✔✨❤⭐\ufe0f]+$")


_NOTHING: Final = re.compile(r"[\s*_`~.:;,!?(){}\[\]\"'-]*")


_MAX_LAYERS: Final = 8
"""Quotes and brackets around each other are taken off so often."""


_HINT: Final = re.compile(rf"answer|boxed|{_LABEL}", re.IGNORECASE)
"""What every flag has; looked for first, as most lines have none."""


def split_answer(text: str, *, endings: str = "") -> Flagged:
    """A cleaned text, cut where it says its answer; a flag without an answer is dropped.

    endings: signs that no answer ends with, besides full stops
    """
    flags = list(_FLAG.finditer(text)) if _HINT.search(text) else []
    if not flags:
        return Flagged(text, "")
    ends = [*(flag.start() for flag in flags[1:]), len(text)]
    said = []
    for flag, end in zip(flags, ends, strict=True):
        said.append((flag, read_answer(_inside(flag, text[flag.end() : end]), endings)))
    while len(said) > 1 and not said[-1][1]:
        said.pop()
    flag, answer = said.pop()
    while said and said[-1][1].casefold() in ("", answer.casefold()):
        flag, _ = said.pop()
    before = text[: flag.start()].rstrip(" \n,;:-–—，；：、")
    return Flagged(finished(before) if any(map(str.isalnum, before)) else "", answer)


def with_colons(text: str) -> str:
    """A cleaned text in which `Answer` on a line of its own, a heading, has the colon of a flag."""
    return _HEADING.sub(r"\g<0>:", text)


def ends_in_flag(line: str) -> bool:
    """Whether a cleaned line ends with a flag, so that the answer should follow."""
    return any(flag.end() == len(line) for flag in _FLAG.finditer(line))


def read_answer(text: str, endings: str = "") -> str:
    """The answer at the beginning of a text, up to the end of its sentence; empty if there is none."""
    text = text.lstrip(" :：\n").partition("\n")[0].removeprefix("- ")
    courtesy = _COURTESY.search(text)
    text = text[: courtesy.start()].rstrip("!！") if courtesy else text
    for _, end in () if _ORDINAL.fullmatch(text) else sentences(text):
        if end_sign(text[:end]) in tuple(_FULL_STOPS):  # not in Mamma Mia! Here We Go Again
            text = text[:end]
            break
    return bare_answer(text, endings)


def bare_answer(text: str, endings: str = "") -> str:
    """An answer without what surrounds it, and without a full stop that is not its own."""
    text = _LATEX.sub(r"\1", text)
    for _ in range(_MAX_LAYERS):
        bare = _EMOJI.sub("", text.strip(" :：").rstrip(f"{_FULL_STOPS}{endings} "))
        bare = _unexplained(_CITATIONS.sub("", bare) or bare)
        bare = unquoted(unquoted(bare), _BRACKETS)
        for copula in _COPULAS:
            bare = bare.removesuffix(copula)
        if bare == text:
            break
        text = bare
    if _NOTHING.fullmatch(text):
        return ""
    return f"{text}." if _has_own_full_stop(text) else text


def flagged(flag: str, answer: str) -> str:
    """A flag with its answer, as it stands in rationales."""
    return f"{flag} {finished(answer)}"


def _inside(flag: re.Match[str], text: str) -> str:
    """Of the text behind a flag what stands before the sign that closes its answer."""
    if flag["quoted"] or flag["tag"]:
        return text.partition('"' if flag["quoted"] else "</answer>")[0]
    if not flag["box"]:
        return text
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[:place]
    return text


def _unexplained(answer: str) -> str:
    """The answer without an explanation in brackets behind it; brackets that belong to a name stay.

    An explanation begins with a small letter and has three words, or more than three characters of a
    script without capitals; or it is one of _EXPLAINS.
    """
    opening = _OPENING.get(answer[-1:], "")
    start = answer.rfind(opening) if opening else 0
    before, inside = answer[: max(0, start)].strip(), answer[start + 1 : -1].strip()
    if not before:
        return answer
    first = inside[:1]
    if first.lower() == first.upper():
        explains = len(inside) > 3 and not first.isdigit()
    else:
        explains = first.islower() and inside.count(" ") >= 2
    return before if explains or _EXPLAINS.match(inside) else answer


def _has_own_full_stop(answer: str) -> bool:
    """Whether an answer without its full stop ends in an abbreviation that has one."""
    if _DOTTED.fullmatch(answer.rpartition(" ")[2]):
        return True
    before, _, last = answer.rpartition(" ")
    if before.endswith(".") and len(before.rpartition(" ")[2]) == 2:  # J. R. R.
        return len(last) == 1 and last.isupper()
    return before != "" and last.casefold() in _ABBREVIATED_ENDS
