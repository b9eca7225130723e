"""Rows of a Hugging Face dataset: `hf:owner/name:config:split`, or a local dataset folder in its place.

`hf:owner/name@revision:config:split` takes a commit, branch or tag of it.

Config and split may be left out where there is one of them; `hf:owner/name::split` names the split alone.
`datasets` downloads once and keeps it; the run file's `hub` section says with which token, and whether only
what is kept may be used.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from steper_ray.data.addresses import HUB
from steper_ray.errors import InputError
from steper_ray.models.hub import split_revision, why_not
from steper_ray.text import short_message

VARIABLE: Final = "HF_TOKEN (or what hub.token_env names)"


def read_hub(
    address: str, columns: Collection[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) for each row of the split.

    columns: names of the columns to read, with dots for fields inside objects; None reads all

    Raises InputError for a dataset that cannot be had, and where a split has to be named.
    """
    name, _, rest = address.removeprefix(HUB).partition(":")
    config, _, split = rest.partition(":")
    if not name or ":" in split:
        raise InputError(
            f"{address}: expected hf:owner/name, then @revision, :config and :split if needed"
        )
    name, revision = split_revision(name)
    if revision is not None and is_local(name):
        raise InputError(
            f"{address}: {name} is a folder, which has no revision ({revision}); leave @{revision} out"
        )
    dataset = _load(address, name, config, revision)
    if split not in dataset and (split or len(dataset) > 1):
        raise InputError(
            f"{address}: name one of its splits ({', '.join(map(str, dataset))}), as "
            f"{HUB}{name}:{config}:{next(iter(dataset))}"
        )
    rows = dataset[split] if split else next(iter(dataset.values()))
    if columns is not None:
        asked = {*columns, *(name.partition(".")[0] for name in columns)}
        rows = rows.select_columns([name for name in rows.column_names if name in asked])
    for number, row in enumerate(rows, 1):
        yield number, dict(row)


def is_local(name: str) -> bool:
    """Whether a name is that of a folder, not of a repository on the Hub."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~"))


@lru_cache(maxsize=4)
def _load(address: str, name: str, config: str, revision: str | None) -> Any:
    """The splits by name; cached, since the format of a dataset is recognised before it is read."""
    import datasets

    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            return saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else name, config or None, revision=revision
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # huggingface_hub's and the network's errors are OSErrors; datasets has no narrower ones for a
        # configuration that has to be named or is not there.
        if not is_local(name) and (reason := why_not(error, name, VARIABLE, "datasets/")):
            raise InputError(f"{HUB}{reason}") from None
        raise InputError(
            f"{address}: cannot be loaded ({short_message(error)}); check the name, configuration and split"
        ) from None
