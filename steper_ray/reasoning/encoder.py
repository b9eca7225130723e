"""Prompt → tokens: plain text, or the model's chat template with an unfinished turn."""

from typing import Any, Final, Literal

from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks.protocol import Prompt

TEMPLATE_DATE: Final = "26 Jul 2024"
"""The date in templates that name one (Llama 3.2's would take today's, and tomorrow's prompts would be
others than those the student was trained on). It is the default of Llama 3.1's template."""


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
