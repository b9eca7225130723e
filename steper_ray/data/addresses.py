"""Addresses of rows and documents: files on disk, in S3 or Google Cloud Storage, Hub datasets.

An *address* is what a person writes in the run file: a file, a folder, a pattern (`data/*.jsonl`, `**` for
any depth), the same behind `s3://` or `gs://` (Arrow's own file systems) or behind any scheme that fsspec
has a driver for, or `hf:owner/name:config:split`. Keys come from the environment (AWS_…,
GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN), never from an address, so no run file and no message holds one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from steper_ray.data.compression import BoundedStream, compression_of
from steper_ray.errors import InputError
from steper_ray.text import short_message

DATA_SUFFIXES: Final = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".parquet")


DOCUMENT_SUFFIXES: Final = (".txt", ".md", ".markdown", ".html", ".htm")


HUB_FILES: Final = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""What the Hub and `datasets` write beside tables; no rows."""


HUB: Final = "hf:"


ARROW_SCHEMES: Final = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one split of a Hub dataset; plain text, so that it travels to Ray's workers."""

    root: str
    """The address that led to the source, which names its file system."""
    path: str
    """Path in that file system; empty for a Hub dataset."""
    name: str
    """Path below the folder or pattern of the address: the same on every machine."""

    def __str__(self) -> str:
        """The address to show: without the query, which configures the connection."""
        scheme, separator, _ = self.root.partition("://")
        if self.is_hub or not separator:
            return self.path or self.root
        return f"{scheme}://{self.path}"

    @property
    def found_by(self) -> str:
        """The address that led to the source, to show."""
        return _shown(self.root)

    @property
    def is_hub(self) -> bool:
        """Whether the source is a Hub dataset, not a file."""
        return _is_hub(self.root)

    @property
    def suffix(self) -> str:
        """Suffix of the format: `.jsonl`, also for `rows.jsonl.gz`."""
        return self._uncompressed.suffix.lower()

    @property
    def stem(self) -> str:
        """The file's name without suffixes."""
        return self._uncompressed.stem

    @property
    def is_compressed(self) -> bool:
        """Whether the name ends as those of compressed files do."""
        return compression_of(self.name) is not None

    @property
    def _uncompressed(self) -> PurePosixPath:
        path = PurePosixPath(self.name)
        return path.with_suffix("") if self.is_compressed else path

    @property
    def is_document(self) -> bool:
        """Whether the source is a text to cut into passages, not a table of rows."""
        return not self.is_hub and self.suffix in DOCUMENT_SUFFIXES

    def open(self) -> BinaryIO:
        """The bytes of the file from its start, decompressed. Raises OSError where it cannot be read."""
        system, _ = _filesystem(self.root)
        compression = compression_of(self.name)
        stream: Any = system.open_input_stream(self.path, compression=compression)
        if compression:
            size = system.get_file_info(self.path).size or 0
            stream = BoundedStream(stream, size, str(self))
        return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))

    def open_for_seeking(self) -> Any:
        """The bytes of the file as they are, as an Arrow file. Raises OSError where it cannot be read."""
        system, _ = _filesystem(self.root)
        return system.open_input_file(self.path)


@dataclass(frozen=True, slots=True)
class SourceListing:
    """The sources behind the addresses of one setting."""

    sources: list[Source]
    skipped_files: list[str]
    """Files of a folder that are hidden, or of a kind that cannot be read."""


def find_sources(
    addresses: str | Sequence[str], setting: str, suffixes: tuple[str, ...] = DATA_SUFFIXES
) -> SourceListing:
    """The sources behind one or several addresses, each once, sorted within an address.

    A folder gives its files with one of `suffixes`, at any depth; a file or a pattern that is named is
    taken as it is.

    setting: its name for errors, as `corpus.passages`
    Raises InputError for an address with nothing readable behind it.
    """
    named = [addresses] if isinstance(addresses, str) else list(addresses)
    if not any(named):
        raise InputError(
            f"{setting} is not set; name a file, a folder, a pattern, an s3:// or gs:// address, "
            "or hf:owner/name:config:split"
        )
    sources: dict[str, Source] = {}
    skipped_files: list[str] = []
    for address in named:
        try:
            listing = _find(address, setting, suffixes)
        except UnicodeError:
            raise InputError(
                f"{setting}: {short_message(_shown(address))}: it, or a file in it, has a name that is no "
                "UTF-8; rename it"
            ) from None
        except OSError as error:
            raise InputError(
                f"{setting}: {_shown(address)}: cannot be read ({short_message(error)}); check the address "
                "and the credentials in the environment"
            ) from None
        for source in listing.sources:
            sources.setdefault(str(source), source)
        skipped_files += listing.skipped_files
    return SourceListing(list(sources.values()), skipped_files)


