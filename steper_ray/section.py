"""The base of every section of the run file.

A section stands beside the code it configures; `steper_ray.config` composes them.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

HIDDEN: Final = "hidden"
"""Type of findings whose value must not be shown."""


class Section(BaseModel):
    """Immutable, and closed: a key it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


def _environment_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or value.startswith(("hf_", "sk_")):
        raise PydanticCustomError(
            HIDDEN, "must name an environment variable that holds the key or token, not be one"
        )
    return value


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
"""The name of an environment variable with a secret; refuses the secret itself and does not repeat it."""
