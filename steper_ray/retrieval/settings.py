"""How the corpus is searched: the settings of each retriever, told apart by `type`."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BeforeValidator, Discriminator, PositiveFloat, Tag

from steper_ray.run.section import Section, did_you_mean

DEFAULT_TYPE: Final = "bm25"


class BM25Config(Section):
    """Full-text search by BM25 over titles and texts."""

    type: Literal["bm25"] = "bm25"
    """Which retriever searches the corpus: `bm25`, or `none`, which finds nothing."""
    stem: bool = True
    """Reduce words to their stems (English Snowball)."""
    remove_stop_words: bool = True
    """Leave out words like `the` and `of`."""
    title_boost: PositiveFloat = 2.0
    """How much a match in the title counts against one in the text."""


class NoRetrievalConfig(Section):
    """No search: every step is written without passages."""

    type: Literal["none"] = "none"
    """Finds nothing; for tasks that are reasoned about without passages."""


_AnySection = Annotated[BM25Config, Tag("bm25")] | Annotated[NoRetrievalConfig, Tag("none")]

TYPES: Final = tuple(get_args(section)[1].tag for section in get_args(_AnySection))


def _as_section(value: object) -> object:
    """The settings as a section: `retriever: bm25` is short for `retriever: {type: bm25}`.

    Raises ValueError for a type that no retriever has.
    """
    if isinstance(value, str):
        value = {"type": value}
    if isinstance(value, Mapping):
        name = value.get("type", DEFAULT_TYPE)
        if name not in TYPES:
            hint = did_you_mean(str(name), TYPES) or f"choose one of {', '.join(TYPES)}"
            raise ValueError(f"no retriever has type {name!r}; {hint}")
    return value


def _type_of(value: object) -> object:
    """The retriever that settings are for; BM25 where they do not say, None for what is no section."""
    if isinstance(value, Mapping):
        return value.get("type", DEFAULT_TYPE)
    return getattr(value, "type", None)


RetrieverConfig = Annotated[
    _AnySection,
    Discriminator(
        _type_of,
        custom_error_type="retriever_type",
        custom_error_message=f"expected a retriever's settings with type: {' or '.join(TYPES)}",
    ),
    BeforeValidator(_as_section),
]
"""The `corpus.retriever` section."""