def _find(address: str, setting: str, suffixes: tuple[str, ...]) -> SourceListing:
    import pyarrow.fs as arrow_fs

    if not address:
        raise InputError(f"{setting}: an empty address is among those given; take it out")
    if _is_hub(address):
        return SourceListing([Source(address, "", address)], [])
    remote = "://" in address
    head, signs = (address.partition("?")[0], "*[") if remote else (address, "*[?")
    if any(sign in head for sign in signs) and (remote or not Path(address).expanduser().exists()):
        return _match(address, setting)
    system, path = _filesystem(address, setting)
    info = system.get_file_info(path)
    if info.type == arrow_fs.FileType.File:
        return SourceListing([Source(_rooted(address), path, PurePosixPath(path).name)], [])
    if info.type != arrow_fs.FileType.Directory:
        raise InputError(f"{setting}: {_shown(address)}: no such file; check the path")
    listing = SourceListing([], [])
    for below, file in _files(system, path, recursive=True):
        source = Source(_rooted(address), file, below)
        hidden = any(part.startswith(".") for part in below.split("/"))
        if source.suffix in suffixes and not hidden:
            listing.sources.append(source)
        else:
            listing.skipped_files.append(below)
    _leave_out_descriptions(listing)
    if all(source.is_document for source in listing.sources):
        _refuse_saved_dataset(listing, setting, address)
    if not listing.sources:
        raise InputError(
            f"{setting}: {_shown(address)}: no {_listed(suffixes)} file in this folder "
            f"({len(listing.skipped_files)} others)"
        )
    return listing


def _leave_out_descriptions(listing: SourceListing) -> None:
    """Skip what describes tables beside them, as in a snapshot of a Hub data set.

    A README is a document like others where there are no tables, or other documents.
    """
    documents = [s for s in listing.sources if s.is_document]
    tables = [s for s in listing.sources if not s.is_document and not _describes(s.name)]
    readme_only = all(source.stem.lower() == "readme" for source in documents)
    kept = {*tables} if tables and readme_only else {*tables, *documents}
    listing.skipped_files.extend(s.name for s in listing.sources if s not in kept)
    listing.sources[:] = [source for source in listing.sources if source in kept]


def _refuse_saved_dataset(listing: SourceListing, setting: str, address: str) -> None:
    """Raises InputError for a folder that `datasets` wrote in its own format."""
    has_arrow = any(name.endswith(".arrow") for name in listing.skipped_files)
    if has_arrow and any(map(_describes, listing.skipped_files)):
        folder = _shown(address)
        as_hub = "" if "://" in address else f"name it {HUB}{folder}, or "
        raise InputError(
            f"{setting}: {folder}: a folder that save_to_disk of datasets wrote; {as_hub}write it as a "
            "table with to_parquet"
        )


def _describes(name: str) -> bool:
    return PurePosixPath(name).name in HUB_FILES


def _match(address: str, setting: str) -> SourceListing:
    """The files that a pattern names."""
    plain, question, query = address.partition("?") if "://" in address else (address, "", "")
    if "://" not in plain:
        plain = str(Path(plain).expanduser().absolute())
        base, parts = _split_pattern(Path(plain))
    else:
        first = min(at for at in map(plain.find, "*[?") if at >= 0)
        base, _, pattern = plain[:first].rpartition("/")
        parts = (pattern + plain[first:]).split("/")
    system, path = _filesystem((base or "/") + question + query, setting)
    sources = [
        Source(_rooted((base or "/") + question + query), file, below)
        for below, file in _files(system, path, recursive=len(parts) > 1 or "**" in parts)
        if _matches(below.split("/"), parts)
    ]
    if not sources:
        raise InputError(f"{setting}: {_shown(address)}: no such file; nothing matches the pattern")
    return SourceListing(sources, [])


def _split_pattern(path: Path) -> tuple[str, list[str]]:
    """The folder that a pattern spells out, which may have signs in its name, and the pattern below it."""
    folder, *parts = map(Path, path.parts)
    while len(parts) > 1 and (
        not any(sign in parts[0].name for sign in "*[?") or (folder / parts[0]).is_dir()
    ):
        folder /= parts.pop(0)
    return str(folder), [part.name for part in parts]


def _matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _files(system: Any, folder: str, *, recursive: bool) -> list[tuple[str, str]]:
    """(path below the folder, path) of each file, sorted."""
    import pyarrow.fs as arrow_fs

    selector = arrow_fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    return sorted(
        (info.path.removeprefix(folder).lstrip("/"), info.path)
        for info in system.get_file_info(selector)
        if info.type == arrow_fs.FileType.File
    )


def _filesystem(address: str, setting: str = "") -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import pyarrow as pa
    import pyarrow.fs as arrow_fs

    if "://" not in address:
        return arrow_fs.LocalFileSystem(), str(Path(address).expanduser().absolute())
    where = f"{setting}: {_shown(address)}" if setting else _shown(address)
    if urlsplit(address).password is not None:
        raise InputError(
            f"{where}: an address holds no keys; give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for one)"
        )
    try:
        if address.partition("://")[0] in ARROW_SCHEMES:
            system, path = arrow_fs.FileSystem.from_uri(address)
        else:
            from fsspec.core import url_to_fs

            files, path = url_to_fs(address)
            system = arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(files))
    except (pa.ArrowInvalid, ValueError, ImportError) as error:
        raise InputError(
            f"{where}: cannot be opened ({short_message(error)}); check the address"
        ) from None
    return system, path


def _is_hub(address: str) -> bool:
    return address.startswith(HUB) and not address.startswith("hf://")


def _rooted(address: str) -> str:
    """An address made to mean the same in every process."""
    return address if "://" in address else str(Path(address).expanduser().absolute())


def _shown(address: str) -> str:
    """An address as it may be printed: without keys and query."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return str(Path(address).expanduser())
    rest = rest.partition("?")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _listed(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffixes[:-1]) + f" or {suffixes[-1]}"
