"""Bodies of OpenAI's interface: typed where the server itself reads them, all else as it was sent.

Clients send every field that they know, with nulls and defaults, and new ones each year. So no field is
refused for its name: what a model does not follow is ignored, and named in the reply (`IGNORED_HEADER`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from steper_ray.engines.protocol import Sampling
from steper_ray.serving.api.openai_errors import unsupported
from steper_ray.serving.api.schema import TOO_LARGE, AnyText
from steper_ray.serving.api.validation import LONGEST_NAME, check_plain_json
from steper_ray.serving.refusals import RefusedError

IGNORED_HEADER: Final = "x-ignored-parameters"
"""Header with the names of the request's fields that had no effect."""


MAX_NAMED: Final = 30
"""Most names in `IGNORED_HEADER`."""


TEXT_PARTS: Final = frozenset(
    {"text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text"}
)
"""Types of the parts of a message that are text; no model here sees pictures."""


MAX_SEED: Final = 2**63
"""Seeds are less than this, as vLLM's."""


class OpenAIBody(BaseModel):
    """A body of OpenAI's interface: wrong types are refused, unknown fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="after")
    def _plain_json(self) -> Self:
        check_plain_json(self.model_dump)
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The fields of the request that are not null."""
        return {k: v for k, v in self.model_dump().items() if v is not None}


class Message(BaseModel):
    """A message of a conversation, as a client sends it or sends it back."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: AnyText
    content: AnyText | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        """The text of the message."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class StreamOptions(OpenAIBody):
    """Options of a stream."""

    include_usage: bool | None = None


def _none_as_default(value: Any) -> Any:
    return False if value is None else value


Flag = Annotated[bool, BeforeValidator(_none_as_default)]
"""False where it is null."""


class SampledBody(OpenAIBody):
    """Fields that several of OpenAI's requests share."""

    model: AnyText
    stream: Flag = False
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-MAX_SEED, lt=MAX_SEED)
    user: AnyText | None = None

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters for the loop, whose steps count seeds up from this one."""
        top_p = 1.0 if self.top_p is None else self.top_p
        seed = None if self.seed is None else self.seed % (MAX_SEED // 2)
        return Sampling(self.temperature or 0.0, top_p, seed)


class ChatBody(SampledBody):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    stop: AnyText | list[AnyText] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    n: int | None = Field(default=None, ge=1, lt=TOO_LARGE)

    @property
    def question(self) -> str:
        """The last user message; raises RefusedError without one, and for one that is not only text."""
        asked = [message for message in self.messages if message.role == "user"]
        if asked:
            check_text_only(asked[-1].content, "messages")
        return question_in([message.text for message in asked], "messages")

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def question_in(asked: list[str], param: str) -> str:
    """The last of the user's messages; raises RefusedError without one."""
    if not asked or not asked[-1].strip():
        raise RefusedError(422, "no_question", f"{param}: no user message with text", param=param)
    return asked[-1].strip()


def check_text_only(content: Any, param: str) -> None:
    """Raises RefusedError for the content of a message that has other parts than text."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in TEXT_PARTS:
            raise unsupported(param, "a part of a message is not text")
        if not isinstance(part.get("refusal" if kind == "refusal" else "text"), str):
            raise RefusedError(422, "invalid", f"{param}: a part has no text", param=param)


def loop_ignores(body: SampledBody, followed: Iterable[str]) -> list[str]:
    """Fields of a request that the reasoning loop ignores.

    followed: those that it follows beside `SampledBody`'s
    Raises RefusedError where the reply would not have the form that the request asks for.
    """
    given = body.given
    if given.get("n", 1) != 1:
        raise unsupported("n", "this model gives one answer; ask again with another seed")
    if given.get("tool_choice") not in (None, "auto", "none"):
        raise unsupported("tool_choice", "this model calls no tools")
    for name, value in (
        ("response_format", given.get("response_format")),
        ("text", _in(given.get("text"), "format")),
    ):
        if _in(value, "type") not in (None, "text"):
            raise unsupported(name, "this model answers in plain text")
    known = {*SampledBody.model_fields, *followed, "n"}
    return [name for name in given if name not in known]


def _in(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """`IGNORED_HEADER`, if anything was ignored."""
    plain = [re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:LONGEST_NAME] for name in names]
    return {IGNORED_HEADER: ", ".join(plain[:MAX_NAMED])} if plain else {}
