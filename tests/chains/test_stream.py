"""Chains made through an endpoint: the real Ray Data path, with a server of the test as the teacher."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from steper_ray.chains.actor import MAX_CONSECUTIVE_FAILURES
from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.rows import read_chains
from steper_ray.chains.stream import actor_pool, write_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.errors import InputError, StageError, find_steper_error
from steper_ray.evaluation.abilities import given_steps
from steper_ray.evaluation.answer import kept_answers
from steper_ray.pipeline.build import build_run
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.config import RunConfig
from tests.fakes import Teacher
from tests.processes import titled
from tests.samples import CHAIN, questions_of

pytestmark = pytest.mark.engine


def write(config: RunConfig, teacher: Teacher, name: str, **settings: Any) -> list[Any]:
    """The chains of the first 60 dev questions."""
    # A variable that is set in every process: the endpoint here wants no key.
    endpoint = EndpointConfig(base_url=teacher.url, api_key_env="PATH", max_retries=0, **settings)
    write_chains(
        [MissingAttempts(question) for question in questions_of(config, "dev")[:60]],
        config.folder.root / name,
        reasoner=Reasoner("teacher-of-the-test", config.reasoning, config.engine, endpoint),
        corpus=config.folder.corpus,
        log=config.folder.log("build"),
    )
    return read_chains(config.folder.root / name)


def test_every_question_has_one_chain_and_a_refused_one_its_reason(
    toy_corpus: RunConfig, teacher: Teacher
) -> None:
    questions = questions_of(toy_corpus, "dev")[:60]
    teacher.refuses = {questions[7].question}
    libraries: set[str] = set()

    answer = teacher.says

    def says(asked: dict[str, Any]) -> str:
        if not libraries:
            (actor,) = titled("ChainActor", psutil.Process().children(recursive=True))
            libraries.update(Path(file.path).name for file in actor.memory_maps())
        return answer(asked)

    teacher.says = says
    # in a folder whose name Ray and Arrow could take for an address or a pattern
    chains = write(toy_corpus, teacher, "endpoint?chains #[x]%20*")
    assert [chain.id for chain in chains] == sorted(question.id for question in questions)
    (failed,) = [chain for chain in chains if chain.error is not None]
    assert failed.id == questions[7].id
    assert "this prompt is too long" in str(failed.error)
    for chain in chains:
        if chain.error is None:
            assert chain.answer == "Rome"
            assert [step.mean_logprob for step in chain.steps] == [None]
            assert chain.steps[0].generated_tokens == 4
    # vLLM, torch and all that they bring would cost seconds at each start
    assert "_raylet.so" in libraries
    assert not {name for name in libraries if "torch" in name}


def test_an_endpoint_that_is_down_ends_the_stage_with_its_reason(
    toy_corpus: RunConfig, teacher: Teacher
) -> None:
    teacher.broken = True
    with pytest.raises(Exception, match="questions in a row") as raised:
        write(toy_corpus, teacher, "endpoint-broken")
    known = find_steper_error(raised.value)
    assert isinstance(known, StageError)
    assert f"{MAX_CONSECUTIVE_FAILURES} questions in a row" in str(known)
    assert "out of order" in str(known)
    assert not (toy_corpus.folder.root / "endpoint-broken").exists()


def test_a_missing_key_ends_the_stage_at_once(toy_corpus: RunConfig, teacher: Teacher) -> None:
    endpoint = EndpointConfig(base_url=teacher.url, api_key_env="NO_SUCH_KEY")
    with pytest.raises(Exception, match="NO_SUCH_KEY is not set") as raised:
        write_chains(
            [MissingAttempts(question) for question in questions_of(toy_corpus, "dev")[:3]],
            toy_corpus.folder.root / "endpoint-keyless",
            reasoner=Reasoner("m", toy_corpus.reasoning, toy_corpus.engine, endpoint),
            corpus=toy_corpus.folder.corpus,
            log=toy_corpus.folder.log("build"),
        )
    assert isinstance(find_steper_error(raised.value), InputError)
    assert not teacher.prompts


def test_teachers_samples_and_second_attempts_lie_side_by_side_and_one_chain_is_taken(
    toy_corpus: RunConfig, tmp_path: Path, teacher: Teacher
) -> None:
    """Wrong at first, right after criticism; the second teacher is right at once, of the odd questions."""
    questions = {q.question: q for q in questions_of(toy_corpus, "dev")[:6]}
    names = list(questions)

    def says(asked: dict[str, Any]) -> str:
        prompt = asked["prompt"]
        if prompt.endswith("Criticism:"):
            return " The first step takes the wrong one."
        (question,) = [name for name in names if f"Question: {name}" in prompt]
        right = "Criticism: The first" in prompt
        if asked["model"] == "second":
            right = names.index(question) % 2 == 1
        answer = questions[question].answer if right else "nobody"
        return f" It is so, {asked['seed']}. So the answer is: {answer}."

    teacher.says = says
    (tmp_path / "corpus.lance").symlink_to(toy_corpus.folder.corpus)
    endpoint = {"base_url": teacher.url, "api_key_env": "PATH", "max_retries": 0}
    ask = {"endpoint": endpoint, "temperature": 0.7, "samples": 2}
    values = {
        "run": {"dir": str(tmp_path)},
        "questions": {"train": toy_corpus.questions.dev},
        "reasoning": toy_corpus.reasoning.model_dump(),
        "build": {"teacher": "first", "self_correction": True, "limit": 6, **ask},
        "select": {"grounded": False},
    }
    summary = build_run(RunConfig.model_validate(values))
    ids = [question.id for question in questions.values()]
    expected = [
        f"{i}{sample}{kind}" for i in ids for sample in ("", "#2") for kind in ("", ":corrected")
    ]
    chains = {chain.id: chain for chain in read_chains(tmp_path / "chains")}
    assert sorted(chains) == sorted(expected)
    assert (summary.questions, summary.chains, summary.kept) == (6, 24, 6)
    assert summary.rejected == {"wrong_answer": 12, "not_chosen": 6}
    kept = {chain.id for chain in chains.values() if chain.rejected is None}
    assert kept == {f"{i}:corrected" for i in ids}
    # Each sample has a seed of its own.
    assert chains[ids[0]].steps[0].rationale != chains[f"{ids[0]}#2"].steps[0].rationale

    # A teacher joins: only it is asked, and its chains are first attempts, which come before second ones.
    requests = len(teacher.prompts)
    values["build"]["ensemble"] = [{"teacher": "second", **ask}]
    summary = build_run(RunConfig.model_validate(values))
    assert (summary.usage.asked, len(teacher.prompts) - requests) == (12, 12)
    assert (summary.questions, summary.chains, summary.kept) == (6, 36, 6)
    chains = {chain.id: chain for chain in read_chains(tmp_path / "chains")}
    kept = {chain.id for chain in chains.values() if chain.rejected is None}
    assert kept == {f"{i}@second" if n % 2 else f"{i}:corrected" for n, i in enumerate(ids)}
    assert {chain.teacher for chain in chains.values()} == {"", "second"}


def test_single_steps_are_asked_for_once(
    toy_corpus: RunConfig, tmp_path: Path, teacher: Teacher
) -> None:
    """Each after what was found and said before it in a right chain."""
    given = given_steps([CHAIN])
    endpoint = EndpointConfig(base_url=teacher.url, api_key_env="PATH", max_retries=0)
    reasoner = Reasoner("any", toy_corpus.reasoning, toy_corpus.engine, endpoint)
    folders: dict[str, Any] = {
        "corpus": toy_corpus.folder.corpus,
        "log": toy_corpus.folder.log("eval"),
    }
    chains = kept_answers(reasoner, given, tmp_path / "steps", **folders)
    assert [chain.id for chain in chains] == ["q1:step-1", "q1:step-2", "q1:step-3"]
    assert [chain.steps[:n] for n, chain in enumerate(chains)] == [
        CHAIN.steps[:n] for n in range(3)
    ]
    assert [len(chain.steps) for chain in chains] == [1, 2, 3]  # it answers each time
    assert len(teacher.prompts) == 3

    teacher.broken = True
    assert kept_answers(reasoner, given, tmp_path / "steps", **folders) == chains
    others = [replace(one, earlier=(replace(CHAIN, steps=CHAIN.steps[:2]),)) for one in given[:2]]
    failed = kept_answers(reasoner, others, tmp_path / "steps", **folders)
    assert ["out of order" in str(chain.error) for chain in failed] == [True, True]


def test_engines_between_bounds_become_as_many_as_have_work(ray_cluster: None) -> None:
    """Each call takes long beside the start of an actor, as an engine's does once it runs."""
    import ray

    class Slow:
        async def __call__(self, batch: dict[str, Any]) -> Any:
            await asyncio.sleep(0.5)
            yield {"actor": [os.getpid()] * len(batch["id"])}

    reasoner = Reasoner(
        "/models/any", ReasoningConfig(), EngineConfig(replicas=(1, 3), max_num_seqs=1)
    )
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        pool = actor_pool(reasoner, 60, context)
        rows = ray.data.range(60, override_num_blocks=60).map_batches(
            Slow, batch_size=1, compute=pool, num_cpus=0.1
        )
        actors = {row["actor"] for row in rows.iter_rows()}
    assert (pool.min_size, pool.max_size) == (1, 3)
    assert len(actors) == 3
    assert actor_pool(reasoner, 3, context).max_size == 2  # a running and a queued one each
    fixed = Reasoner("/models/any", ReasoningConfig(), EngineConfig(replicas=4))
    assert actor_pool(fixed, 1, context).min_size == actor_pool(fixed, 1, context).max_size == 4
