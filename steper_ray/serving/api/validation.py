"""What is wrong with a body, as a refusal that shows nothing of its values."""

import json
from collections.abc import Callable
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic_core import PydanticCustomError

from steper_ray.serving.refusals import RefusedError

LONGEST_NAME: Final = 40
"""Largest number of characters of a body's key that an error shows."""


def invalid_body(error: RequestValidationError) -> RefusedError:
    """The first validation error of a body, without the value that was given."""
    finding = error.errors()[0]
    place = ".".join(str(part)[:LONGEST_NAME] for part in finding["loc"] if part != "body")
    if finding["type"] == "json_invalid":
        return RefusedError(400, "bad_json", "the body is not JSON: " + finding["ctx"]["error"])
    message = f"{place or 'body'}: {finding['msg'][0].lower()}{finding['msg'][1:]}"
    return RefusedError(422, "invalid", message, param=place or None)


def check_plain_json(dump: Callable[[], Any]) -> None:
    """Refuses what Python reads and JSON does not have, wherever it stands in a body.

    That is NaN, infinite numbers, and halves of surrogate pairs, which no tokenizer takes. Raises
    PydanticCustomError, which makes it a validation error.

    dump: gives the body
    """
    try:
        json.dumps(dump(), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("text", "Input should be valid Unicode") from None
    except (ValueError, RecursionError):
        raise PydanticCustomError("json", "Input should be plain JSON") from None
