"""The loop on a real vLLM engine and a real index, in every framework."""

import asyncio
from typing import Any

import pytest

from steper_ray.engines.protocol import Sampling
from steper_ray.engines.vllm_engine import VLLMEngine
from steper_ray.errors import InputError, RowError
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.loop import Trajectory, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval import open_retriever
from steper_ray.run.config import RunConfig
from tests.samples import questions_of

pytestmark = pytest.mark.engine

QUESTIONS = 6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_model_length": 512}, "no such engine argument; did you mean max_model_len"),
        ({"dtype": "nonsense"}, "refuses its arguments: must be 'auto', 'half'"),
        ({"max_model_len": 10**8}, "refuses its arguments: .*greater than the derived"),
    ],
)
def test_what_vllm_cannot_be_started_with_is_one_line(
    toy_corpus: RunConfig, args: dict[str, Any], message: str
) -> None:
    async def start() -> None:
        config = toy_corpus.engine.model_copy(update={"args": args})
        VLLMEngine(toy_corpus.build.teacher, config, toy_corpus.reasoning)

    with pytest.raises(InputError, match=message):
        asyncio.run(start())


def test_every_framework_ends_its_chains_and_a_step_finds_the_ones_before_it_in_the_cache(
    toy_corpus: RunConfig,
) -> None:
    """The toy's teacher knows IRCoT only; what it writes in the others is poor, and must end as well."""
    asked = [question.question for question in questions_of(toy_corpus, "dev")[:QUESTIONS]]
    retriever = open_retriever(toy_corpus.folder.corpus)
    given = toy_corpus.reasoning.model_dump(exclude={"instruction", "cue"})
    settings = {
        name: ReasoningConfig(
            **{
                **given,
                "framework": name,
                "cue": toy_corpus.reasoning.cue if framework.CUE else None,
            }
        )
        for name, framework in FRAMEWORKS.items()
    }

    async def run() -> dict[str, list[Trajectory]]:
        engine = VLLMEngine(toy_corpus.build.teacher, toy_corpus.engine, toy_corpus.reasoning)
        try:
            done = {}
            for name, config in settings.items():
                work = [
                    reason(one, engine=engine, retriever=retriever, config=config) for one in asked
                ]
                done[name] = await asyncio.gather(*work)
            prompt = Prompt("Title: ", "")
            drawn = [
                await engine.generate(prompt, stop=(), max_tokens=8, sampling=Sampling(2.0))
                for _ in range(8)
            ]
            assert len({one.text for one in drawn}) > 1
            greedy = [await engine.generate(prompt, stop=(), max_tokens=8) for _ in range(2)]
            assert greedy[0].text == greedy[1].text
            with pytest.raises(RowError, match=r"refuses the prompt: .*maximum"):
                await engine.generate(Prompt("a " * 3000, ""), stop=(), max_tokens=8)
        finally:
            engine.shutdown()
        return done

    done = asyncio.run(run())
    assert set(done) == {"ircot", "self_ask", "react"}
    for name, chains in done.items():
        for question, chain in zip(asked, chains, strict=True):
            assert 1 <= len(chain.steps) <= toy_corpus.reasoning.max_steps
            assert chain.steps[0].query == question
            assert len({passage.id for passage in chain.passages}) == len(chain.passages)
            assert all(step.mean_logprob is not None for step in chain.steps)
        later = [step.cached_tokens or 0 for chain in chains for step in chain.steps[1:]]
        assert sum(later) > 0, name
