"""The HTTP API of the server, and its page.

POST /v1/answer            a question → its answer with every step; `stream: true` for events as they happen
POST /v1/answers           many questions
POST /v1/search            the retriever alone
GET  /v1/models            \\
POST /v1/chat/completions   | OpenAI's interface: `<model>` is the plain model,
POST /v1/responses          | `<model>-rag` the whole loop (`steper_ray.serving.api.openai_routes`)
POST /v1/completions        |
POST /tokenize             /
GET  /healthz, /readyz     alive; whether model and corpus answer
GET  /, /docs              the page; this interface as OpenAPI

All of them relative to where the server is mounted (`root_path`, Ray Serve's `route_prefix`).
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from steper_ray.reasoning.loop import PassagesFound, SearchStarted
from steper_ray.serving.access_log import WriteAccess, no_access_log
from steper_ray.serving.answered_steps import passage_out
from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.events import (
    KEEP_ALIVE,
    STREAM,
    event_text,
    failed_event,
    stream_events,
)
from steper_ray.serving.api.openai_body import IGNORED_HEADER
from steper_ray.serving.api.openai_routes import openai_routes
from steper_ray.serving.api.schema import (
    AnswerOut,
    AnswerRequest,
    BatchOut,
    BatchRequest,
    ErrorOut,
    ReadyOut,
    SearchOut,
    SearchRequest,
)
from steper_ray.serving.api.validation import invalid_body
from steper_ray.serving.api_middleware import ApiMiddleware, Take
from steper_ray.serving.happenings import AnswerReady, KeepAlive, ServiceEvent, StepReady, TextPiece
from steper_ray.serving.keys import KeyRing
from steper_ray.serving.refusals import CODE_HEADER, RefusedError, error_body, error_headers
from steper_ray.serving.request import current_request
from steper_ray.serving.request_report import RequestReport

PAGE: Final = Path(__file__).parent.parent / "page"


SWAGGER_UI: Final = Path(fastapi_offline.__file__).parent / "static"


MODULES: Final = ("page", "elements", "markdown", "requests", "result", "storage", "words")
"""The scripts of the page, which import each other."""


FILES: Final = {
    "/": PAGE / "index.html",
    "/page.css": PAGE / "page.css",
    **{f"/{name}.js": PAGE / f"{name}.js" for name in MODULES},
    "/docs": PAGE / "docs.html",
    "/docs/docs.js": PAGE / "docs.js",
    "/docs/swagger-ui.css": SWAGGER_UI / "swagger-ui.css",
    "/docs/swagger-ui-bundle.js": SWAGGER_UI / "swagger-ui-bundle.js",
}
"""Path → file. FastAPI's own /docs loads Swagger UI from another site, which `refusals.HEADERS` forbid."""


OPEN_PATHS: Final = frozenset({*FILES, "/openapi.json", "/healthz", "/readyz"})
"""Served without a key; every other path, known or unknown, needs one where the server has keys."""


KINDS: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


KEY: Final = Security(HTTPBearer(scheme_name="api_key", auto_error=False))
"""Marks in OpenAPI that a route needs a key; `ApiMiddleware` checks the key."""


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorOut} for status in (400, 401, 403, 408, 413, 421, 422, 429, 503, 504)
}


def build_api(
    service: AnswerService, keys: KeyRing, take: Take, write_access: WriteAccess = no_access_log
) -> FastAPI:
    """The ASGI application."""
    config = service.config
    api = FastAPI(
        title="steper_ray",
        summary="Questions answered by searching step by step.",
        responses=ERRORS,
        docs_url=None,
        redoc_url=None,
        # relative to openapi.json, so that it holds under a prefix that a proxy takes away
        servers=[{"url": "."}],
        root_path_in_servers=False,
    )
    key = [KEY] if keys.required else []
    paths: set[str] = set()
    api.add_middleware(
        ApiMiddleware,
        keys=keys,
        take=take,
        open_paths=OPEN_PATHS,
        config=config,
        admission=service.admission,
        report=RequestReport(service.record, write_access, paths),
    )
    if config.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
            expose_headers=["retry-after", CODE_HEADER, IGNORED_HEADER],
        )
    api.add_exception_handler(RefusedError, _refused)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.include_router(openai_routes(service), dependencies=key)
    for path, file in FILES.items():
        api.add_api_route(path, sends(file), methods=["GET", "HEAD"], include_in_schema=False)
    api.include_router(answer_routes(service), dependencies=key)
    api.include_router(state_routes(service, keys))
    paths.update(route.path for route in api.routes if isinstance(route, Route))
    return api


