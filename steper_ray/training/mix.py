"""Rows of `train.mix`: chats and texts of any data set, read and turned into token ids.

Of a chat, what the assistant says is learned. Where the student's chat template marks that itself
(`{% generation %}`), its marks are taken. Else the chat is rendered up to each of the assistant's turns and
behind it: a turn is learned where both are how the whole chat begins. A template that shows an earlier turn
otherwise than the last one (Qwen3 leaves out old thoughts) so teaches the last one alone. A text is learned
whole, its end included.

Long rows are cut. A row that cannot be used is skipped and counted by its reason.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from steper_ray.data.addresses import find_sources
from steper_ray.data.tables import first_rows, read_rows
from steper_ray.data.values import brief, is_missing, listed, value_at
from steper_ray.errors import InputError
from steper_ray.run.identity import digest
from steper_ray.text import is_unicode
from steper_ray.training.settings import MixConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SETTING: Final = "train.mix.data"


COLUMNS: Final = ("messages", "conversations", "text")
"""Where chats and texts are looked for."""


ROLES: Final = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""Other names of roles, as ShareGPT and others have them."""


ASSISTANT: Final = "assistant"


MARKS: Final = re.compile(r"\{%-?\s*generation\b")
"""How a chat template says that the assistant's words begin."""


Turn = dict[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class MixRow:
    """A chat or a text."""

    number: int
    """Of all rows of the data, in the order of its files, from 1."""
    content: "str | list[Turn]"

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"row {self.number}"


@dataclass(slots=True)
class MixRows:
    """The rows that are used, and what became of the others."""

    rows: list[MixRow] = field(default_factory=list)
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows that are no chat and no text, by reason."""

    @property
    def digest(self) -> str:
        """Changes with the rows that are used."""
        return digest([digest(row.content) for row in self.rows])


class _UnusableError(ValueError):
    """A row is no chat and no text; its message is the reason."""


def read_mix(mix: MixConfig) -> MixRows:
    """The chats and texts of the data; of more than `max_rows` so many, drawn with the same chances.

    Raises InputError for data that cannot be read, or without a row of either kind.
    """
    found = MixRows()
    usable = 0
    # the same rows for every training, whatever its seed, so that trainings share what is made of them
    draw = random.Random(0)
    columns = COLUMNS if mix.column is None else (mix.column,)
    sources = find_sources(mix.data, SETTING).sources
    for source in sources:
        for _, row in read_rows(source, columns):
            found.read += 1
            try:
                content = _content(row, columns)
            except _UnusableError as error:
                found.skipped[str(error)] += 1
                continue
            usable += 1
            at = usable - 1 if usable <= mix.max_rows else draw.randrange(usable)
            if at < mix.max_rows:
                found.rows[at : at + 1] = [MixRow(found.read, content)]
    if not usable:
        present = next((sorted(row) for row in first_rows(sources[0])), [])
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.skipped.most_common())
        raise InputError(
            f"train.mix.data: {sources[0]}: none of {found.read:,} rows is a chat or a text"
            f"{reasons and f' ({reasons})'}; there are columns {brief(', '.join(present))}: name one in "
            "train.mix.column"
        )
    found.rows.sort(key=lambda row: row.number)
    return found


def _content(row: Mapping[str, Any] | InputError, columns: Sequence[str]) -> "str | list[Turn]":
    """The chat or text of a row; raises _UnusableError with the reason where it has none."""
    if isinstance(row, InputError):
        raise _UnusableError("cannot be read")
    values = (value_at(row, name) for name in columns)
    value = next((value for value in values if not is_missing(value) and value != []), None)
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = listed(value)
    if value is None:
        raise _UnusableError(f"without {' or '.join(columns)}")
    if isinstance(value, str) and is_unicode(value):
        return value
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise _UnusableError("neither a list of turns nor text")
    turns = [_turn(turn) for turn in value]
    while turns and turns[-1]["role"] != ASSISTANT:
        turns.pop()  # nobody answered
    if not turns:
        raise _UnusableError("without a turn of the assistant")
    return turns


def _turn(turn: Mapping[str, Any]) -> Turn:
    """A turn by our names; a call of a tool, for one, has no text."""
    role, content = (
        next((turn[name] for name in names if turn.get(name) is not None), None)
        for names in (("role", "from"), ("content", "value"))
    )
    if not isinstance(role, str) or not isinstance(content, str) or not is_unicode(content):
        raise _UnusableError("with a turn without role or text")
    return {"role": ROLES.get(role, role), "content": content}


@dataclass(frozen=True, slots=True)
class MixExample:
    """A row as numbers."""

    name: str
    number: int
    ids: "NDArray[np.int32]"
    spans: tuple[int, ...]
    """Where what is learned begins and ends in the ids: start, end, start, end …"""
    cut: bool
    """Whether the row was longer."""

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(self.spans[1::2]) - sum(self.spans[::2])


class MixTokenizer:
    """Turns rows into token ids."""

    def __init__(self, tokenizer: Any, day: date, longest: int) -> None:
        """tokenizer: the student's, from transformers
        day:       the date for chat templates that name one
        longest:   tokens that a row is cut at
        """
        self._tokenizer, self._longest = tokenizer, longest
        self._dates = {"date_string": day.strftime("%d %b %Y"), "strftime_now": day.strftime}
        template = getattr(tokenizer, "chat_template", None)
        self._has_template = bool(template)
        self._marks = isinstance(template, str) and MARKS.search(template) is not None

    def encode(self, row: MixRow) -> MixExample | str:
        """The example of a row, or why it has none; raises InputError for chats without a template."""
        import numpy as np

        made = self._text(row.content) if isinstance(row.content, str) else self._chat(row)
        if isinstance(made, str):
            return made
        ids, learned = np.array(made[0], dtype=np.int32), np.array(made[1], dtype=bool)
        learned[:1] = False  # nothing predicts the first token
        cut = len(ids) > self._longest
        ids, learned = ids[: self._longest], learned[: self._longest]
        if not learned.any():
            return f"nothing to learn in the first {self._longest:,} tokens"
        edges = np.flatnonzero(np.diff(learned, prepend=False, append=False))
        return MixExample(row.name, row.number, ids, tuple(edges.tolist()), cut)

    def _text(self, text: str) -> tuple[list[int], list[bool]]:
        """The ids of a text, with a token that ends it; all are learned."""
        ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        end = self._tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        return ids, [True] * len(ids)

    def _chat(self, row: MixRow) -> tuple[list[int], list[bool]] | str:
        """The ids of a chat, and which of them the assistant says."""
        from jinja2 import TemplateError

        if not self._has_template or not self._tokenizer.is_fast:
            lack = "fast tokenizer" if self._has_template else "chat template"
            raise InputError(
                f"train.mix.data: {row.name} is a chat, but the student has no {lack}; take data of plain "
                "texts, or another train.model"
            )
        turns: Any = row.content
        try:
            if self._marks:
                rendered = self._tokenizer.apply_chat_template(
                    turns, return_dict=True, return_assistant_tokens_mask=True, **self._dates
                )
                return list(rendered["input_ids"]), [bool(n) for n in rendered["assistant_masks"]]
            whole, spans = self._assistant_spans(turns)
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError):
            return "refused by the chat template"
        if not spans:
            return "changed by the chat template as the chat goes on"
        encoded = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts = [start for start, _ in encoded["offset_mapping"]]
        learned = [any(first <= start < end for first, end in spans) for start in starts]
        return list(encoded["input_ids"]), learned

    def _assistant_spans(self, turns: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and where in it the assistant's turns begin and end.

        The end mark of a turn belongs to it, the line end behind the mark does not: nobody asks for it.
        """
        whole = self._render(turns, opened=False)
        spans = []
        for number, turn in enumerate(turns):
            if turn["role"] != ASSISTANT:
                continue
            before = self._render(turns[:number], opened=True) if number else ""
            after = self._render(turns[: number + 1], opened=False)
            if whole.startswith(after) and after.startswith(before):
                spans.append((len(before), len(after.rstrip())))
        return whole, [(start, end) for start, end in spans if start < end]

    def _render(self, turns: Sequence[Turn], *, opened: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=opened, **self._dates
        )
        return text
