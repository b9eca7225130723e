from pathlib import Path

from steper_ray.pipeline.commands import all_commands
from steper_ray.pipeline.reference import (
    configuration_page,
    generated_texts,
    job_path,
    job_script,
)
from steper_ray.pipeline.stages import STAGES
from steper_ray.run.config import RunConfig
from steper_ray.run.folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_generated_files_are_current() -> None:
    texts = generated_texts(ROOT)
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run `make docs`"
    assert {f"docs/{name}.md" for name in ("configuration", "architecture")} <= {
        str(path.relative_to(ROOT)) for path in texts
    }


def test_configuration_page_by_hand() -> None:
    page = configuration_page()
    for section in RunConfig.model_fields:
        assert f"\n## {section}\n" in page
    for row in (
        "| `warmup_ratio` | number ≥ 0, ≤ 1 | `0.03` | Share of all steps in which the learning rate",
        "| `rank` | integer ≥ 1 | `16` | Rank r of the update of each matrix. | student |",
        "| `use_gpu` | true or false | `false` | One GPU for each worker; otherwise CPU. | checkpoints |",
    ):
        assert row in page
    assert "| `lora` | [train.lora](#trainlora) or null | `null` |" in page


def test_script_of_a_command() -> None:
    text = job_script("select", all_commands()["select"])
    assert job_path("select") == "jobs/select_chains.py"
    assert job_path("train") == "jobs/train.py"
    assert "-- python jobs/select_chains.py --config jobs/configs/toy.yaml\n" in text
    assert 'main(["select", *sys.argv[1:]])' in text
    compile(text, "select_chains.py", "exec")


def test_stages_name_sections_packages_and_files_that_exist() -> None:
    folder = RunFolder(Path(), Path())
    for name, stage in STAGES.items():
        assert set(stage.sections) <= set(RunConfig.model_fields), name
        for package in stage.packages:
            assert (ROOT / "steper_ray" / package).is_dir(), name
        for path in stage.writes:
            assert isinstance(getattr(folder, path), Path), name
        for path in stage.reads:
            section, _, key = path.partition(".")
            if key:
                assert key in type(getattr(RunConfig(), section)).model_fields, name
            else:
                assert isinstance(getattr(folder, path), Path), name
        for option in stage.options:
            assert option.setting is not None, f"{name}: a stage takes settings alone"
