"""What engines answer, checked where it comes in: replies of OpenAI-compatible endpoints, outputs of vLLM.

An endpoint's reply is read by models that have only what we need and ignore everything else. What comes out
is text that can be stored, counts that fit their columns, and log-probabilities that are numbers; anything
else is an error of the question that was asked, never a step. A faulty reply may be asked for again at once
(`BrokenReplyError`); a refusal stays one until a later build asks again.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from steper_ray.errors import RowError
from steper_ray.schema import FinishReason
from steper_ray.text import short_message

FINISHED: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    # of other servers than OpenAI's and vLLM's
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
}
"""An engine's word, in lower case → why it stopped."""


FILTERED: Final = ("content_filter", "safety", "recitation", "refusal")
"""Words for a text that a filter of the endpoint has held back, or cut."""


UNFINISHED: Final = ("abort", "error")
"""Words of an engine whose text is no reply: its work was ended from outside, or by a fault of its own."""


THOUGHTS: Final = ("thinking", "reasoning")
"""Types of a message's parts that are a thought."""


LEAST_LOGPROB: Final = -9999.0
"""Log-probability of a token that is given as −∞, as vLLM's own server has it."""


class BrokenReplyError(RowError):
    """A reply that is not what was asked for; the same request may bring a better one."""


# What an endpoint's reply holds -----------------------------------------------------------------------

NothingIfEmpty: Final = BeforeValidator(lambda value: value or None)
"""Reads `{}`, `[]` and the like as nothing."""


Count = Annotated[int, Field(ge=0, lt=2**31)]
"""A number of tokens, as the columns of chains hold it."""


class PromptDetails(BaseModel):
    """Where a prompt's tokens come from."""

    cached_tokens: Count | None = None


class Usage(BaseModel):
    """Tokens of a request, by the endpoint's tokenizer."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Annotated[PromptDetails | None, NothingIfEmpty] = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens from the endpoint's prefix cache; None where it does not say."""
        details = self.prompt_tokens_details
        return None if details is None else details.cached_tokens


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens."""

    token_logprobs: list[float | None] | None = None


class CompletionChoice(BaseModel):
    """A completion."""

    text: str | None
    finish_reason: Any = None
    logprobs: Annotated[CompletionLogprobs | None, NothingIfEmpty] = None


class ChatToken(BaseModel):
    """A token of a chat's reply."""

    logprob: float | None = None


class ChatLogprobs(BaseModel):
    """Log-probabilities of the tokens of a chat's reply."""

    content: list[ChatToken] | None = None


class ContentPart(BaseModel):
    """A part of a message that is a list of them."""

    type: Any = "text"
    text: str | None = None
    refusal: str | None = None
    thinking: "str | list[ContentPart] | None" = None
    """A thought, as Mistral has it."""


class Message(BaseModel):
    """A chat's reply."""

    content: str | list[ContentPart | str] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    """A thought, as DeepSeek and vLLM have it; text wherever it is one."""
    reasoning: Any = None
    """The same, as OpenRouter and newer versions of vLLM have it."""


class ChatChoice(BaseModel):
    """A reply with what is said about it."""

    message: Message | None
    finish_reason: Any = None
    logprobs: Annotated[ChatLogprobs | None, NothingIfEmpty] = None


class CompletionReply(BaseModel):
    """The body of a reply to a request for a completion."""

    choices: list[CompletionChoice] = Field(min_length=1)
    usage: Annotated[Usage | None, NothingIfEmpty] = None


class ChatReply(BaseModel):
    """The body of a reply to a request for a chat."""

    choices: list[ChatChoice] = Field(min_length=1)
    usage: Annotated[Usage | None, NothingIfEmpty] = None


# Reading it -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's reply, checked."""

    text: str
    thought: str | None
    """A thought that the endpoint gives apart from the text."""
    finish_reason: FinishReason | None
    usage: Usage
    logprobs: tuple[float, ...]
    """Of those tokens of the reply for which the endpoint gives them."""


