"""Compressed files: what their names say, what their first bytes say, and a bound on what they become."""

import io
from pathlib import PurePosixPath
from typing import Any, Final

from steper_ray.errors import InputError

COMPRESSIONS: Final = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
}
"""Suffixes that stand after the suffix of the format, in any case, and Arrow's names of what they mean.

Such files are decompressed as they are read."""


MAX_EXPANSION: Final = 250
"""Bytes that a compressed byte may become at most, in a file of more than `FREE_BYTES`.

Text becomes 3 to 20 times as small; gzip alone can make a thousand bytes of one, and files that do are
made to fill a machine."""


FREE_BYTES: Final = 1 << 28


def compression_of(name: str) -> str | None:
    """Arrow's name of the compression that a file's name says; None for a file that is not compressed."""
    return COMPRESSIONS.get(PurePosixPath(name).suffix.lower())


_MAGIC: Final = (
    (b"\x1f\x8b\x08", "gzip", ".gz"),
    (b"BZh91AY&SY", "bz2", ".bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"\xfd7zXZ\x00", "xz", ""),
    (b"PK\x03\x04", "zip", ""),
)
"""First bytes of compressed files, what they mean, and the suffix that such files have here, if any."""


def check_not_compressed(where: str, start: bytes) -> None:
    """Raises InputError for a file that is compressed and has another name, by its first bytes."""
    for magic, name, suffix in _MAGIC:
        if start.startswith(magic):
            file = PurePosixPath(where)
            can_be_named = (
                suffix and not compression_of(where) and file.suffix.lower() != ".parquet"
            )
            remedy = f"name it {file.name}{suffix}" if can_be_named else "unpack it"
            raise InputError(f"{where}: it is compressed ({name}); {remedy}")


class BoundedStream(io.RawIOBase):
    """A decompressed stream that is not too large for the file it comes from.

    size: bytes of the compressed file; where: names it in the InputError of a stream that is
    """

    def __init__(self, stream: Any, size: int, where: str) -> None:
        super().__init__()
        self._stream = stream
        self._remaining = max(FREE_BYTES, size * MAX_EXPANSION)
        self._where = where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._remaining -= len(content)
        if self._remaining < 0:
            raise InputError(
                f"{self._where}: becomes more than {MAX_EXPANSION} times as large when it is decompressed, "
                "which no text does; decompress it yourself if it is what it should be"
            )
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()
