"""BM25 over titles and texts of a Lance dataset.

Two fields of a passage are searched, as words (`steper_ray.retrieval.analysis`): its title, and its
*article text*, which is the title `title_weight` times over and then the text. A passage scores by the
better of them, the title counting `title_boost` times. Of a field, for the words w of a query, with tf the
times that w stands in it, len its length in words, N passages that have it, of average length avg, and df
of them with w:

    BM25 = Σ_w ln(1 + (N - df + ½)/(df + ½)) · tf·(k1 + 1) / (tf + k1·(1 - b + b·len/avg))

with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009). The title alone finds an article by its name. In the
article text a name in the title counts so often that saying it once more in the text adds little: among
the passages of one article the text decides. Statistics are of the whole corpus, however it is cut up. The
query is data: nothing in it is syntax.
"""

import asyncio
import hashlib
import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.retrieval.analysis import (
    analyze,
    analyze_query,
    detect_analyzer,
    index_options,
)
from steper_ray.retrieval.corpus_record import CORPUS_FILE, read_corpus_record
from steper_ray.retrieval.protocol import Hit, IndexReport
from steper_ray.retrieval.settings import Analyzer, BM25Config
from steper_ray.schema import Passage

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS: Final = BM25Config


FIELDS: Final = ("searched_title", "searched_text")
"""Columns that are indexed."""


DETECTED_FROM: Final = 200
"""Passages from which the analyzer is detected."""


TIES: Final = 4
"""Rows that are asked for beyond k, among which equal scores show."""


class BM25Retriever:
    """Searches one corpus by BM25. Not fork-safe (Lance): open it in the process that uses it."""

    def __init__(self, folder: Path | str, settings: BM25Config) -> None:
        """Raises InputError if the folder is not a corpus made by `steper index`.

        settings: those that it was indexed with
        A corpus that later replaces it in the same place is not searched: open that one anew.
        """
        import lance

        assert settings.analyzer != "auto", "an index has the analyzer that was detected"
        self._folder = Path(folder).resolve()
        self.version = read_corpus_record(folder).version
        self._analyzer: Analyzer = settings.analyzer
        self._remove_stop_words = settings.remove_stop_words
        self._boosts = [settings.title_boost, 1.0]
        self._dataset = lance.dataset(str(self._folder))

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """`best_passages` of each query, in threads, so that other chains continue meanwhile."""
        searches = (asyncio.to_thread(self.best_passages, query, k) for query in queries)
        return list(await asyncio.gather(*searches))

    def best_passages(self, query: str, k: int) -> list[Hit]:
        """The k best passages, best first (ties by id); fewer if fewer match, none for no words.

        Raises InputError if the corpus was removed.
        """
        words = analyze_query(
            query, self._analyzer, remove_stop_words=self._remove_stop_words
        ).strip()
        if not words:
            return []
        if not (self._folder / CORPUS_FILE).exists():  # where Lance may just find nothing
            raise InputError(f"{self._folder}: the corpus was removed while it was open")
        limit = k + TIES
        # Which of equal scores Lance returns last depends on how the rows lie: ask until the k-th has no
        # equal beyond what was returned.
        while len(rows := self._matches(words, limit)) == limit:
            if rows[-1]["_score"] < rows[k - 1]["_score"]:
                break
            limit *= 4
        hits = [_hit(row) for row in rows]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))[:k]

    def _matches(self, words: str, limit: int) -> list[dict[str, Any]]:
        """The rows of the best scores, best first."""
        from lance.query import MultiMatchQuery

        table = self._dataset.to_table(
            columns=["id", "title", "text", "_score"],
            full_text_query=MultiMatchQuery(words, list(FIELDS), boosts=self._boosts),
            limit=limit,
        )
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows


def open(folder: Path, settings: BM25Config) -> BM25Retriever:
    """Open the index of a corpus."""
    return BM25Retriever(folder, settings)


