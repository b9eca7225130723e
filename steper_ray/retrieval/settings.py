"""How the corpus is searched: the settings of each retriever, told apart by `type`."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BeforeValidator, Discriminator, PositiveFloat, PositiveInt, Tag

from steper_ray.run.section import Section, did_you_mean

DEFAULT_TYPE: Final = "bm25"


Language = Literal[
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]
"""Languages that Lance has Snowball stemmers and stop words for."""


Analyzer = Literal["unicode", "ngram", Language]


class BM25Config(Section):
    """Full-text search by BM25 over titles and texts."""

    type: Literal["bm25"] = "bm25"
    """Which retriever searches the corpus: `bm25`, or `none`, which finds nothing."""
    analyzer: Analyzer | Literal["auto"] = "auto"
    """How texts become words: a language (its stems and stop words), `unicode` (words as they stand, of
    any script), or `ngram` (pairs and triples of characters: parts of words, codes). `auto` takes the
    language that the passages are in, or `unicode`."""
    stem: bool = True
    """Reduce words to their stems, where the analyzer is a language."""
    remove_stop_words: bool = True
    """Leave words like `the` and `of` out of queries that have others, where the analyzer is a language."""
    title_boost: PositiveFloat = 2.0
    """How much a match of the title alone counts against one of title and text together."""
    title_weight: PositiveInt = 8
    """How often the title counts in title and text together."""


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
