"""Questions from data sets of the Hub, here in local folders, and what is wrong with an address."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.hub_tables import read_hub
from steper_ray.data.questions import read_questions
from steper_ray.errors import InputError
from tests.data.published_rows import HOTPOTQA_FILE, as_on_the_hub, hotpotqa_rows


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_DATASETS_CACHE and HF_HUB_OFFLINE=1 set before the first import."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_dataset_of_the_hub(tmp_path: Path, datasets_cache: None) -> None:
    import datasets

    rows = [as_on_the_hub(row) for row in hotpotqa_rows()]
    repository = tmp_path / "hotpot_qa"
    for config, split, part in [
        ("distractor", "train", rows[:30]),
        ("distractor", "validation", rows[30:]),
        ("fullwiki", "train", rows[:5]),
    ]:
        (repository / config).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part), repository / config / f"{split}.parquet")
    (repository / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: distractor\n  data_files:\n"
        "  - {split: train, path: distractor/train.parquet}\n"
        "  - {split: validation, path: distractor/validation.parquet}\n"
        "- config_name: fullwiki\n  data_files:\n"
        "  - {split: train, path: fullwiki/train.parquet}\n"
        "---\n"
    )
    raw = read_questions(str(HOTPOTQA_FILE), "questions.train")
    name = f"hf:{repository}"
    assert read_questions(f"{name}:distractor:train", "questions.train") == raw[:30]
    assert read_questions(f"{name}:distractor:validation", "questions.dev") == raw[30:]
    assert read_questions(f"{name}:fullwiki", "questions.train") == raw[:5]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert read_questions(f"hf:{tmp_path / 'saved'}", "questions.train") == raw
    for address, said in [
        (f"{name}:distractor", "name one of its splits (train, validation), as"),
        (f"{name}:distractor:test", "name one of its splits (train, validation), as"),
        (name, "cannot be loaded (Config name is missing."),
        (f"{name}:none", "cannot be loaded"),
        (f"hf:{tmp_path}/none", "cannot be loaded"),
        ("hf:nobody/nothing", "nothing: no"),  # such repository, or not on this machine
        ("hf:", "expected hf:owner/name"),
        ("hf:a:b:c:d", "expected hf:owner/name"),
    ]:
        with pytest.raises(InputError) as caught:
            read_questions(address, "questions.train")
        assert str(caught.value).startswith(address)
        assert said in str(caught.value)


def test_a_data_set_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, which has no revision \(v2\)"):
        next(read_hub(f"hf:{tmp_path}@v2"))
