"""The `corpus` and `questions` sections."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, model_validator

from steper_ray.retrieval.settings import BM25Config, RetrieverConfig
from steper_ray.run.section import Address, Section

BadRows = Literal["error", "skip"]


Split = Literal["train", "dev", "test"]


def _number_as_name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ColumnName = Annotated[str, BeforeValidator(_number_as_name)]
"""The name of a column, with dots for a field inside objects (`metadata.answer`), or its number, counted
from 1, in a CSV or TSV file without a header."""


class PassageColumns(Section):
    """What the columns of a table are called; naming any of them says that it is no published format.

    A dot leads into objects (`metadata.url`); a number counts the columns of a file without a header."""

    id: ColumnName | None = "id"
    """null, or no such column, makes ids from title and text, as question files of published sets have."""
    title: ColumnName | None = "title"
    """null, or no such column, leaves passages without titles."""
    text: ColumnName = "text"


class CorpusConfig(Section):
    """The passages and how they are searched."""

    passages: Address | tuple[Address, ...] = ""
    """Tables with columns id, title, text, question files with their contexts, or documents (text,
    Markdown, HTML): a file, a folder, a pattern, an s3:// or gs:// address, hf:owner/name:config:split,
    or a list of such."""
    columns: PassageColumns = PassageColumns()
    """Names of a table's columns, where they differ from ours."""
    passage_size: PositiveInt = 600
    """Characters at most of a passage cut from a document."""
    passage_overlap: NonNegativeInt = 100
    """Characters at most, in whole sentences, that it repeats from the one before."""
    bad_rows: BadRows = "error"
    """A broken row stops the stage (`error`), or is left out and written down (`skip`)."""
    retriever: RetrieverConfig = BM25Config()
    """How passages are searched; `type` says by which retriever."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> "CorpusConfig":
        if self.passage_overlap >= self.passage_size:
            raise ValueError("passage_overlap must be smaller than passage_size")
        return self


class QuestionColumns(Section):
    """What the columns of a file are called; naming any of them says that it is no published format.

    A dot leads into objects (`metadata.answer`); a number counts the columns of a file without a header."""

    id: ColumnName | None = "id"
    """null, or no such column, makes an id from question and answer."""
    question: ColumnName = "question"
    answer: ColumnName = "answer"
    """A text, or a list of texts: the answer, then its aliases."""
    answer_aliases: ColumnName = "answer_aliases"
    supporting_ids: ColumnName = "supporting_ids"
    hops: ColumnName = "hops"
    type: ColumnName = "type"


class QuestionsConfig(Section):
    """The questions of each split: a file, a folder, a pattern, an s3:// or gs:// address, or
    hf:owner/name:config:split."""

    train: Address = ""
    """Questions the teacher answers to make training data."""
    dev: Address = ""
    """Held-out questions for evaluation; settings may be chosen on them."""
    test: Address = ""
    """Held-out questions that nothing is chosen on, for `steper compare`."""
    columns: QuestionColumns = QuestionColumns()
    """Names of the columns, where they differ from ours."""
    task: str = "qa"
    """What counts as a right answer: `qa` compares it with the gold answers (exact match, F1,
    contained), with HotpotQA's F1; `musique` does the same with MuSiQue's F1, in which yes and no are
    words like others."""
    gold_passages: bool = True
    """Take from the files which passages support an answer, for recall and `select.min_support`; false for
    a corpus of other passages."""
    aliases: Address = ""
    """2WikiMultihopQA's id_aliases.json: other names of the answers that its rows give an `answer_id`."""
    bad_rows: BadRows = "error"
    """A broken row stops the stage (`error`), or is left out and written down (`skip`)."""
