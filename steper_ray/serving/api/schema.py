"""Request and response bodies of the HTTP API as pydantic models; /docs is generated from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.schema import FinishReason, StopReason

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


AnyText = Annotated[str, StringConstraints(min_length=0)]
"""Text that is valid Unicode: without a constraint pydantic accepts lone surrogates, as `"\\ud800"`."""


TOO_LARGE: Final = 2**31
"""Smallest number that is refused as absurd for any field."""


def _known_framework(name: str) -> str:
    if name not in FRAMEWORKS:
        *first, last = map(repr, FRAMEWORKS)
        expected = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("enum", "Input should be {expected}", {"expected": expected})
    return name


Framework = Annotated[
    str,
    AfterValidator(_known_framework),
    WithJsonSchema({"type": "string", "enum": list(FRAMEWORKS)}),
]
"""The name of a reasoning framework."""


class Body(BaseModel):
    """A request body: an unknown key or a wrong type is refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class QuestionBody(Body):
    """Overrides of the settings that the student was trained with."""

    framework: Framework | None = None
    """Another framework, with its own instruction and no demonstrations."""
    passages_per_step: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    """Passages per step (k)."""
    max_steps: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    """Largest number of steps before the answer is forced (S)."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that the request overrides."""
        return self.model_dump(
            include={"framework", "passages_per_step", "max_steps"}, exclude_none=True
        )


class AnswerRequest(QuestionBody):
    """Body of POST /v1/answer."""

    question: Text
    stream: bool = False
    """Send events as it happens: `search`, `passages`, `token`, `step`, then `answer` or `error`."""


class BatchRequest(QuestionBody):
    """Body of POST /v1/answers."""

    questions: list[Text] = Field(min_length=1, fail_fast=True)


class SearchRequest(Body):
    """Body of POST /v1/search."""

    query: Text
    k: int = Field(default=4, ge=1, lt=TOO_LARGE)
    """Number of passages."""


class PassageOut(BaseModel):
    """A passage found by a search."""

    id: str
    title: str
    text: str
    score: float
    """BM25 score."""


class StepOut(BaseModel):
    """One search and the sentence written after it."""

    step: int
    """From 1 on."""
    ability: str
    """The ability it needed: `init`ialization, `exp`ansion or `agg`regation."""
    query: str
    passages: list[PassageOut]
    """Passages that no earlier step had found."""
    rationale: str
    unsupported: list[str]
    """Names and numbers of the rationale that stand in no passage of its prompt, no earlier step and not in
    the question, as written."""
    mean_logprob: float | None
    """Mean log-probability of the written tokens, in nats; null where the engine gives none."""
    thought: str | None
    """What the model thought before, where it did."""
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int | None
    """Prompt tokens found in the engine's prefix cache."""
    dropped_passages: int
    search_seconds: float
    generate_seconds: float
    finish_reason: FinishReason | None
    """Why the engine stopped: `length` where the limit of tokens cut the step off."""


class AnswerOut(BaseModel):
    """An answer, and how it was found."""

    answer: str
    supported: bool
    """Whether every name and number of the steps stands in what they saw, and every name of the question in
    a passage. It is looked up, so a fact about the right names may still be wrong."""
    unknown_names: list[str]
    """Names of the question of which no passage that was found has anything."""
    stop_reason: StopReason
    """`answered`; or why the model had to be asked for its answer: `forced` (the steps ran out), `no_query`
    (a step named nothing to search for), `nothing_new` (searches brought no new passage)."""
    finish_reason: Literal["stop", "length"]
    """`length` where the limit of tokens cut off the last step, and so perhaps the answer."""
    steps: list[StepOut]
    seconds: float
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    model: str
    model_version: str
    """Which model that is, by its content: the commit of one on the Hub, a digest of a folder."""
    corpus_version: str
    overrides: dict[str, Any]
    """Settings that differ from those of the training: {name: {"trained": …, "served": …}}."""


class ErrorInfo(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: str
    code: str
    param: str | None = None
    """The part of the request that the error is about."""


class ErrorOut(BaseModel):
    """Body of every reply with a status of 400 or more, and data of the event `error`."""

    error: ErrorInfo


class BatchOut(BaseModel):
    """Reply to POST /v1/answers: one result for each question, in the same order."""

    answers: list[AnswerOut | ErrorOut]


class SearchOut(BaseModel):
    """Reply to POST /v1/search."""

    passages: list[PassageOut]
    """Best first."""
    corpus_version: str
    seconds: float


class ReadyOut(BaseModel):
    """Reply to GET /readyz."""

    status: Literal["ready", "not ready"]
    missing: list[str]
    """Names of the parts that do not answer yet: `model`, `corpus`."""
    model: str
    model_version: str
    """Which model that is, by its content: the commit of one on the Hub, a digest of a folder."""
    corpus_version: str
    framework: Framework
    passages_per_step: int
    max_steps: int
    max_question_chars: int
    keys_required: bool
