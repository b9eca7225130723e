"""Control tokens: a model's turns, thoughts and tool calls; written by a template, never by data.

A tokenizer takes the text of a control token for that token wherever it stands, so that a passage with
`<|im_end|>` in it would end the user's turn. `split_special_tokens` of transformers keeps only some of them
apart: `<think>` and `<tool_call>` are not special in its sense, and it leaves no way to say which ones of a
text are meant. A `MarkedTokenizer` therefore spells its control tokens in a way that no data can.
"""

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

_MARKUP: Final = re.compile(r"<\S+>|\[\S+\]")
"""How control tokens are spelled that are not declared to be special."""


_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte of a character that a vocabulary lacks."""


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The control tokens of a tokenizer and their ids: those that were added to its vocabulary and are
    special, or spelled as markup is (`<think>`, `[INST]`). Others are words: runs of spaces, new terms.
    """
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if (token.special or _MARKUP.fullmatch(token.content))
        and not _BYTE.fullmatch(token.content)
    }


class MarkedTokenizer:
    """A tokenizer that takes control tokens only where they are marked, and splits a text with marks in one
    run. Whatever else it is given is data: `<|im_end|>` is a few signs.

    Text without the spelling of a control token has the ids that the tokenizer itself gives it. Threads may
    share one.
    """

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: from transformers; it is copied, not changed"""
        self._control = control_tokens(tokenizer)
        self._nonce = f"m{secrets.token_hex(8)}n"
        self._marks = {token: f"{self._nonce}{number}m" for token, number in self._control.items()}
        self._spelling = _any_of(self._control)
        self._mark = _any_of(self._marks.values())
        self._tokenizer = tokenizer
        self.backend = _respelled(tokenizer, self._marks) if tokenizer.is_fast else None
        """The tokenizer of `tokenizers` that knows the marks; None where it is none of them."""

    def mark(self, text: str, only: Iterable[str] | None = None) -> str:
        """The text with its control tokens marked: all of them, or those of `only` that are some."""
        tokens = _any_of(self._control.keys() & set(only)) if only is not None else self._spelling
        return tokens.sub(lambda match: self._marks[match.group()], text)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, its control tokens marked; nothing is put before or behind them."""
        (ids,) = self.encode_batch([text])
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, as `encode` gives them."""
        if self.backend is None:
            return [self._encode_slowly(text) for text in texts]
        # which lets other threads run, and counts no offsets, also for a batch of one
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def remember_words(self, count: int) -> None:
        """Remember the tokens of so many words, where the tokenizer's model remembers any (BPE)."""
        resize = getattr(getattr(self.backend, "model", None), "_resize_cache", None)
        if resize is not None:
            resize(count)

    def begins_mark(self, text: str) -> bool:
        """Whether a text begins with a mark."""
        return text.startswith(self._nonce)

    def _encode_slowly(self, text: str) -> list[int]:
        """The ids of a text from a tokenizer that is not one of `tokenizers`."""
        ids: list[int] = []
        start = 0
        tokens = {mark: self._control[token] for token, mark in self._marks.items()}
        for match in self._mark.finditer(text):
            ids += [*self._run(text[start : match.start()]), tokens[match.group()]]
            start = match.end()
        return [*ids, *self._run(text[start:])]

    def _run(self, text: str) -> list[int]:
        """The ids of a text between marks, from a tokenizer that is not one of `tokenizers`."""
        if not text:
            return []
        split = self._spelling.search(text) is not None
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=split
        )["input_ids"]
        return ids


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of the texts; nothing where there is none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _respelled(tokenizer: Any, spelled: dict[str, str]) -> Any:
    """A copy of a tokenizer's backend in which tokens are spelled otherwise and keep their ids."""
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in whole["added_tokens"]:
        token["content"] = spelled.get(token["content"], token["content"])
    model = whole["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {spelled.get(piece, piece): n for piece, n in model["vocab"].items()}
    else:  # Unigram: pieces with their scores
        model["vocab"] = [[spelled.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:  # which may lead to such a token, as "<" and "s>" to "<s>"
        model["merges"] = [
            (first, second)
            for first, second in model["merges"]
            if spelled.keys().isdisjoint((first, second, first + second))
        ]
    if model.get("unk_token") in spelled:
        model["unk_token"] = spelled[model["unk_token"]]
    copy = Tokenizer.from_str(json.dumps(whole))
    copy.no_truncation()
    copy.no_padding()
    return copy
