"""Text analysis for search: from a text to its words, the same for passages and queries.

A text is normalized (lower case, NFKC; HTML entities resolved; soft hyphens, zero-width and other invisible
characters gone), cut into words by ICU, whose dictionaries know Chinese, Japanese and Thai, and freed of
accents. Runs of Hangul become pairs of syllables, since Korean writes particles onto its words. All of it
comes before stemming, so that "Beyonce's" and "Beyoncé" have one stem.

What is left to choose is the *analyzer*: a language, which adds its stems and its stop words; `unicode`,
which adds nothing; or `ngram`, which takes pairs and triples of characters in place of words.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, get_args

from steper_ray.retrieval.settings import Analyzer, Language
from steper_ray.text import unify

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)


MIN_STOP_WORDS: Final = 0.15
"""Least share of a language's stop words among the words of its texts; 0.25 and more are usual."""


MAX_WORD_LENGTH: Final = 255
"""Longest word that is indexed, in characters; chemistry has some of more than a hundred."""


_DELIMITERS: Final = re.compile(r"[!-/:-@\[-`{-~’·]")
"""Signs at which words end, some of which ICU leaves within words and numbers."""


_HANGUL: Final = re.compile("[\uac00-\ud7a3]+")


def analyze(text: str, analyzer: Analyzer) -> str:
    """What stands for a passage's text in the index: its words with spaces between them.

    For `ngram` the normalized text, which the index cuts by itself.
    """
    normal = unify(text)
    return normal if analyzer == "ngram" else " ".join(_words(normal))


def analyze_query(query: str, analyzer: Analyzer, *, remove_stop_words: bool) -> str:
    """What is searched for a query: as `analyze`, without stop words unless it has no other words."""
    words = analyze(query, analyzer)
    if analyzer in LANGUAGES and remove_stop_words:
        return " ".join(_without_stop_words(words, analyzer)) or words
    return words


def index_options(analyzer: Analyzer, *, stem: bool) -> dict[str, Any]:
    """Options of Lance's inverted index for texts from `analyze`; its queries get the same treatment."""
    language = analyzer if analyzer in LANGUAGES else "english"
    ngram = {"min_ngram_length": 2, "max_ngram_length": 3} if analyzer == "ngram" else {}
    return {
        "base_tokenizer": "ngram" if analyzer == "ngram" else "whitespace",
        "language": language.capitalize(),
        "stem": stem and analyzer in LANGUAGES,
        "remove_stop_words": False,
        "ascii_folding": analyzer == "ngram",
        "max_token_length": MAX_WORD_LENGTH,
        "with_position": False,
        **ngram,
    }


def detect_analyzer(texts: Sequence[str]) -> Analyzer:
    """The language whose stop words are most frequent in texts, or `unicode` where none's are."""
    words = [word for text in texts for word in _words(unify(text), fold=False)]
    joined = " ".join(words)
    meaning = {language: len(_without_stop_words(joined, language)) for language in LANGUAGES}
    likeliest = min(LANGUAGES, key=meaning.__getitem__)
    stop_words = len(words) - meaning[likeliest]
    return likeliest if words and stop_words >= MIN_STOP_WORDS * len(words) else "unicode"


def _words(normal: str, *, fold: bool = True) -> list[str]:
    """Words of a normalized text, accents folded."""
    text = _HANGUL.sub(_syllable_pairs, _DELIMITERS.sub(" ", normal))
    return _tokens(text, base_tokenizer="icu", ascii_folding=fold)


def _syllable_pairs(run: re.Match[str]) -> str:
    """Each two neighbouring syllables of a run, apart from what stands beside it; a single one as it is."""
    pairs = ["".join(pair) for pair in pairwise(run[0])]
    return f" {' '.join(pairs) or run[0]} "


def _without_stop_words(words: str, language: Language) -> list[str]:
    return _tokens(
        words, base_tokenizer="whitespace", language=language.capitalize(), remove_stop_words=True
    )


def _tokens(text: str, **options: Any) -> list[str]:
    import lance

    defaults = {
        "lower_case": True,
        "stem": False,
        "remove_stop_words": False,
        "ascii_folding": False,
    }
    options = {**defaults, "max_token_length": MAX_WORD_LENGTH, **options}
    return [token.text for token in lance.tokenize(text, **options)]