def answer_routes(service: AnswerService) -> APIRouter:
    """The routes that answer questions and search."""
    routes, config = APIRouter(), service.config

    @routes.post("/v1/answer", response_model=AnswerOut, responses=STREAM)
    async def answer(request: AnswerRequest) -> Response:
        """Answer a question step by step."""
        service.check_question(request.question)
        settings = service.settings(request.changes)
        if not request.stream:
            return as_json(await service.answer(request.question, settings))
        happenings = service.stream(request.question, settings)
        return await stream_events(happenings, event_texts, failed_event)

    @routes.post("/v1/answers", response_model=BatchOut)
    async def answers(request: BatchRequest) -> Response:
        """Answer many questions; the result of one that cannot be answered is its error."""
        service.check_most("questions", len(request.questions), config.max_batch)
        for number, question in enumerate(request.questions):
            service.check_question(question, f"questions.{number}")
        await current_request().count_more(len(request.questions) - 1)
        results = await service.answer_batch(request.questions, service.settings(request.changes))
        return as_json(
            BatchOut(
                answers=[
                    ErrorOut.model_validate(error_body(result))
                    if isinstance(result, RefusedError)
                    else result
                    for result in results
                ]
            )
        )

    @routes.post("/v1/search")
    async def search(request: SearchRequest) -> SearchOut:
        """The best passages for a text."""
        service.check_question(request.query, "query")
        service.check_most("k", request.k, config.max_requested_passages_per_step)
        passages, seconds = await service.search(request.query, request.k)
        version = service.reasoning.corpus_version
        return SearchOut(passages=passages, corpus_version=version, seconds=seconds)

    return routes


def state_routes(service: AnswerService, keys: KeyRing) -> APIRouter:
    """The routes that say whether the server is alive and ready."""
    routes = APIRouter()

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", responses={503: {"model": ReadyOut}})
    async def readyz() -> Response:
        """Whether model and corpus answer, and what they are."""
        missing = await service.backend.missing()
        asked = service.reasoning.settings
        ready = ReadyOut(
            status="not ready" if missing else "ready",
            missing=missing,
            model=service.model,
            model_version=service.model_version,
            corpus_version=service.reasoning.corpus_version,
            framework=asked.framework,
            passages_per_step=asked.passages_per_step,
            max_steps=asked.max_steps,
            max_question_chars=service.config.max_question_chars,
            keys_required=keys.required,
        )
        return as_json(ready, 503 if missing else 200)

    return routes


def sends(file: Path) -> Callable[[], Awaitable[Response]]:
    """Function of a route that sends a file; FileResponse would refuse odd ranges in another format."""

    async def send() -> Response:
        return Response(file.read_bytes(), media_type=KINDS[file.suffix])

    return send


def as_json(body: BaseModel, status: int = 200) -> Response:
    """JSON reply serialized by pydantic itself, several times as fast as by FastAPI."""
    return Response(body.model_dump_json(), status, media_type="application/json")


def event_texts(happening: ServiceEvent) -> list[str]:
    """The server-sent events of an event of the service."""
    match happening:
        case SearchStarted(step, query):
            return [event_text("search", json.dumps({"step": step, "query": query}))]
        case PassagesFound(step, hits, seconds):
            shown = [passage_out(hit).model_dump() for hit in hits]
            found = {"step": step, "passages": shown, "seconds": seconds}
            return [event_text("passages", json.dumps(found))]
        case TextPiece(step, text):
            return [event_text("token", json.dumps({"step": step, "text": text}))]
        case StepReady(step):
            return [event_text("step", step.model_dump_json())]
        case AnswerReady(answer):
            return [event_text("answer", answer.model_dump_json())]
        case KeepAlive():
            return [KEEP_ALIVE]


async def _refused(_request: Request, refused: Exception) -> Response:
    assert isinstance(refused, RefusedError)
    return JSONResponse(error_body(refused), refused.status, error_headers(refused))


async def _http_error(_request: Request, error: Exception) -> Response:
    """HTTP errors of Starlette and FastAPI in the API's own error format."""
    assert isinstance(error, HTTPException)
    codes = {
        404: "not_found",
        405: "method_not_allowed",
        408: "body_timeout",
        413: "too_large",
    }
    refused = RefusedError(
        error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail)
    )
    headers = {**error_headers(refused), **(error.headers or {})}
    return JSONResponse(error_body(refused), refused.status, headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    refused = invalid_body(error)
    return JSONResponse(error_body(refused), refused.status, error_headers(refused))
