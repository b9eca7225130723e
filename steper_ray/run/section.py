"""The base of every section of the run file.

A section stands beside the code it configures; `steper_ray.run.loading` composes them.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

HIDDEN: Final = "hidden"
"""Type of findings whose value must not be shown."""


class Section(BaseModel):
    """Immutable, and closed: a key it does not know is an error. Numbers are finite."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


EXPECTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "keys with values",
    "model": "a section with keys",
}
"""Start of the type of pydantic's findings about a value of another type → what was expected instead."""


def first_reason(error: ValidationError) -> str:
    """What was found first, to stand after a colon."""
    return reason_of(error.errors()[0])


def expected_by(finding: Mapping[str, Any]) -> str | None:
    """What a finding of pydantic's says was expected instead; None if the value has the right type."""
    if finding["type"] == "literal_error":
        return str(finding["ctx"]["expected"])
    kind, _, rest = finding["type"].partition("_")
    of_type = rest in ("type", "parsing", "parsing_size", "from_float")
    return EXPECTED.get(kind) if of_type else None


def reason_of(finding: Mapping[str, Any]) -> str:
    """What is wrong by a finding of pydantic's, to stand after a colon."""
    expected = expected_by(finding)
    if expected is not None and finding["type"] != "literal_error":
        return f"expected {expected}"
    message = finding["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be", 1)
    return f"{message[0].lower()}{message[1:]}"


def is_hidden(error: ValidationError) -> bool:
    """Whether a value that was found wrong must not be shown."""
    return any(finding["type"] == HIDDEN for finding in error.errors())


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question with the known name nearest to an unknown one; None if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else None


PATH: Final = "path"
"""Marks types of text in which the run file resolves `~`, environment variables and `{run.dir}`."""


Address = Annotated[str, PATH]
"""A file, folder or pattern, or an address of rows that is not on this machine."""


def local_path(value: str) -> str:
    """The path unchanged; raises ValueError for an address, which a path would be made of in silence."""
    if "://" in value:
        raise ValueError(
            "must be a local path, not an address; mount that storage, or copy what is there, and give "
            "the path"
        )
    return value


LocalPath = Annotated[str, PATH, AfterValidator(local_path)]
"""A file or folder of this machine's file system, or a name on the Hub where a model is meant."""


def _environment_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or value.startswith(("hf_", "sk_")):
        raise PydanticCustomError(
            HIDDEN, "must name an environment variable that holds the key or token, not be one"
        )
    return value


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
"""The name of an environment variable with a secret; refuses the secret itself and does not repeat it."""
