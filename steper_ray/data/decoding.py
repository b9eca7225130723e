"""The encoding of a document: UTF-8 where it is valid UTF-8, whatever an HTML page says of itself.

Only otherwise the label counts that the page has, and it means what it means to browsers (the Encoding
Standard of the WHATWG).
"""

import codecs
import re
from typing import Final

from steper_ray.data.compression import check_not_compressed
from steper_ray.data.json_rows import UTF_16, likely_encoding
from steper_ray.errors import InputError

_CHARSET: Final = re.compile(rb"<meta[^>]*charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


_XML_ENCODING: Final = re.compile(rb"\s*<\?xml\s[^>]*encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)


_WIDER: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
}
"""Encodings for which browsers read a wider one, since files often hold it."""


_LABELS: Final = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "iso8859-6": "csiso88596e csiso88596i iso-8859-6-e iso-8859-6-i",
    "iso8859-7": "sun_eu_greek",
    "iso8859-8": "csiso88598e csiso88598i iso-8859-8-e iso-8859-8-i logical visual",
    "iso8859-15": "csisolatin9",
    "koi8-r": "koi koi8",
    "koi8-u": "koi8-ru",
    "mac-roman": "csmacintosh mac x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 windows-874",
    "gb18030": "csgb2312 gb_2312 gb_2312-80 x-gbk",
    "big5": "cn-big5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese x-euc-jp",
    "cp932": "windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 iso-ir-149 ks_c_5601-1989 ksc_5601 windows-949",
    **{f"cp{number}": f"x-cp{number}" for number in range(1250, 1259)},
}


_OF_BROWSERS: Final = {
    **{label: name for name, labels in _LABELS.items() for label in labels.split()},
    **{f"iso8859{part}": f"iso8859-{part}" for part in range(1, 17)},
}
"""Labels of the WHATWG's Encoding Standard that Python does not know."""


_TEXT_ENCODING: Final = re.compile(
    r"utf-8|cp125\d|cp866|cp874|cp932|cp949|iso8859-\d+|koi8-[rut]|mac-(?:roman|cyrillic)"
    r"|gb18030|big5(?:hkscs)?|euc_jp|iso2022_jp|tis-620"
)
"""Encodings that a page may name; Python has others, such as `rot13`, `utf-7` and `unicode_escape`."""


def decoded(content: bytes, where: str, html: bool) -> str:
    """The text of a document.

    where: names it in errors; html: whether it may name its encoding
    Raises InputError where it is in no encoding that is known, or compressed.
    """
    check_not_compressed(where, content[:16])
    try:
        if likely_encoding(content) != UTF_16:
            return content.decode("utf-8-sig")
        fault = f"it looks like {UTF_16}"
    except UnicodeDecodeError as error:
        fault = f"invalid UTF-8 at byte {error.start + 1}"
    label = _label(content) if html else ""
    if label and likely_encoding(content) != UTF_16:
        encoding = _encoding(label)
        if encoding is None:
            fault = f"unknown encoding {label!r}"
        else:
            try:
                return content.decode(encoding)
            except UnicodeDecodeError as error:
                fault = f"invalid {label.upper()} at byte {error.start + 1}"
    raise InputError(f"{where}: {fault}; save the file as UTF-8") from None


def _label(content: bytes) -> str:
    """The encoding that an HTML page says it is in, in its head or else in an XML declaration."""
    start = content[:2048]
    named = _CHARSET.search(start) or _XML_ENCODING.match(start)
    return named.group(1).decode() if named else ""


def _encoding(label: str) -> str | None:
    """Python's name of the encoding that browsers read for a label; None for one that is no text's."""
    try:
        name = _OF_BROWSERS.get(label.lower()) or codecs.lookup(label).name
    except LookupError:
        return None
    known = _WIDER.get(name, name)
    return known if _TEXT_ENCODING.fullmatch(known) else None
