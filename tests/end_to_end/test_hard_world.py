"""The whole line over tests/data/hard_world: many scripts, chunks of one title, control tokens in passages.

A teacher that knows every step is asked; what it says goes all the way to a served student, which is a tiny
model with a chat template of the control tokens that stand in the passages.
"""

import json
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any, Final

import httpx
import pytest

from steper_ray.chains.rows import read_chains
from steper_ray.cli import TOY_RUN_FILE
from steper_ray.data.questions import read_questions
from steper_ray.pipeline.build import BuildSummary, build_run
from steper_ray.pipeline.training import train_student
from steper_ray.retrieval import open_retriever
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Chain
from steper_ray.serving.session import running_server
from tests.data.write_hard_world import FOLDER, QUESTIONS, files
from tests.fakes import Teacher, hits_of
from tests.samples import index_corpus
from tests.tokenizer_families import family

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

NUMBER: Final = len(QUESTIONS)
CUE: Final = "Step"


def test_the_files_are_what_their_module_writes() -> None:
    for name, text in files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers with a tokenizer like Qwen2.5's."""
    import torch

    from steper_ray.toy.pretrain import Recipe, make_model

    tokenizer = family("qwen2.5")
    torch.manual_seed(0)
    recipe = Recipe(hidden_size=64, layers=2, steps=0, tokens=0, max_hops=0, lr=0.0)
    vocabulary = tokenizer.get_vocab()
    ends = vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]
    made = make_model(recipe, len(tokenizer), *ends)
    made.config.max_position_embeddings = 4096
    folder = tmp_path_factory.mktemp("hard") / "model"
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(
    ray_cluster: None, model: Path, tmp_path_factory: pytest.TempPathFactory, free_port: int
) -> RunConfig:
    """A run over the hard world, indexed."""
    folder = tmp_path_factory.mktemp("hard-run")
    config = load_config(
        TOY_RUN_FILE,
        [
            f"run.dir={folder}",
            f"corpus.passages={FOLDER}/passages.jsonl",
            *(f"questions.{split}={FOLDER}/questions.jsonl" for split in ("train", "dev", "test")),
            "reasoning.max_steps=3",
            "reasoning.max_prompt_tokens=3000",
            "engine.args.max_model_len=4096",
            "reasoning.max_step_tokens=32",
            "reasoning.passages_per_step=4",
            "build.limit=null",
            f"train.model={model}",
            "train.chains_per_batch=4",
            "train.validation_chains=0",
            "train.workers=1",
            f"serve.port={free_port}",
            f"serve.model={folder}/student",
        ],
    )
    index_corpus(config)
    return config


@pytest.fixture(scope="module")
def built(run: RunConfig) -> BuildSummary:
    """Its chains, by a teacher that says what the questions' file says."""
    steps = {
        row["question"]: row["steps"]
        for row in map(json.loads, files()["questions.jsonl"].splitlines())
    }

    def says(asked: dict[str, Any]) -> str:
        question, _, written = asked["prompt"].rpartition("Question: ")[2].partition("\n")
        number = written.count(f"{CUE} ") - 1
        return f" {steps[question.strip()][number]}"

    teacher = Teacher()
    with closing(teacher.socket):
        teacher.says = says
        Thread(target=teacher.serve_forever, daemon=True).start()
        endpoint = {"base_url": teacher.url, "api_key_env": "PATH"}
        asked = {"teacher": "m", "endpoint": endpoint}
        values = {**run.model_dump(), "build": {**run.build.model_dump(), **asked}}
        summary = build_run(RunConfig.model_validate(values))
        teacher.shutdown()
    return summary


def chains_of(run: RunConfig) -> dict[str, Chain]:
    return {chain.id: chain for chain in read_chains(run.folder.chains)}


def test_searches_find_what_supports_the_answers(run: RunConfig) -> None:
    retriever = open_retriever(run.folder.corpus)
    for question in read_questions(str(FOLDER / "questions.jsonl"), "questions.train"):
        steps = next(row[4:] for row in QUESTIONS if row[0] == question.id)
        queries = (question.question, *steps[:-1])
        found = {hit.passage.id for query in queries for hit in hits_of(retriever, query, 4)}
        assert set(question.supporting_ids) <= found, question.id


def test_right_chains_of_every_script_are_kept(run: RunConfig, built: BuildSummary) -> None:
    assert (built.questions, built.chains, built.usage.asked) == (NUMBER, NUMBER, NUMBER)
    chains = chains_of(run)
    assert {chain.id: chain.error for chain in chains.values() if chain.error} == {}
    assert {chain.id: chain.rejected for chain in chains.values() if chain.rejected} == {}
    assert {chain.id: (chain.answer, chain.em) for chain in chains.values()} == {
        row[0]: (row[2], 1.0) for row in QUESTIONS
    }
    texts = {passage.id: passage.text for passage in chains["ctl"].passages}
    assert "<|im_start|>user" in texts["ctl1"]  # as it stands in the corpus


def test_a_student_is_trained_and_served(run: RunConfig, built: BuildSummary) -> None:
    summary = train_student(run)
    assert summary.planned_steps >= 2
    assert summary.chains == built.kept
    with running_server(run) as url:
        for id, question, *_ in QUESTIONS:
            reply = httpx.post(f"{url}/v1/answer", json={"question": question}, timeout=120)
            assert reply.status_code == 200, (id, reply.text)
            steps = reply.json()["steps"]
            assert 1 <= len(steps) <= 3
            assert steps[0]["query"] == question
