"""Model folders: whether one is usable, its size and its identity."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

from steper_ray.errors import InputError
from steper_ray.models.hub import (
    Shapes,
    cached_folder,
    hub_commit,
    hub_shapes,
    weight_file_names,
)
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.run.identity import digest


def check_model(model: str, setting: str, revision: str | None = None) -> str:
    """The model unchanged if it is a Hugging Face folder, or the name of one on the Hub.

    setting:  its name for errors, as `train.model`
    revision: only a model on the Hub may have one
    """
    if not model:
        raise InputError(f"{setting} is not set; name a Hugging Face model folder or a Hub model")
    folder = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    if folder.is_dir():
        if revision is not None:
            raise InputError(
                f"{setting}: {model} is a folder, which has no revision ({revision}); a revision names a "
                "commit, branch or tag of a model on the Hub"
            )
        if not (folder / "config.json").is_file():
            raise InputError(f"{setting}: {model}: not a model folder (no config.json in it)")
        if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise InputError(f"{setting}: {model}: not a model folder (no weights in it)")
    elif folder.exists() or looks_like_path:
        raise InputError(f"{setting}: {model}: no such model folder; check the path")
    return model


def resolved_model(model: str) -> str:
    """The model itself where its folder is a link, which may lead to another one later."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_symlink() else model


def model_shapes(
    model: str, revision: str | None = None, hub: HubConfig = DEFAULTS
) -> Shapes | None:
    """Shape and bytes of each tensor of a model's safetensors; None where they cannot be told.

    No weights are fetched: of a model on the Hub that is not on this machine, the files' heads are.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        commit = hub_commit(model, revision, hub)
        cached = cached_folder(model, commit)
        if cached is None:
            return hub_shapes(model, commit)
        folder = cached
    files = _weight_files(folder)
    return {name: size for file in files for name, size in _shapes_in(file)} or None


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads; a folder may hold the same weights in another form."""
    named = sorted(folder / name for name in weight_file_names(folder))
    return [file for file in named if file.is_file()] or sorted(folder.glob("*.safetensors"))


def model_size(
    model: str, revision: str | None = None, hub: HubConfig = DEFAULTS
) -> tuple[int | None, int | None]:
    """(parameters, bytes) of a model's safetensors; (None, None) where they cannot be told."""
    shapes = model_shapes(model, revision, hub)
    if shapes is None:
        return None, None
    parameters = sum(prod(shape) for shape, _ in shapes.values())
    return parameters, sum(size for _, size in shapes.values())


def model_identity(
    model: str, revision: str | None = None, hub: HubConfig = DEFAULTS
) -> dict[str, str]:
    """Identity of a model by its content: the same for a copied folder, another for other weights.

    For a folder, a digest of each part: `weights` (every tensor's name, type, shape and a sample of its
    bytes; no file is read whole), `config`, `generation_config`, `tokenizer`, `chat_template`, and `code`
    of its own. How a student is asked (`steper.json`) is no part of it. For a Hub name, the commit.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        commit = hub_commit(model, revision, hub)
        return {"name": model, **({"commit": commit} if commit else {"revision": revision or ""})}
    template = [
        file.read_text(encoding="utf-8")
        for file in sorted([*folder.glob("chat_template.*"), *folder.glob("*chat_templates/*")])
    ]
    inner = _json_of(folder / "tokenizer_config.json").get("chat_template")
    return {
        "weights": _weights_digest(folder),
        "config": digest([_json_of(folder / name) for name in CONFIG_FILES]),
        "generation_config": digest(_json_of(folder / "generation_config.json")),
        "tokenizer": _tokenizer_digest(folder),
        "chat_template": digest([template, inner]),
        "code": digest([[f.name, f.read_text("utf-8")] for f in sorted(folder.glob("*.py"))]),
    }


def model_version(model: str, hub: HubConfig = DEFAULTS) -> str:
    """Short name of a model's identity: its commit on the Hub, else a digest of its content."""
    identity = model_identity(model, hub=hub)
    return identity.get("commit") or digest(identity)[:12]


