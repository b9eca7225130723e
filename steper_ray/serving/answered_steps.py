"""The steps of an answer as the API shows them, each with what of it stands in nothing that it saw."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from steper_ray.reasoning.loop import StepFinished
from steper_ray.retrieval.protocol import Hit
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.grounding import Grounding
from steper_ray.serving.api.schema import PassageOut, StepOut

_WORD: Final = re.compile(r"[^\W_]+")


_BETWEEN: Final = r"[\W_]+"


_ACCENTS: Final = "[\u0300-\u036f]*"


class AnsweredSteps:
    """The steps of one answer so far.

    Looking names up takes some milliseconds a step, and longer with long passages: not for an event loop.
    """

    def __init__(self, question: str, scheme: AbilityScheme) -> None:
        """scheme: names the ability of each step"""
        self._grounding, self._scheme = Grounding(question), scheme
        self.steps: list[StepOut] = []
        self._unknown_names: list[str] = []

    def add(self, finished: StepFinished) -> StepOut:
        """The next step."""
        number, step = finished.number, finished.step
        unknown = self._grounding.check(step, [hit.passage for hit in finished.hits])
        if finished.last:
            self._unknown_names = self._grounding.unknown_names()
        self.steps.append(
            StepOut(
                step=number,
                ability=self._scheme.of(number, number if finished.last else number + 1),
                query=step.query,
                passages=list(map(passage_out, finished.hits)),
                rationale=step.rationale,
                unsupported=[
                    as_written(text, step.rationale)
                    for text in dict.fromkeys(text for text, _ in unknown)
                ],
                mean_logprob=step.mean_logprob,
                thought=step.thought,
                prompt_tokens=step.prompt_tokens,
                generated_tokens=step.generated_tokens,
                cached_tokens=step.cached_tokens,
                dropped_passages=step.dropped_passages,
                search_seconds=step.search_seconds,
                generate_seconds=step.generate_seconds,
                finish_reason=step.finish_reason,
            )
        )
        return self.steps[-1]

    def extend(self, finished: Iterable[StepFinished]) -> None:
        """Add several steps."""
        for step in finished:
            self.add(step)

    def unknown_names(self) -> list[str]:
        """Names of the question of which no passage has anything, once the last step is added."""
        return self._unknown_names


def as_written(name: str, text: str) -> str:
    """A name or number that was found in a text, with the accents and signs that it has there."""
    words = _BETWEEN.join(_with_accents(word) for word in _WORD.findall(name))
    match = re.search(rf"(?<!\w){words}(?!\w)", unicodedata.normalize("NFKD", text), re.IGNORECASE)
    return unicodedata.normalize("NFC", match[0]) if match else name


def _with_accents(word: str) -> str:
    return "".join(f"{letter}{_ACCENTS}" for letter in word)


def passage_out(hit: Hit) -> PassageOut:
    """A passage as the API shows it."""
    passage = hit.passage
    return PassageOut(id=passage.id, title=passage.title, text=passage.text, score=hit.score)
