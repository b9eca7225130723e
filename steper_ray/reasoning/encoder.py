"""Prompt → tokens: plain text, or the model's chat template with an unfinished turn.

Only the template's own control tokens are any (`steper_ray.reasoning.control_tokens`), and those around a
thought of the model's own. Everything between two of them is split in one run. Engine, count and training
share this code.
"""

import logging
from array import array
from datetime import date
from functools import lru_cache
from typing import Any, Final, Literal

from steper_ray.errors import InputError, RowError
from steper_ray.reasoning.chat_frame import PLAIN, learn_frame
from steper_ray.reasoning.control_tokens import MarkedTokenizer
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import TEMPLATE_DATE
from steper_ray.reasoning.thinking import THINK_END, THINK_START

logger = logging.getLogger(__name__)


REMEMBERED_PROMPTS: Final = 256
"""More than an engine takes at a time, so that a prompt that was counted is not encoded again."""


REMEMBERED_TEXTS: Final = 8192
"""Texts whose number of tokens is known: passages, which the steps of a chain and its neighbours share."""


class PromptEncoder:
    """Turns prompts into a model's tokens: plain text, or its chat template with an unfinished turn.

    Threads may share one.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat: Literal["auto", True, False] = "auto",
        template_date: date = TEMPLATE_DATE,
    ) -> None:
        """tokenizer: the model's, from transformers
        chat, template_date: see `ReasoningConfig`

        Raises InputError for `chat` without a template, and for a template or a tokenizer that cannot go on
        with what is written; warns of a first token that is missing.
        """
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat is True and not has_template:
            raise InputError(
                f"reasoning.chat: the tokenizer of {_name(tokenizer)} "
                "has no chat template; set it to auto or false"
            )
        self.chat = has_template if chat == "auto" else chat
        """Whether prompts are put into the chat template."""
        self._tokenizer = MarkedTokenizer(tokenizer)
        self._frame = learn_frame(tokenizer, template_date) if self.chat else None
        first = _first_tokens(tokenizer)
        self._first = [] if self.chat else first
        """Tokens before a plain text; a template brings its own."""
        self._remembered = lru_cache(REMEMBERED_PROMPTS)(self._encode)
        self.count_text = lru_cache(REMEMBERED_TEXTS)(self._count_text)
        self._check(tokenizer, first)

    def text(self, prompt: Prompt) -> str:
        """The text that the model reads, with the control tokens of its chat template."""
        if self._frame is None:
            return prompt.text
        return "".join(self._frame.parts(prompt)) + prompt.continued

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens that the model reads. A template brings its own first token, plain text gets it.

        Raises RowError for text that cannot be split into tokens.
        """
        return self._remembered(prompt).tolist()

    def count_tokens(self, prompt: Prompt) -> int:
        """How many tokens the model reads; raises what `encode` raises."""
        return len(self._remembered(prompt))

    def encode_target(self, prompt: Prompt, target: str) -> list[int]:
        """The tokens of what is written after a prompt, as a model would write them there.

        They are split in one run with the line that the prompt ends with, for some tokenizers put a space
        before every text. Where the first of them would join the prompt's last one, which is written
        already, another sign that it does not join stands for the prompt.
        """
        last_line = self.text(prompt).rpartition("\n")[2]
        for before in filter(None, (last_line, "\n", "0")):
            begun, whole = self._split(before), self._split(before + target)
            if whole[: len(begun)] == begun:
                return whole[len(begun) :]
        return self._split(target)

    def _encode(self, prompt: Prompt) -> "array[int]":
        return array("i", [*self._first, *self._tokenizer.encode(self._marked(prompt))])

    def _marked(self, prompt: Prompt) -> str:
        """The text that the model reads, with the control tokens of template and thought marked."""
        _check_unicode(prompt.text)
        tokenizer = self._tokenizer
        written = tokenizer.mark(prompt.continued, only=(THINK_START, THINK_END))
        if self._frame is None:
            return prompt.user + prompt.assistant + written
        before, user, between, assistant = self._frame.parts(prompt)
        return tokenizer.mark(before) + user + tokenizer.mark(between) + assistant + written

    def _count_text(self, text: str) -> int:
        """How many tokens a text is split into by itself."""
        return len(self._split(text))

    def _split(self, text: str) -> list[int]:
        """The tokens of a text that is data."""
        _check_unicode(text)
        return self._tokenizer.encode(text)

    def _check(self, tokenizer: Any, first: list[int]) -> None:
        """Raises InputError if a plain prompt ends with an end token; warns of a missing first one."""
        ids = self.encode(PLAIN)
        if ids[-1] == tokenizer.eos_token_id:
            raise InputError(
                f"reasoning.chat: a prompt for {_name(tokenizer)} would end with {tokenizer.eos_token!r}, "
                "after which nothing is written; set it to false"
            )
        bos = tokenizer.bos_token_id
        if not first and bos is not None and getattr(tokenizer, "add_bos_token", False):
            first = [bos]
        if first and ids[0] != first[0]:
            logger.warning(
                "%s: prompts do not begin with %s, which this tokenizer is set to put first; %s",
                _name(tokenizer),
                tokenizer.convert_ids_to_tokens(first[0]),
                "its chat template leaves it out"
                if self.chat
                else "its post-processor leaves it out",
            )


class CountsTokens:
    """The counts of an `Engine` that has its prompts encoded here."""

    _encoder: PromptEncoder

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt as the model reads it."""
        return self._encoder.count_tokens(prompt)

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself."""
        return self._encoder.count_text(text)


def _first_tokens(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before a plain text; what it puts behind one ends no prompt."""
    whole, text = (
        list(tokenizer(PLAIN.text, add_special_tokens=special)["input_ids"])
        for special in (True, False)
    )
    for start in range(len(whole) - len(text) + 1):
        if whole[start : start + len(text)] == text:
            return whole[:start]
    raise InputError(
        f"{_name(tokenizer)}: its tokenizer splits a text otherwise where it puts a first token before it; "
        "give the model a tokenizer that does not"
    )


def _check_unicode(text: str) -> None:
    """Raises RowError for text with half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(0, error.start - 20) : error.start]
        raise RowError(f"half a sign behind {before!r}: this text has no tokens") from None


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the model"
