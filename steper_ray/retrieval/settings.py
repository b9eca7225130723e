"""How the corpus is searched: the settings of each retriever, told apart by `type`."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Discriminator, PositiveFloat, Tag

from steper_ray.run.section import Section

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


def _type_of(value: object) -> object:
    """The retriever that settings are for; BM25 where they do not say."""
    return (
        value.get("type", DEFAULT_TYPE) if isinstance(value, Mapping) else vars(value).get("type")
    )


RetrieverConfig = Annotated[
    Annotated[BM25Config, Tag("bm25")] | Annotated[NoRetrievalConfig, Tag("none")],
    Discriminator(
        _type_of,
        custom_error_type="retriever_type",
        custom_error_message="expected a retriever's settings with type: bm25 or none",
    ),
]
"""The `corpus.retriever` section."""
