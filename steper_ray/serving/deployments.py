"""The two Serve deployments: the ingress that runs the reasoning loop, and the vLLM engine.

Imported only where the application is built and in its replicas.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from steper_ray.pretrained import HubConfig, load_tokenizer
from steper_ray.reasoning.engine import EngineConfig, VLLMEngine
from steper_ray.reasoning.framework import Prompt
from steper_ray.reasoning.loop import GREEDY, Generation, Reasoned, Sampling, reason
from steper_ray.reasoning.prompts import PromptEncoder
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval import Retriever
from steper_ray.serving.app import ServeConfig
from steper_ray.session import redirect_output
from steper_ray.stepwise.select import stage_of

api = FastAPI(title="steper_ray", summary="Questions answered by searching step by step.")


class AnswerRequest(BaseModel):
    """Body of POST /v1/answer."""

    model_config = {"extra": "forbid"}

    question: str = Field(min_length=1)


class PassageOut(BaseModel):
    """A passage that a step's search added."""

    id: str
    title: str
    text: str
    score: float
    """BM25 score."""


class StepOut(BaseModel):
    """One search and the sentence written after it."""

    step: int
    stage: str
    query: str
    passages: list[PassageOut]
    rationale: str
    prompt_tokens: int
    generated_tokens: int
    dropped_passages: int
    search_seconds: float
    generate_seconds: float


class AnswerOut(BaseModel):
    """Body of the reply to POST /v1/answer."""

    answer: str
    stop_reason: str
    """`answered`; or why the model had to be asked for its answer: `forced` (the steps ran out), `no_query`
    (a step named nothing to search for), `nothing_new` (searches brought no new passage)."""
    steps: list[StepOut]
    seconds: float
    model: str
    corpus_version: str
    overrides: dict[str, Any]
    """Where the server deviates from how the student was trained."""


@serve.deployment(health_check_period_s=5)
class StudentEngine:
    """One vLLM engine."""

    async def __init__(  # type: ignore[misc]
        self,
        model: str,
        config: EngineConfig,
        reasoning: ReasoningConfig,
        hub: HubConfig,
        log: Path,
    ) -> None:
        redirect_output(log)
        self._engine = VLLMEngine(model, config, reasoning, hub)

    async def generate(
        self, ids: list[int], stop: Sequence[str], max_tokens: int, sampling: Sampling
    ) -> Generation:
        """See `VLLMEngine.generate_after`."""
        return await self._engine.generate_after(
            ids, stop=stop, max_tokens=max_tokens, sampling=sampling
        )

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        self._engine.check_health()


class RemoteEngine:
    """An `Engine` whose prompts are encoded here and whose text is written by a replica."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        model: str,
        reasoning: ReasoningConfig,
        hub: HubConfig,
    ) -> None:
        self._handle = handle
        self._encoder = PromptEncoder(load_tokenizer(model, hub), reasoning.chat)

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt as the engine counts them."""
        return self._encoder.count_tokens(prompt)

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        """See `VLLMEngine.generate`."""
        ids = self._encoder.encode(prompt)
        written: Generation = await self._handle.generate.remote(ids, stop, max_tokens, sampling)
        return written


def steps_out(reasoned: Reasoned) -> list[StepOut]:
    """The steps of a chain, each with the passages its search added."""
    found = {
        passage.id: PassageOut(id=passage.id, title=passage.title, text=passage.text, score=score)
        for passage, score in zip(reasoned.passages, reasoned.scores, strict=True)
    }
    return [
        StepOut(
            step=number,
            stage=stage_of(number, len(reasoned.steps)),
            query=step.query,
            passages=[found[passage_id] for passage_id in step.passage_ids],
            rationale=step.rationale,
            prompt_tokens=step.prompt_tokens,
            generated_tokens=step.generated_tokens,
            dropped_passages=step.dropped_passages,
            search_seconds=step.search_seconds,
            generate_seconds=step.generate_seconds,
        )
        for number, step in enumerate(reasoned.steps, 1)
    ]


# Serve copies the class and what it uses as it is decorated: all of that stands above.
@serve.deployment
@serve.ingress(api)
class AnswerServer:
    """The ingress: HTTP in, the reasoning loop, HTTP out."""

    def __init__(
        self,
        engine: DeploymentHandle[Any],
        model: str,
        corpus: Path,
        reasoning: ReasoningConfig,
        hub: HubConfig,
        overrides: dict[str, Any],
        config: ServeConfig,
    ) -> None:
        self._engine = RemoteEngine(engine, model, reasoning, hub)
        self._retriever = Retriever(corpus)
        self._model, self._reasoning, self._overrides = Path(model).name, reasoning, overrides
        self._config = config

    @api.post("/v1/answer")
    async def answer(self, request: AnswerRequest) -> AnswerOut:
        """Answer a question step by step."""
        question = request.question.strip()
        if not question:
            raise HTTPException(422, "question must not be blank")
        if len(question) > self._config.max_question_chars:
            limit = self._config.max_question_chars
            raise HTTPException(422, f"question is longer than {limit} characters")
        started = time.monotonic()
        reasoned = await reason(
            question, engine=self._engine, searcher=self._retriever, config=self._reasoning
        )
        return AnswerOut(
            answer=reasoned.answer,
            stop_reason=reasoned.stop_reason,
            steps=steps_out(reasoned),
            seconds=time.monotonic() - started,
            model=self._model,
            corpus_version=self._retriever.corpus_version,
            overrides=self._overrides,
        )

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "ok"}
