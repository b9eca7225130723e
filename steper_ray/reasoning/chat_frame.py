"""The frame of a chat template: what it writes around a question and the reasoning so far.

A template is rendered when an encoder is made, and never again: with words in place of the two turns, which
shows what is the template's own; then with a plain question, which must come out as the frame puts it. So
whatever stands in passages, questions or rationales, no template reads it, cuts it at `</think>` or trips
over it.
"""

from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks.protocol import Prompt

USER: Final = "users7words"
ASSISTANT: Final = "assistants7words"
"""What stands for a turn; no template is interested in it."""


PLAIN: Final = Prompt(
    "Answer the question.\n\nTitle: Rome\nText: Rome is old.\n\nQuestion: Which town is old?\n",
    "Step 1: It is Rome.\nStep 2:",
)
"""A question like any other."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a turn: where a template strips what is put there."""

    left: bool
    right: bool

    def put(self, text: str) -> str:
        """The text as the template puts it there."""
        text = text.lstrip() if self.left else text
        return text.rstrip() if self.right else text


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """A template's own text, before and between the two turns; the assistant's is left unfinished."""

    before: str
    between: str
    user: Slot
    assistant: Slot

    def parts(self, prompt: Prompt) -> tuple[str, str, str, str]:
        """The template's text, the user's turn, the template's text, and the assistant's turn."""
        user = self.user.put(prompt.user.strip("\n"))
        return self.before, user, self.between, self.assistant.put(prompt.assistant)


def learn_frame(tokenizer: Any, day: date) -> ChatFrame:
    """The frame of a tokenizer's chat template.

    day: the date for templates that name one
    Raises InputError if the template cannot leave the assistant's turn unfinished, or changes what it is
    given.
    """
    before, between, _ = _around(_render(tokenizer, day, USER, ASSISTANT))
    spaced = _around(_render(tokenizer, day, f" {USER} ", f" {ASSISTANT} "))
    for kept in product(("", " "), repeat=4):
        user_left, user_right, left, right = kept
        if spaced == (before + user_left, user_right + between + left, right):
            break
    else:
        raise _unusable("it changes the spaces around what it is given")
    frame = ChatFrame(
        before, between, Slot(not user_left, not user_right), Slot(not left, not right)
    )
    if "".join(frame.parts(PLAIN)) != _render(
        tokenizer, day, PLAIN.user.strip("\n"), PLAIN.assistant
    ):
        raise _unusable("it changes what it is given")
    return frame


def _render(tokenizer: Any, day: date, user: str, assistant: str) -> str:
    """Both turns in the tokenizer's chat template, the assistant's unfinished."""
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    try:
        rendered: str = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            continue_final_message=True,
            date_string=day.strftime("%d %b %Y"),
            strftime_now=day.strftime,
        )
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise _unusable(lines[0]) from None
    return rendered


def _around(rendered: str) -> tuple[str, str, str]:
    """What stands before, between and behind the two turns of USER and ASSISTANT."""
    before, _, rest = rendered.partition(USER)
    between, _, after = rest.partition(ASSISTANT)
    if rendered != f"{before}{USER}{between}{ASSISTANT}{after}" or USER in between or after.strip():
        raise _unusable("it does not show both turns once, one after the other")
    return before, between, after


def _unusable(reason: str) -> InputError:
    return InputError(
        f"reasoning.chat: the chat template cannot go on with an assistant's turn ({reason}); "
        "set it to false"
    )
