"""Plans computed from configurations alone: every shipped run file of a real size, by hand."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.errors import InputError
from steper_ray.models.architecture import KeyValues, read_architecture
from steper_ray.pipeline.plan import compute_run
from steper_ray.planning.computed_table import computed_lines
from steper_ray.run.loading import load_config
from tests.conftest import ROOT

CONFIGS: Final = ROOT / "jobs" / "configs"
LLAMA: Final = {"model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False}
QWEN: Final = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 131072}


def shaped(
    family: dict[str, Any], hidden: int, layers: int, heads: int, kv: int, inner: int, **other: Any
) -> dict[str, Any]:
    """A model's config.json, as far as its sizes go."""
    return family | {
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        **other,
    }


TIED: Final = {"vocab_size": 151936, "tie_word_embeddings": True}
UNTIED: Final = {"vocab_size": 152064, "tie_word_embeddings": False}
MODELS: Final = {
    "llama-70b": shaped(LLAMA, 8192, 80, 64, 8, 28672),
    "llama-8b": shaped(LLAMA, 4096, 32, 32, 8, 14336),
    "qwen-72b": shaped(QWEN, 8192, 80, 64, 8, 29568, **UNTIED),
    "qwen-7b": shaped(QWEN, 3584, 28, 28, 4, 18944, **UNTIED),
    "qwen-3b": shaped(QWEN, 2048, 36, 16, 2, 11008, **TIED),
    "qwen-1.5b": shaped(QWEN, 1536, 28, 12, 2, 8960, **TIED),
    "qwen-0.5b": shaped(QWEN, 896, 24, 14, 2, 4864, **TIED),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, values in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def parameters_by_hand(values: dict[str, Any]) -> int:
    """Matrices of attention and MLP, two norms a layer and one at the end; Qwen2's biases; the tables."""
    hidden, inner = values["hidden_size"], values["intermediate_size"]
    kv = hidden // values["num_attention_heads"] * values["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner + 2 * hidden
    layer += hidden + 2 * kv if values["model_type"] == "qwen2" else 0
    tables = values["vocab_size"] * hidden * (1 if values["tie_word_embeddings"] else 2)
    return int(values["num_hidden_layers"] * layer + hidden + tables)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-70b", 70.55),
        ("llama-8b", 8.03),
        ("qwen-72b", 72.71),
        ("qwen-7b", 7.62),
        ("qwen-3b", 3.09),
        ("qwen-1.5b", 1.54),
        ("qwen-0.5b", 0.49),
    ],
)
def test_parameters_by_hand(name: str, billions: float, models: Path) -> None:
    model = read_architecture(str(models / f"{name}.json"), "build.teacher")
    assert model.parameters == model.active == parameters_by_hand(MODELS[name])
    assert round(model.parameters / 1e9, 2) == billions
    assert sum(size for _, size in model.shapes.values()) == 2 * model.parameters


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("[2hm]*.yaml")), ids=lambda file: file.stem)
def test_every_run_file_of_a_real_size_fits_its_gpus(
    file: Path, models: Path, tmp_path: Path
) -> None:
    qwen = file.stem.endswith("qwen")
    teacher, student = ("qwen-72b", "qwen-7b") if qwen else ("llama-70b", "llama-8b")
    plan = compute_run(
        load_config(
            file,
            [
                f"run.dir={tmp_path}",
                f"plan.teacher_config={models / teacher}.json",
                f"plan.student_config={models / student}.json",
                "plan.questions=1000",
            ],
        )
    )
    fit, trained = plan.teacher.fit, plan.student
    assert trained is not None
    assert not plan.notes
    assert fit.gpus == 4
    assert fit.weight_bytes == 2 * parameters_by_hand(MODELS[teacher]) / 4
    assert fit.token_bytes == 80 * 2 * (8 // 4) * 128 * 2 == 81_920
    room = 0.92 * 80e9 - 3e9 - fit.weight_bytes
    assert fit.key_value_bytes == pytest.approx(room)
    assert fit.longest_questions == int(room // (81_920 * (6144 + 128)))
    assert fit.expected_questions is not None
    assert fit.longest_questions >= fit.max_num_seqs == plan.teacher.questions_at_work
    weights = parameters_by_hand(MODELS[student])
    assert trained.stage_bytes is not None
    assert trained.stage_bytes[3] == weights * 18 // 8
    assert trained.storage.checkpoint == 12 * weights
    assert json.loads((tmp_path / "plan.json").read_text())["computed"]["questions"] == 1000


def test_hours_by_hand(models: Path, tmp_path: Path) -> None:
    """2 FLOPs a weight and token, attention and head beside; each step reads weights, keys and values."""
    plan = compute_run(
        load_config(
            CONFIGS / "musique.yaml",
            [
                f"run.dir={tmp_path}",
                f"plan.teacher_config={models}/llama-70b.json",
                "plan.questions=3600",
                "build.demonstrations=",
                "train.model=",
            ],
        )
    )
    tokens, teacher = plan.tokens, plan.teacher
    # 20 passages of 150; a question of 30 and 0, 30, … 120 tokens before each of 5 steps of 30
    assert (tokens.read, tokens.written) == (3000 + 5 * 30 + 300, 150)
    assert tokens.expected == tokens.head + 3000 + 30 + 120 + 30
    assert teacher.read_tokens == 3600 * 3450
    layers = parameters_by_hand(MODELS["llama-70b"]) - 2 * 128256 * 8192
    flops = 2 * layers * 3450 + 4 * (3450 * tokens.expected // 2) * 8192 * 80
    flops += 2 * 150 * 8192 * 128256
    assert teacher.read_hours == pytest.approx(flops / (4 * 989e12 * 0.4) / 2)
    moved = teacher.fit.weight_bytes + 64 * 81_920 * (tokens.expected - tokens.head)
    assert teacher.write_hours == pytest.approx(150 * moved / (3350e9 * 0.6) / 64 / 2)
    assert plan.student is None


def test_what_never_fits_is_one_line(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["plan", "--no-sample", "--config", str(CONFIGS / "hotpotqa.yaml")]
    options += ["--set", f"run.dir={tmp_path}", "--model-config", f"{models}/llama-70b.json"]
    options += ["--student-config", f"{models}/llama-8b.json"]
    for more, said in (
        (["--gpu-memory", "40"], "engine.gpus: never fits: the teacher's weights take 35.3 GB"),
        (["--gpu-memory", "42"], "engine: never fits: one question of 8,192 tokens"),
        (
            ["--set", "build.engine.gpus=3", "--set", "build.engine.args.tensor_parallel_size=3"],
            "64 heads cannot be divided over 3 GPUs",
        ),
        (["--set", "engine.gpus=2"], "engine: gpus: 2 are reserved, and args say 4"),
        (
            ["--set", "train.workers=1"],
            "train: never fits: weights, gradients and optimizer states take 144.5 GB",
        ),
        (["--gpu", "H1000"], "plan.gpu"),
        (["--model-config", f"{models}/none.json"], "no such file"),
        (["--set", "build.endpoint.base_url=http://127.0.0.1:9/v1"], "build.endpoint"),
    ):
        assert main([*options, *more]) == 2, said
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_too_many_questions_at_a_time_are_said(models: Path, tmp_path: Path) -> None:
    """With 256 on GPUs of 48 GB, a run file asked for ten times what has room."""
    plan = compute_run(
        load_config(
            CONFIGS / "hotpotqa-qwen.yaml",
            [
                f"run.dir={tmp_path}",
                "engine.max_num_seqs=256",
                "eval.engine.gpus=4",
                "eval.engine.args.tensor_parallel_size=4",
                "plan.gpu=L40S",
                f"plan.teacher_config={models}/llama-70b.json",
                f"plan.student_config={models}/qwen-0.5b.json",
            ],
        )
    )
    lines = "\n".join(computed_lines(plan))
    assert plan.teacher.questions_at_work == plan.teacher.fit.expected_questions == 22
    assert "engine.max_num_seqs 256 is 11.6 times that; lower it to 22" in lines
    assert "its 14 heads cannot be divided over the 4 GPUs" in lines
    assert lines.startswith("computed, not measured: L40S of 48 GB")


def test_a_computed_plan_needs_no_ray_and_keeps_what_was_measured(
    models: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text('{"format": 1, "plan": null, "measured": {}, "x": 1}')
    options = ["plan", "--no-sample", "--config", str(TOY_RUN_FILE)]
    options += ["--set", f"run.dir={tmp_path}", "--model-config", f"{models}/qwen-0.5b.json"]
    assert main(options) == 0
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["x"] == 1
    assert written["computed"]["teacher"]["fit"]["key_value_bytes"] == 2**30
    assert written["computed"]["teacher"]["read_hours"] is None


def test_keys_and_values_by_hand() -> None:
    """Heads that fewer ranks share, windows, and a latent vector that is on every rank."""
    assert KeyValues(10, 0, 0, 8, 256).numbers_at(100, 16) == 10 * 100 * 256
    assert KeyValues(2, 3, 50, 8, 256).numbers_at(100) == 8 * 256 * (2 * 100 + 3 * 50)
    assert KeyValues(10, 0, 0, 0, 576).numbers_at(100, 8) == 10 * 100 * 576


def test_other_architectures(tmp_path: Path) -> None:
    def read(**values: Any) -> Any:
        (tmp_path / "config.json").write_text(json.dumps(values))
        return read_architecture(str(tmp_path), "build.teacher")

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    mixture = read(
        model_type="mixtral",
        **small,
        num_key_value_heads=2,
        intermediate_size=32,
        num_local_experts=8,
        num_experts_per_tok=2,
    )
    assert mixture.parameters - mixture.active == 2 * 6 * 3 * 64 * 32
    gemma = read(
        model_type="gemma2",
        **small,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=32,
        sliding_window=8,
    )
    assert gemma.key_values == KeyValues(1, 1, 8, 2, 32)
    mamba = read(
        model_type="jamba", **small, num_key_value_heads=2, intermediate_size=32, num_experts=2
    )
    assert mamba.key_values is None
    with pytest.raises(
        InputError, match=r"^build\.teacher: .*no configuration of a language model"
    ):
        read(model_type="no-such-model")
