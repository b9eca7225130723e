"""The prompt of a step: instruction, demonstrations, then what the framework lays out; and its tokens.

Teacher, training, evaluation and server all make their prompts with `make_prompt`, fit them with
`fit_prompt` and turn them into tokens with a `PromptEncoder`, so that what the student is trained on is,
token by token, what it is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from steper_ray.errors import InputError
from steper_ray.reasoning.demonstrations import render_head
from steper_ray.reasoning.framework import Prompt
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage

TEMPLATE_DATE: Final = "26 Jul 2024"
"""The date in templates that name one (Llama 3.2's would take today's, and tomorrow's prompts would be
others than those the student was trained on). It is the default of Llama 3.1's template."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits its context."""

    prompt: Prompt
    dropped_passages: int
    """How many of the oldest passages had to go."""
    tokens: int


def make_prompt(
    settings: ReasoningConfig,
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    hint: str = "",
) -> Prompt:
    """The prompt of step s; for searches, rationales and forced see `Framework`.

    hint: what stands before what the framework lays out (see `steper_ray.reasoning.hints`)
    """
    framework = framework_named(settings.framework)
    prompt = framework.lay_out(question, searches, rationales, forced=forced)
    return prompt.headed(*render_head(settings), *([hint] if hint else []))


def fit_prompt(
    settings: ReasoningConfig,
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    hint: str = "",
    count_tokens: Callable[[Prompt], int],
) -> FittedPrompt:
    """The prompt of step s in at most `max_prompt_tokens`, dropping whole passages, oldest first."""

    def make(left: Sequence[Sequence[Passage]]) -> Prompt:
        return make_prompt(settings, question, left, rationales, forced=forced, hint=hint)

    return drop_oldest(searches, make, settings.max_prompt_tokens, count_tokens)


def drop_oldest(
    searches: Sequence[Sequence[Passage]],
    make: Callable[[Sequence[Sequence[Passage]]], Prompt],
    most: int,
    count_tokens: Callable[[Prompt], int],
) -> FittedPrompt:
    """The prompt of as many passages, the newest ones, as fit into `most` tokens.

    Nothing else is ever cut. With no passage left the prompt is returned even if it is still too long; the
    engine then refuses it with its own error.
    """
    passages = sum(len(search) for search in searches)
    for dropped in range(passages + 1):
        prompt = make(_without_oldest(searches, dropped))
        tokens = count_tokens(prompt)
        if tokens <= most or dropped == passages:
            return FittedPrompt(prompt, dropped, tokens)
    raise AssertionError("unreachable: the loop returns at its last turn")


def split_searches(passages: Sequence[Passage], found: Sequence[int]) -> list[list[Passage]]:
    """P_1 … P_s from all of them in their order and how many each search brought.

    found: empty where all came with the first search
    """
    counts = list(found) or [len(passages)]
    assert sum(counts) == len(passages), "every passage belongs to one search"
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [
        list(passages[start : start + count]) for start, count in zip(starts, counts, strict=True)
    ]


class PromptEncoder:
    """Turns prompts into a model's tokens: plain text, or its chat template with an unfinished turn."""

    def __init__(self, tokenizer: Any, chat: Literal["auto", True, False] = "auto") -> None:
        """tokenizer: the model's, from transformers. Raises InputError for `chat` without a template."""
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat is True and not has_template:
            raise InputError(
                f"reasoning.chat: the tokenizer of {getattr(tokenizer, 'name_or_path', '') or 'the model'} "
                "has no chat template; set it to auto or false"
            )
        self.chat = has_template if chat == "auto" else chat
        """Whether prompts are put into the chat template."""
        self._tokenizer = tokenizer
        self._last: tuple[Prompt, list[int]] | None = None

    def text(self, prompt: Prompt) -> str:
        """The text that the model reads, with the special tokens of its chat template.

        Raises InputError if the template cannot leave the assistant's turn unfinished.
        """
        if not self.chat:
            return prompt.text
        turns = [
            {"role": "user", "content": prompt.user.strip("\n")},
            {"role": "assistant", "content": prompt.assistant},
        ]
        try:
            opened: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, continue_final_message=True, date_string=TEMPLATE_DATE
            )
        except ValueError as error:
            raise InputError(
                "reasoning.chat: the chat template cannot go on with an assistant's turn "
                f"({str(error).splitlines()[0]}); set it to false"
            ) from None
        return opened + prompt.continued

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens that the model reads. A template brings its own first token, plain text gets it."""
        if self._last is None or self._last[0] != prompt:
            ids = self._tokenizer(self.text(prompt), add_special_tokens=not self.chat)["input_ids"]
            self._last = (prompt, list(ids))
        return self._last[1]

    def count_tokens(self, prompt: Prompt) -> int:
        """How many tokens the model reads."""
        return len(self.encode(prompt))

    def encode_target(self, target: str) -> list[int]:
        """The tokens of what is written after a prompt."""
        ids: list[int] = self._tokenizer(target, add_special_tokens=False)["input_ids"]
        return ids


def _without_oldest(
    searches: Sequence[Sequence[Passage]], dropped: int
) -> Sequence[Sequence[Passage]]:
    if not dropped:
        return searches
    left = []
    for search in searches:
        left.append(search[dropped:])
        dropped = max(0, dropped - len(search))
    return left
