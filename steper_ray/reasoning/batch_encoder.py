"""Encoding of many prompts that have most of their text in common: each piece of text once, in batches.

A prompt is cut before paragraphs, and at its end before lines, that begin with a letter: its passages, its
question, its steps. Where a tokenizer's pre-tokenizer splits a text there whatever stands on both sides, no
token crosses the cut, and the ids of the prompt are those of its pieces, one after the other. So it is with
byte-level BPE and the regular expressions of GPT-2, Llama 3, Qwen and the like; `splits_before_lines` asks
the pre-tokenizer. A tokenizer that does not split there, such as SentencePiece, encodes every prompt whole.
"""

import logging
from array import array
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Final

from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt

logger = logging.getLogger(__name__)


MAX_PIECES: Final = 100_000
"""Pieces that are kept: some 100 MB."""


CHECKED: Final = 4
"""About so many of the prompts that are learned together are also encoded whole."""


WORDS: Final = 200_000
"""Words whose tokens a tokenizer remembers; by default 10,000, which is too few for thousands of texts."""


PARAGRAPH: Final = "\n\n"


LETTER: Final = "A"
"""Stands behind a piece for the line that follows it; what stands there changes how spaces are split."""


_BEFORE: Final = (
    "a",
    ".",
    ",",
    " ",
    "5",
    ")",
    "é",
    "東",
    "。",
    "—",
    "…",
    "'",
    "\t",
    "\r",
    "\n",
    "🙂",
    ":",
)
_LINES: Final = ("A", "The b", "qx", "Question: 5", "Title: É", "I'm")


class BatchEncoder(PromptEncoder):
    """A `PromptEncoder` that keeps the ids of every piece of text that it has seen.

    `learn` tells it which prompts will be asked for; it forgets them when others are learned.
    """

    def __init__(self, *arguments: Any) -> None:
        """arguments: of `PromptEncoder`"""
        self._pieces: dict[str, array[int]] = {}
        self._texts: dict[str, list[int]] = {}
        self._cuts: dict[Prompt, list[str]] = {}
        self.by_lines = False
        super().__init__(*arguments)
        self._cuts.clear()
        self.by_lines = splits_before_lines(self._tokenizer.backend)
        """Whether a prompt's ids are put together from those of its pieces."""
        self._tokenizer.remember_words(WORDS)

    def learn(self, examples: Iterable[tuple[Prompt, str]]) -> None:
        """Encode the pieces of these prompts, and what their targets are split with, in two batches.

        What was learned before is forgotten, but for pieces while these are not too many.
        """
        self._texts.clear()
        self._cuts.clear()
        if len(self._pieces) > MAX_PIECES:
            self._pieces.clear()
        examples = list(examples)
        pieces: dict[str, None] = {}
        texts: dict[str, None] = {}
        for prompt, target in examples:
            *inner, last = self._cut(prompt)
            pieces.update(dict.fromkeys(inner))
            texts[last] = None
            line = self.text(prompt).rpartition("\n")[2]
            texts[line], texts[line + target] = None, None
        self._encode_pieces([piece for piece in pieces if piece not in self._pieces])
        unknown = [text for text in texts if text not in self._texts]
        for text, ids in zip(unknown, self._tokenizer.encode_batch(unknown), strict=True):
            self._texts[text] = ids
        self._check_pieces([prompt for prompt, _ in examples])

    def _check_pieces(self, prompts: Sequence[Prompt]) -> None:
        """Encode a few prompts whole; if one has other ids than its pieces, all are encoded whole."""
        for prompt in prompts[:: max(1, len(prompts) // CHECKED)]:
            if self.by_lines and self._encode(prompt) != super()._encode(prompt):
                logger.warning(
                    "a tokenizer joins lines: prompts are encoded whole, which is slower"
                )
                self.by_lines = False
                self._cuts.clear()
                self._remembered.cache_clear()

    def _encode(self, prompt: Prompt) -> "array[int]":
        *inner, last = self._cut(prompt)
        self._encode_pieces([piece for piece in inner if piece not in self._pieces])
        ids = array("i", self._first)
        for piece in inner:
            ids.extend(self._pieces[piece])
        ids.extend(self._split(last))
        return ids

    def _split(self, text: str) -> list[int]:
        if text not in self._texts:
            self._texts[text] = super()._split(text)
        return self._texts[text]

    def _cut(self, prompt: Prompt) -> list[str]:
        """The pieces of a prompt; the last one is not followed by a line."""
        if prompt not in self._cuts:
            self._cuts[prompt] = self._cut_text(self._marked(prompt))
        return self._cuts[prompt]

    def _cut_text(self, text: str) -> list[str]:
        """The pieces of a text with marks: its paragraphs, and of the last one its lines."""
        if not self.by_lines:
            return [text]
        *paragraphs, last = text.split(PARAGRAPH)
        texts = [paragraph + PARAGRAPH for paragraph in paragraphs]
        texts += last.splitlines(keepends=True) or [""]
        pieces: list[str] = []
        for following in texts:
            if pieces and not (pieces[-1].endswith("\n") and self._begins_piece(following)):
                pieces[-1] += following
            else:
                pieces.append(following)
        return pieces

    def _begins_piece(self, text: str) -> bool:
        """Whether a text begins with a letter that is no mark's, before which the text would end."""
        first = text[:1]
        return first.isascii() and first.isalpha() and not self._tokenizer.begins_mark(text)

    def _encode_pieces(self, pieces: Sequence[str]) -> None:
        if not pieces:
            return
        encoded = self._tokenizer.encode_batch([piece + LETTER for piece in pieces])
        (letter,) = self._tokenizer.encode(LETTER)
        for piece, ids in zip(pieces, encoded, strict=True):
            assert ids[-1] == letter, piece
            self._pieces[piece] = array("i", ids[:-1])


def splits_before_lines(backend: Any) -> bool:
    """Whether a tokenizer of `tokenizers` begins a new token at each line that begins with a letter.

    backend: None for a tokenizer that is none of them
    """
    if backend is None or backend.pre_tokenizer is None:
        return False

    def split(text: str) -> list[tuple[str, tuple[int, int]]]:
        pieces: list[tuple[str, tuple[int, int]]] = backend.pre_tokenizer.pre_tokenize_str(text)
        return pieces

    def normal(text: str) -> str:
        return text if backend.normalizer is None else str(backend.normalizer.normalize_str(text))

    for before, line in product(_BEFORE, _LINES):
        for end in ("\n", "\n\n"):
            left, right = normal(f"x{before}{end}"), normal(line)
            whole, alone = split(left + right), split(right)
            start = len(whole) - len(alone)
            if (
                left + right != normal(f"x{before}{end}{line}")
                or [piece for piece, _ in whole[start:]] != [piece for piece, _ in alone]
                or (start < 1 or whole[start][1][0] != len(left))
                or [piece for piece, _ in split(left + LETTER)[:-1]]
                != [piece for piece, _ in whole[:start]]
            ):
                return False
    return len(backend.encode(LETTER, add_special_tokens=False).ids) == 1
