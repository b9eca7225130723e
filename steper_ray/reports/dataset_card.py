"""Card of a step-wise data set, its README.md: columns, counts, teachers, settings.

The text is `dataset_card.md.j2`; the metadata above it, by which the Hub and `datasets` find the files, is
huggingface_hub's. Everything it says is in `stats.json`.
"""

from collections.abc import Collection, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from steper_ray.files import write_whole
from steper_ray.reports.histograms import PICTURES
from steper_ray.reports.markdown import CARD_FILE, render_template
from steper_ray.run.secrets import settings_text
from steper_ray.selection.abilities import recorded_scheme
from steper_ray.selection.rejection import REJECTIONS

SHARDS: Final = "data/train-*.parquet"
"""The files of the data set's one split."""


COLUMNS: Final = {
    "id": "chain and step",
    "chain_id": "which chain the example is a step of",
    "step": "number of the step, from 1",
    "ability": "what the step teaches, see below",
    "question": "the question",
    "passages": "every passage retrieved up to this step, in the order retrieved: id, title, text",
    "reasoning": "what the earlier steps said",
    "forced": "whether the prompt ends with the words that announce the answer",
    "prompt": "the prompt with every passage in it",
    "target": "what the model should write, with what ends a step",
    "found": "how many of the passages each search brought",
    "thought": "what the teacher thought before it wrote the target; no part of prompt and target",
}
"""Column → its content; a column without an entry is shown without a description."""


SIZES: Final = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}
"""Examples, fewer than → the Hub's name of the size."""


def render_card(
    stats: Mapping[str, Any], columns: Collection[str], pictures: Collection[str] = ()
) -> str:
    """The card's text, metadata first.

    stats:    what `stats.json` holds
    columns:  of the data set, in their order
    pictures: files of PICTURES that will lie beside it
    """
    from huggingface_hub import DatasetCardData

    examples = sum(stats["examples"].values())
    metadata = DatasetCardData(
        pretty_name="Step-wise reasoning",
        task_categories=["question-answering", "text-generation"],
        tags=["steper", "retrieval", "distillation", "multi-hop"],
        size_categories=next((name for most, name in SIZES.items() if examples < most), "n>10M"),
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": SHARDS}]},
        ],
    )
    body = render_template(
        "dataset_card.md.j2",
        stats=stats,
        examples=examples,
        abilities=_meanings(stats["abilities"]),
        teachers=stats["teacher"]["models"],
        columns={name: COLUMNS.get(name, "") for name in columns},
        reasons=REJECTIONS,
        settings=settings_text(stats["settings"]),
        pictures={
            file: f"{title}: {note}" for file, title, note in PICTURES.values() if file in pictures
        },
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _meanings(abilities: Mapping[str, Any]) -> dict[str, str]:
    """Ability → what it is, in the order of the scheme; empty where the scheme says nothing."""
    scheme = recorded_scheme(abilities, "stats.json")
    return dict(zip_longest(scheme.names, scheme.meanings, fillvalue=""))


def write_card(folder: Path, stats: Mapping[str, Any], columns: Collection[str]) -> None:
    """Write the card into a data set's folder, whole or not at all.

    It shows those of PICTURES that the folder has by then.
    """
    pictures = [file for file, _, _ in PICTURES.values() if (folder / file).is_file()]
    write_whole(folder / CARD_FILE, render_card(stats, columns, pictures))
