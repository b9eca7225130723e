"""The encoding of a document: UTF-8 where it is valid UTF-8, whatever an HTML page says of itself.

Only otherwise the label counts that the page has, and it means what it means to browsers.
"""

import codecs
import re
from typing import Final

from steper_ray.data.json_rows import UTF_16, likely_encoding
from steper_ray.errors import InputError

_CHARSET: Final = re.compile(rb"<meta[^>]*charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)


_WIDER: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Encodings for which browsers read a wider one, since files often hold it."""


_TEXT_ENCODING: Final = re.compile(
    r"utf-8|cp125\d|cp866|cp874|cp932|cp949|iso8859-\d+|koi8-[rut]|mac-(?:roman|cyrillic)"
    r"|gb18030|big5(?:hkscs)?|euc_jp|iso2022_jp|tis-620"
)
"""Encodings that a page may name; Python has others, such as `rot13`, `utf-7` and `unicode_escape`."""


def decoded(content: bytes, where: str, html: bool) -> str:
    """The text of a document.

    where: names it in errors; html: whether it may name its encoding
    Raises InputError where it is in no encoding that is known.
    """
    try:
        if likely_encoding(content) != UTF_16:
            return content.decode("utf-8-sig")
        fault = f"it looks like {UTF_16}"
    except UnicodeDecodeError as error:
        fault = f"invalid UTF-8 at byte {error.start + 1}"
    named = _CHARSET.search(content[:2048]) if html else None
    if named is not None and likely_encoding(content) != UTF_16:
        label = named.group(1).decode()
        encoding = _encoding(label)
        if encoding is None:
            fault = f"unknown encoding {label!r}"
        else:
            try:
                return content.decode(encoding)
            except UnicodeDecodeError as error:
                fault = f"invalid {label.upper()} at byte {error.start + 1}"
    raise InputError(f"{where}: {fault}; save the file as UTF-8") from None


def _encoding(label: str) -> str | None:
    """Python's name of the encoding that browsers read for a label; None for one that is no text's."""
    try:
        name = codecs.lookup(label).name
    except LookupError:
        return None
    known = _WIDER.get(name, name)
    return known if _TEXT_ENCODING.fullmatch(known) else None
