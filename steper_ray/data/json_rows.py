"""Rows of JSON Lines, of a JSON list, and of one JSON object that holds the list.

A list is read piece by piece: HotpotQA's 560 MB take a few MB of memory. A row with a number too large for
Python keeps its other columns; a row nested too deeply is broken, and the rows after it are read.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from steper_ray.data.compression import check_not_compressed
from steper_ray.data.json_objects import wrapped_rows
from steper_ray.errors import InputError
from steper_ray.text import short_message

Row = dict[str, Any]


CHUNK: Final = 1 << 20


LONGEST_ROW: Final = 1 << 28
"""Bytes or characters of a row at most; beyond that the file is taken to be broken."""


BOM: Final = b"\xef\xbb\xbf"


_SPACE: Final = re.compile(r"\s*")


_NESTING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


_MAX_DIGITS: Final = 4000
"""Of a whole number: Python refuses longer ones, as reading them takes the square of their length."""


UTF_16: Final = "UTF-16"


BYTES_AS_HALVES: Final = "surrogateescape"
"""How bytes that are no UTF-8 are decoded where they must not stop the rows around them: as characters that
UTF-8 has no bytes for."""


TOO_DEEP: Final = "nested too deeply to be read"


def read_lines(where: str, stream: BinaryIO) -> Iterator[tuple[int, Row | InputError]]:
    """The objects of JSON Lines."""
    number = 0
    while line := stream.readline(LONGEST_ROW):
        number += 1
        if len(line) == LONGEST_ROW:
            raise InputError(f"{where}: row {number}: longer than {LONGEST_ROW >> 20} MiB")
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, _read_line(f"{where}: row {number}", line)


def _read_line(where: str, line: bytes) -> Row | InputError:
    try:
        return _object(where, decode(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return not_utf8(where, error, line)
    except json.JSONDecodeError as error:
        return InputError(f"{where}: not valid JSON ({error.msg}); write one object a line")
    except RecursionError:
        return InputError(f"{where}: {TOO_DEEP}")


def read_object(where: str, stream: BinaryIO) -> Iterator[tuple[int, Row | InputError]]:
    """The rows in a JSON object (`steper_ray.data.json_objects`); without any, the object as a row."""
    content = stream.read(LONGEST_ROW)
    if len(content) == LONGEST_ROW:
        raise InputError(
            f"{where}: one object of more than {LONGEST_ROW >> 20} MiB; write a list, or one object a line"
        )
    row = _read_line(where, content.removeprefix(BOM))
    if isinstance(row, InputError):
        raise row
    for number, item in enumerate(wrapped_rows(where, row) or [row], 1):
        yield number, _object(f"{where}: row {number}", item)


def read_list(
    where: str, stream: BinaryIO, chunk: int = CHUNK
) -> Iterator[tuple[int, Row | InputError]]:
    """The items of one JSON list, holding little more than one of them at a time.

    chunk: characters read at once
    """
    characters = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=BYTES_AS_HALVES)
    number = 0
    buffer, at = _at_character(characters, "", 0, chunk)
    assert buffer[at] == "["
    at += 1
    while True:
        buffer, at = _at_character(characters, buffer, at, chunk)
        sign = buffer[at : at + 1]
        if sign == "]":
            break
        if number:
            if sign != ",":
                shown = repr(sign) if sign else "the end of the file"
                raise InputError(f"{where}: after row {number}: expected ',' or ']', got {shown}")
            buffer, at = _at_character(characters, buffer, at + 1, chunk)
        number += 1
        here = f"{where}: row {number}"
        buffer, at, item = _read_item(here, characters, buffer, at, chunk)
        yield number, item
    buffer, at = _at_character(characters, buffer, at + 1, chunk)
    if at < len(buffer):
        raise InputError(f"{where}: something stands after the end of the list")


def _read_item(
    where: str, characters: io.TextIOWrapper, buffer: str, at: int, chunk: int
) -> tuple[str, int, Row | InputError]:
    """The next item of a list, and the buffer with the position after it."""
    while True:
        try:
            item, end = raw_decode(buffer, at)
        except json.JSONDecodeError as error:  # either broken, or not read to its end yet
            fault = f"not valid JSON ({error.msg})"
        except RecursionError:
            closed = _end_of_value(buffer, at)
            if closed is not None:
                return buffer, closed, InputError(f"{where}: {TOO_DEEP}")
            fault = TOO_DEEP
        else:
            # a number at the buffer's end may continue after it
            if end < len(buffer) or isinstance(item, dict | list):
                broken = not_utf8_in(where, buffer[at:end])
                return buffer, end, broken or _object(where, item)
            fault = "not valid JSON (the list has no end)"
        more = characters.read(max(chunk, len(buffer) - at))
        if not more or len(buffer) - at > LONGEST_ROW:
            raise InputError(
                f"{where}: {fault}, so nothing after it can be read; repair the file or fetch it again"
            )
        buffer, at = buffer[at:] + more, 0


def _end_of_value(text: str, at: int) -> int | None:
    """Where a list or object ends, by its brackets alone; None if that is not in the text."""
    depth = 0
    for match in _NESTING.finditer(text, at):
        sign = match.group()
        depth += (sign in "[{") - (sign in "]}")
        if depth == 0:
            return match.end()
    return None


def _at_character(
    characters: io.TextIOWrapper, buffer: str, at: int, chunk: int
) -> tuple[str, int]:
    """Buffer and position of the next character that is no space; position at its end if none is."""
    while True:
        match = _SPACE.match(buffer, at)
        at = match.end() if match else at
        if at < len(buffer):
            return buffer, at
        buffer, at = characters.read(chunk), 0
        if not buffer:
            return buffer, at


def _object(where: str, row: object) -> Row | InputError:
    if isinstance(row, dict):
        return row
    return InputError(f"{where}: expected a JSON object with named fields")


def _whole_number(digits: str) -> int | float:
    """A whole number; infinite where it has too many digits, which no column takes."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float("inf")