def read_completion(body: bytes) -> Reply:
    """The reply in the body of a completion.

    Raises BrokenReplyError for what is none, RowError for a text that was filtered, or that is not Unicode.
    """
    reply = _validated(CompletionReply, body)
    choice = reply.choices[0]
    _check_filter(choice.finish_reason)
    if choice.text is None:
        raise BrokenReplyError("choices.0.text: null")
    return Reply(
        text=checked_text(choice.text),
        thought=None,
        finish_reason=finish_reason(choice.finish_reason),
        usage=reply.usage or Usage(),
        logprobs=_logprobs(choice.logprobs.token_logprobs if choice.logprobs else None),
    )


def read_chat(body: bytes) -> Reply:
    """The reply in the body of a chat; raises what `read_completion` raises, and RowError for a refusal."""
    reply = _validated(ChatReply, body)
    choice = reply.choices[0]
    _check_filter(choice.finish_reason)
    if choice.message is None:
        raise BrokenReplyError("choices.0.message: null")
    content = choice.message.content
    parts = _parts(content)
    thoughts = [choice.message.reasoning_content, choice.message.reasoning]
    thought = next((said for said in thoughts if said and isinstance(said, str)), "")
    for refusal in (choice.message.refusal, *(part.refusal for part in parts)):
        if refusal:
            raise RowError(f"the model refuses: {short_message(refusal)}")
    tokens = choice.logprobs.content if choice.logprobs else None
    return Reply(
        text=checked_text("".join(part.text or "" for part in parts if part.type not in THOUGHTS)),
        thought=checked_text(thought + "".join(_thought(part) for part in parts)) or None,
        finish_reason=finish_reason(choice.finish_reason),
        usage=reply.usage or Usage(),
        logprobs=_logprobs([token.logprob for token in tokens or ()]),
    )


def _parts(content: str | list[ContentPart | str] | None) -> list[ContentPart]:
    """A message's content as parts."""
    given = [content] if isinstance(content, str) else content or []
    return [ContentPart(text=part) if isinstance(part, str) else part for part in given]


def _thought(part: ContentPart) -> str:
    """The thought in a part; empty in a part of the reply itself."""
    if part.type not in THOUGHTS:
        return ""
    inner = part.thinking or part.text or ""
    return inner if isinstance(inner, str) else "".join(each.text or "" for each in inner)


Body = TypeVar("Body", bound=BaseModel)


def _validated(model: type[Body], body: bytes) -> Body:
    """The body as a model; raises BrokenReplyError."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5,000 digits
        raise BrokenReplyError(f"not JSON: {short_message(error)}") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        if isinstance(values, dict) and values.get("error"):  # with the status of a success
            raise BrokenReplyError(short_message(values["error"])) from None
        finding = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, finding["loc"])) or "the whole"
        raise BrokenReplyError(f"{place}: {short_message(finding['msg'])}") from None


def _check_filter(word: Any) -> None:
    """Raises RowError where an endpoint's word for why it stopped says that it has filtered the text."""
    if isinstance(word, str) and word.lower() in FILTERED:
        raise RowError(f"a filter held the text back ({word})")
    if isinstance(word, str) and word.lower() in UNFINISHED:
        raise BrokenReplyError(f"the request was given up ({word})")


def _logprobs(values: Iterable[float | None] | None) -> tuple[float, ...]:
    """The log-probabilities that are given."""
    return tuple(checked_logprob(value) for value in values or () if value is not None)


# What all engines say ---------------------------------------------------------------------------------


def finish_reason(word: Any) -> FinishReason | None:
    """Why an engine stopped, from its own word for it; None where it says nothing."""
    if not isinstance(word, str) or not word:
        return None
    return FINISHED.get(word.lower(), "other")


def checked_text(text: str) -> str:
    """The text unchanged; raises RowError for half a character, which neither Parquet nor JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"half a character in the text ({text[error.start]!r})") from None
    return text


def checked_logprob(value: float, tokens: int = 1) -> float:
    """Log-probability of some tokens, at least LEAST_LOGPROB each.

    Raises BrokenReplyError for one that is no number: then what was written is noise too.
    """
    if math.isnan(value) or value == math.inf:
        raise BrokenReplyError(
            f"a log-probability is {value}; the model's weights or arithmetic are broken"
        )
    return max(value, LEAST_LOGPROB * tokens)
