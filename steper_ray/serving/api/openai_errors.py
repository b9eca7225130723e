"""Errors of OpenAI's interface: its status 400 and its codes, where the server's own interface says 422."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from steper_ray.serving.api.validation import invalid_body
from steper_ray.serving.refusals import RefusedError

TOO_LONG: Final = "context_length_exceeded"
"""OpenAI's code for a prompt that is too long; clients shorten the conversation then."""


IN_WORDS: Final = ", which is longer than the model's context length"
"""Words by which LiteLLM knows such an error; it does not look at the code."""


CODES: Final = {"too_long": TOO_LONG, "invalid": "invalid_value"}
"""The server's own code → OpenAI's, where they differ."""


class OpenAIRoute(APIRoute):
    """A route whose errors are OpenAI's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler."""
        handle: Any = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response: Response = await handle(request)
            except RequestValidationError as error:
                raise as_openai(invalid_body(error), _code(error)) from None
            except RefusedError as refused:
                raise as_openai(refused) from None
            return response

        return handler


def as_openai(refused: RefusedError, code: str | None = None) -> RefusedError:
    """A refusal as OpenAI would word it.

    code: of a wrong field, where it is known what is wrong
    """
    if refused.code == "invalid" and code:
        refused.code = code
    if refused.code == "too_long" and "context length" not in refused.message:
        refused.message += IN_WORDS
    refused.code = CODES.get(refused.code, refused.code)
    refused.status = 400 if refused.status == 422 else refused.status
    return refused


def unsupported(param: str, message: str) -> RefusedError:
    """Refusal of a value that the asked model cannot do."""
    return RefusedError(400, "unsupported_value", f"{param}: {message}", param=param)


def _code(error: RequestValidationError) -> str:
    kind = error.errors()[0]["type"]
    if kind == "missing":
        return "missing_required_parameter"
    return "invalid_type" if kind.endswith("_type") else "invalid_value"