_PLAIN: Final = json.JSONDecoder()


_LENIENT: Final = json.JSONDecoder(parse_int=_whole_number)
"""Slower, since each whole number calls Python."""


def decode(text: str) -> Any:
    """A JSON value. Raises JSONDecodeError and RecursionError."""
    return _either(lambda decoder: decoder.decode(text))


def raw_decode(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at a position, and where it ends. Raises as `decode` does."""
    value, end = _either(lambda decoder: decoder.raw_decode(text, at))
    return value, end


def _either(read: Callable[[json.JSONDecoder], Any]) -> Any:
    try:
        return read(_PLAIN)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number with more digits than Python takes
        return read(_LENIENT)


def not_utf8(where: str, error: UnicodeDecodeError, content: bytes = b"") -> InputError:
    """The error for bytes that are no UTF-8, with the encoding they are likely in."""
    guess = likely_encoding(content or bytes(error.object))
    at = (
        f" at byte {error.start + 1} of the line"
        if content
        else f" ({short_message(error.reason)})"
    )
    return InputError(f"{where}: invalid UTF-8{at}; it looks like {guess}: save the file as UTF-8")


def not_utf8_in(where: str, text: str) -> InputError | None:
    """The error of a text that was decoded by BYTES_AS_HALVES from bytes that are no UTF-8, else None."""
    try:
        text.encode("utf-8")  # several times as fast as a search for such characters
        return None
    except UnicodeEncodeError:
        content = text.encode("utf-8", BYTES_AS_HALVES)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(where, error)
    return None


def check_encoding(where: str, start: bytes) -> None:
    """Raises InputError for a file that is compressed or in UTF-16, by its first bytes.

    ASCII in UTF-16 would pass for UTF-8.
    """
    check_not_compressed(where, start)
    if likely_encoding(start) == UTF_16 and not start.startswith(b"PAR1"):
        raise InputError(f"{where}: it looks like {UTF_16}: save the file as UTF-8")


def likely_encoding(content: bytes) -> str:
    """The name of the encoding that bytes which are no UTF-8 are most likely in."""
    start = content[:64]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start.count(0) * 3 > len(start):
        return UTF_16
    return "Windows-1252 or another encoding of one byte a character"
