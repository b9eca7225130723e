"""Preview of prompts: the exact prompt of each step of a question, with its tokens.

The real loop runs on a real index and with the model's tokenizer; only the rationales are given, one a
step. So the prompts shown are those that an engine would get, forced answers included.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.reasoning.encoder import CountsTokens, PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.loop import Trajectory, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.protocol import Retriever
from steper_ray.schema import Step, is_forced

WIDTH: Final = 100


class DictatedEngine(CountsTokens):
    """An engine that writes the texts it is given, then nothing, and keeps what it was asked."""

    def __init__(self, encoder: PromptEncoder, texts: Sequence[str]) -> None:
        self._encoder, self._texts = encoder, list(texts)
        self.asked: list[tuple[Prompt, Sequence[str]]] = []
        """Each prompt, and the texts that end what is written after it."""

    @property
    def unused(self) -> int:
        """Texts that were never asked for."""
        return len(self._texts)

    async def generate(
        self,
        prompt: Prompt,
        *,
        stop: Sequence[str],
        max_tokens: int,  # noqa: ARG002
        sampling: Sampling = GREEDY,  # noqa: ARG002
    ) -> Generation:
        """The next text, cut where a model's would be; nothing where it should go on with one."""
        if prompt.continued:
            return Generation("", self.count_tokens(prompt), 0)
        self.asked.append((prompt, stop))
        text = self._texts.pop(0) if self._texts else ""
        text = text[: min(f"{text}{ending}".find(ending) for ending in stop)]
        return Generation(
            text, self.count_tokens(prompt), len(self._encoder.encode_target(prompt, text))
        )


def preview(
    question: str,
    rationales: Sequence[str],
    encoder: PromptEncoder,
    retriever: Retriever,
    settings: ReasoningConfig,
) -> Iterator[str]:
    """Lines to print for one question: a prompt for each assumed rationale, and the one after them.

    settings: complete, as the model is asked
    """
    engine = DictatedEngine(encoder, rationales)
    reasoned = asyncio.run(reason(question, engine=engine, retriever=retriever, config=settings))
    before: list[int] = []
    # Where the texts ran out before an answer, the loop went on with empty ones.
    steps = reasoned.steps[: len(rationales) + 1]
    for number, (step, (prompt, stops)) in enumerate(zip(steps, engine.asked, strict=False), 1):
        ids = encoder.encode(prompt)
        yield ""
        yield _rule(f"step {number} of at most {settings.max_steps}: {_search_line(step)}")
        yield encoder.text(prompt)
        endings = " or ".join(repr(ending) for ending in stops)
        same = _common_tokens(before, ids)
        yield _rule(
            f"{len(ids):,} tokens of {settings.max_prompt_tokens:,}"
            + (f", the first {same:,} as in step {number - 1}" if before else "")
            + _dropped_line(step)
        )
        yield f"   goes on until {endings}, {settings.max_step_tokens} tokens at most"
        if number <= len(rationales):
            yield f"   assumed: {step.rationale!r}"
        before = ids
    yield ""
    yield from _end(reasoned, len(steps), engine.unused)


def _end(reasoned: Trajectory, shown: int, unused: int) -> Iterator[str]:
    """How the chain ends, or how to see more of it."""
    if shown < len(reasoned.steps):
        yield f"to see step {shown + 1}, say what step {shown} writes: --rationale '…' once more"
    elif not is_forced(reasoned.stop_reason):
        yield f"step {shown} answers {reasoned.answer!r}, so there is no further one"
    else:
        yield f"step {shown} is the last: its answer is forced ({reasoned.stop_reason})"
    if unused:
        yield f"{unused} --rationale not used"


def _search_line(step: Step) -> str:
    if not step.query:
        return "no search"
    count = len(step.passage_ids)
    return f"{count} new passage{'' if count == 1 else 's'} for {step.query!r}"


def _dropped_line(step: Step) -> str:
    if not step.dropped_passages:
        return ""
    many = step.dropped_passages > 1
    return f"; the {step.dropped_passages} oldest passage{'s' if many else ''} left out"


def _common_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens at the start that two prompts share."""
    same = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same += 1
    return same


def _rule(text: str) -> str:
    return f"── {text} ".ljust(WIDTH, "─").rstrip()
