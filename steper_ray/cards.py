"""What the cards of a student and of a data set share: text as Markdown, names without paths, no secrets.

A card may be published, so it holds no path of the machine it was written on and nothing secret, and
names that a person chose are written so that Markdown reads them as text.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from steper_ray.hub import is_repo_name

CARD_FILE: Final = "README.md"
SECRET_TEXT: Final = (
    r"(?<![A-Za-z0-9])(hf_|api_org_)[A-Za-z0-9]{30}"
    r"|^sk-[\w-]{20,}$"
    r"|^\w+://[^/?#]*:[^/?#]*@"
    r"|^\w+://.*[?&][\w-]*(key|token|secret|passw|signature)[\w-]*=[^&]"
)
SECRETS: Final = ("token", "key", "passw", "passphrase", "secret", "credential")


def render_template(package: str, name: str, **values: Any) -> str:
    """A Jinja template of a package, with the filters `text` (see `as_text`) and `fenced`.

    A value that is missing is an error (jinja2.UndefinedError).
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = as_text
    environment.filters["fenced"] = fenced
    template = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def as_text(value: str) -> str:
    """A name as Markdown that renders as that name, on one line, also in the cell of a table.

    Signs that mean something to Markdown become character references; what cannot be printed goes.
    """
    special = r"[\\`*{}\[\]<>#|~&!$@]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, lambda sign: f"&#{ord(sign[0])};", one_line(value)) or "–"


def one_line(text: str) -> str:
    """The text on one line, with single spaces, without what cannot be printed."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code that nothing in it can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


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