def pinned(model: str, revision: str | None, hub: HubConfig = DEFAULTS) -> str | None:
    """The revision with which every process loads the same weights: the commit, where it is known.

    None for a folder.
    """
    if Path(model).expanduser().is_dir():
        return None
    return hub_commit(model, revision, hub) or revision


CONFIG_FILES: Final = ("config.json", "adapter_config.json", "quantize_config.json")


TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


ORIGIN_KEYS: Final = ("_name_or_path", "name_or_path", "transformers_version")
"""Keys of configurations that name the origin of a model, which is no part of its identity."""


SAMPLE_BYTES: Final = 64
"""Bytes that are read at the start, in the middle and at the end of a tensor."""


def _json_of(file: Path) -> dict[str, Any]:
    """Values of a configuration without the ORIGIN_KEYS; {} where the file is missing."""
    if not file.is_file():
        return {}
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: not JSON; fetch the model again") from None
    if not isinstance(values, dict):
        return {"": values}
    return {name: value for name, value in values.items() if name not in ORIGIN_KEYS}


def _tokenizer_digest(folder: Path) -> str:
    config = _json_of(folder / "tokenizer_config.json")
    config.pop("chat_template", None)
    hasher = hashlib.sha256(digest(config).encode())
    for name in (*TOKENIZER_FILES, *sorted(file.name for file in folder.glob("*.tiktoken"))):
        if (folder / name).is_file():
            hasher.update(name.encode())
            with (folder / name).open("rb") as content:
                hasher.update(hashlib.file_digest(content, "sha256").digest())
    return hasher.hexdigest()[:16]


def _weights_digest(folder: Path) -> str:
    """Digest of the safetensors files, which are loaded where they exist; else of the .bin files."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in _sampled_tensors(file)]
    if not files:
        for file in sorted(folder.glob("*.bin")):
            with file.open("rb") as content:
                size = file.stat().st_size
                tensors.append((file.name, "", [size], _sample(content, 0, size).hex()))
    index = [_json_of(file).get("weight_map") for file in sorted(folder.glob("*.index.json"))]
    return digest([index, sorted(tensors)])


def _sampled_tensors(file: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """(name, type, shape, sampled bytes in hexadecimal digits) of each tensor of a safetensors file.

    Its layout: eight bytes with the length of a JSON header, the header, the tensors' bytes.
    """
    with file.open("rb") as content, _safetensors(file):
        tensors, data = _read_head(content)
        for name, tensor in tensors.items():
            start, end = (data + offset for offset in tensor["data_offsets"])
            sample = _sample(content, start, end).hex()
            yield name, tensor["dtype"], tensor["shape"], sample


def _shapes_in(file: Path) -> Iterator[tuple[str, tuple[list[int], int]]]:
    """Name, shape and bytes of each tensor of a safetensors file."""
    with file.open("rb") as content, _safetensors(file):
        for name, tensor in _read_head(content)[0].items():
            start, end = tensor["data_offsets"]
            yield name, (tensor["shape"], end - start)


def _read_head(content: BinaryIO) -> tuple[dict[str, Any], int]:
    """What the header of a safetensors file says of each tensor, and where the tensors' bytes begin."""
    length = int.from_bytes(content.read(8), "little")
    header = json.loads(content.read(length))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}, 8 + length


@contextmanager
def _safetensors(file: Path) -> Iterator[None]:
    """Raises InputError where the block finds that a file is no safetensors file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        raise InputError(f"{file}: not a safetensors file; fetch the model again") from None


def _sample(content: BinaryIO, start: int, end: int) -> bytes:
    """Bytes from the start, the middle and the end of a part of a file; all of them where they are few."""
    offsets, count = [start], end - start
    if count > 3 * SAMPLE_BYTES:
        offsets = [start, (start + end - SAMPLE_BYTES) // 2, end - SAMPLE_BYTES]
        count = SAMPLE_BYTES
    sample = b""
    for offset in offsets:
        content.seek(offset)
        sample += content.read(count)
    return sample
