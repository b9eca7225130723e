"""The base of every section of the run file.

A section stands beside the code it configures; `steper_ray.config` composes them.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, and closed: a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
