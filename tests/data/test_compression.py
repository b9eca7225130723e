"""Compressed files under names that do not say so."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from steper_ray.data.addresses import Source
from steper_ray.data.documents import document_passages
from steper_ray.data.tables import read_rows
from steper_ray.errors import InputError

ROW = b'{"id": "1", "text": "x"}\n'


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(ROW), "it is compressed (gzip); name it {}.gz"),
        (bz2.compress(ROW), "it is compressed (bz2); name it {}.bz2"),
        (pa.compress(ROW, codec="zstd", asbytes=True), "it is compressed (zstd); name it {}.zst"),
        (lzma.compress(ROW), "it is compressed (xz); unpack it"),
        (zipped(ROW), "it is compressed (zip); unpack it"),
    ],
)
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.html", "a.parquet", "b.jsonl.gz"]
)
def test_a_compressed_file_under_another_name(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if name in ("a.parquet", "b.jsonl.gz"):
        said = f"{said.partition(';')[0]}; unpack it"
    source = Source(str(file), str(file), name)
    with pytest.raises(InputError) as caught:
        list(document_passages(source, 600, 100) if source.is_document else read_rows(source))
    assert str(caught.value) == f"{file}: {said.format(name)}"
