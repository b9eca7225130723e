"""What is secret, and settings and names that are fit to be shown.

A card or a log may be published, so what is shown holds no path of the machine it was written on and
nothing secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

SECRET_TEXT: Final = (
    r"(?<![A-Za-z0-9])(hf_|api_org_)[A-Za-z0-9]{30}"
    r"|^sk-[\w-]{20,}$"
    r"|^\w+://[^/?#]*:[^/?#]*@"
    r"|^\w+://.*[?&][\w-]*(key|token|secret|passw|signature)[\w-]*=[^&]"
)


SECRETS: Final = ("token", "key", "passw", "passphrase", "secret", "credential")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, as `public_settings` leaves them."""
    return yaml.safe_dump(
        public_settings(settings),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=1_000_000,
    )


def public_name(name: str) -> str:
    """The last part of a local path or an address; a Hub name and other text as it is."""
    if not name or is_on_hub(name):
        return name
    name = re.sub(r"^\w+://([^/]*@)?", "", name)
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "local folder"


def is_on_hub(name: str) -> bool:
    """Whether a name is that of a Hub repository, not of a local folder."""
    return is_repo_name(name) and not Path(name).is_dir()


def public_settings(value: Any) -> Any:
    """Settings as plain YAML values, without what `is_secret` and with `public_name` for text."""
    if isinstance(value, Mapping):
        return {
            str(name): public_settings(inner)
            for name, inner in value.items()
            if not is_secret(str(name), inner)
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [public_settings(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return public_name(str(value))


def holds_secret(text: str) -> bool:
    """Whether a text has a token of the Hub in it, is a key, or is an address with a password or a key."""
    return re.search(SECRET_TEXT, text) is not None


def is_secret(name: str, value: Any) -> bool:
    """Whether a setting may be a password or a token for access, and must not be shown.

    It may be as soon as one of SECRETS occurs in its name, or its text holds a token. Two words are not
    counted: `tokenizer`, and `tokens` (as in `max_prompt_tokens`) where the value is a number, some
    numbers or nothing.
    """
    name = re.sub(r"(?<![a-z])tokenizer(?![a-z])", "", name.lower())
    values = value if isinstance(value, list | tuple) else (value,)
    if all(part is None or isinstance(part, int | float) for part in values):
        name = re.sub(r"(?<![a-z])tokens(?![a-z])", "", name)
    return any(secret in name for secret in SECRETS) or any(
        isinstance(part, str) and holds_secret(public_name(part)) for part in values
    )


def is_repo_name(name: str) -> bool:
    """Whether a name is `owner/name` in the form that the Hub accepts."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1