def index(folder: Path, settings: BM25Config) -> IndexReport:
    """Add the searched fields to the passages and build their indexes, on Ray where it is connected."""
    detected = detect_analyzer(_sample(folder))
    analyzer = detected if settings.analyzer == "auto" else settings.analyzer
    _add_fields(folder, analyzer, settings.title_weight)
    _build_indexes(folder, index_options(analyzer, stem=settings.stem))
    return IndexReport(
        settings.model_copy(update={"analyzer": analyzer}),
        tuple(_remarks(settings.analyzer, detected)),
    )


def searched_fields(
    title: str, text: str, analyzer: Analyzer, title_weight: int
) -> tuple[str, str]:
    """A passage as FIELDS has it."""
    name = analyze(title, analyzer)
    return name, "\n".join([*[name] * title_weight, analyze(text, analyzer)])


def _add_fields(folder: Path, analyzer: Analyzer, title_weight: int) -> None:
    """Add the columns of FIELDS, fragment by fragment on Ray's workers."""
    import lance

    def fields(batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import pyarrow as pa

        rows = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
        pairs = [searched_fields(title, text, analyzer, title_weight) for title, text in rows]
        columns = [pa.array([pair[n] for pair in pairs], pa.large_string()) for n in (0, 1)]
        return pa.RecordBatch.from_arrays(columns, list(FIELDS))

    def add_to(fragment: int) -> tuple[Any, Any]:
        merged = lance.dataset(str(folder)).get_fragment(fragment)
        assert merged is not None
        return merged.merge_columns(fields, columns=["title", "text"])

    dataset = lance.dataset(str(folder))
    numbers = [fragment.fragment_id for fragment in dataset.get_fragments()]
    fragments, schemas = zip(*parallel_map(add_to, numbers), strict=True)
    merge = lance.LanceOperation.Merge(list(fragments), schemas[0])
    lance.LanceDataset.commit(str(folder), merge, read_version=dataset.version)


def _build_indexes(folder: Path, options: Mapping[str, Any]) -> None:
    """Build an inverted index of each field: in one task, or in as many as there are fragments for."""
    import lance
    import lance_ray
    import ray

    def build_whole(corpus: Path) -> None:
        for field in FIELDS:
            lance.dataset(str(corpus)).create_scalar_index(field, "INVERTED", **options)

    fragments = len(lance.dataset(str(folder)).get_fragments())
    if fragments == 1 or not ray.is_initialized():
        deque(parallel_map(build_whole, [folder]), maxlen=0)
        return
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), fragments))
    for field in FIELDS:
        lance_ray.create_scalar_index(
            str(folder), column=field, index_type="INVERTED", num_workers=workers, **options
        )


def _sample(folder: Path) -> list[str]:
    """Titles and texts of passages drawn by their ids: the same ones in whatever order they lie."""
    import lance

    dataset = lance.dataset(str(folder))

    batches = dataset.to_batches(columns=["id"])
    ids = enumerate(id for batch in batches for id in batch["id"].to_pylist())
    drawn = heapq.nsmallest(
        DETECTED_FROM, ids, key=lambda row: hashlib.sha256(row[1].encode()).digest()
    )
    numbers = [number for number, _ in drawn]
    rows = dataset.take(sorted(numbers), columns=["title", "text"]).to_pylist()
    return [f"{row['title']}\n{row['text']}" for row in rows]


def _remarks(asked: str, detected: Analyzer) -> Iterator[str]:
    if asked == "auto":
        yield f"analyzer: {detected}, which the passages look like (corpus.retriever.analyzer)"
    elif asked != detected and asked != "ngram":
        yield (
            f"analyzer: {asked}, but the passages look {detected}; set corpus.retriever.analyzer to auto "
            f"or {detected} if they are"
        )


def _hit(row: dict[str, Any]) -> Hit:
    return Hit(Passage(row["id"], row["title"], row["text"]), float(row["_score"]))
