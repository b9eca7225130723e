"""The HTTP API over a scripted backend: every route, its answers, and the headers of every reply."""

import asyncio
import re
from typing import Any, Final
from urllib.parse import urljoin

import httpx
import pytest

from steper_ray.errors import RowError
from steper_ray.reasoning.frameworks import react, self_ask
from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.api.routes import MODULES, OPEN_PATHS, PAGE
from steper_ray.serving.keys import Key, Keys
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.refusals import HEADERS
from tests.serving.asking import (
    ANSWER,
    ASKED,
    LOST,
    STREAMED,
    ask,
    passage,
    refusal,
    untimed,
)
from tests.serving.backend import ScriptedBackend, api_over, client_of, service_over, until

pytestmark = pytest.mark.anyio


# answers


async def test_an_answer_comes_with_its_steps() -> None:
    backend = ScriptedBackend()
    reply = await ask(service_over(backend))
    assert reply.status_code == 200
    assert untimed(reply.json()) == ANSWER
    assert backend.searches == [("Who lives where?", 2), ("Ada knows Bob.", 2)]


async def test_k_and_s_of_a_request_reach_the_loop_and_are_named() -> None:
    backend = ScriptedBackend([[" Ada knows Bob."], [" Delft."]])
    reply = await ask(service_over(backend), {**ASKED, "passages_per_step": 1, "max_steps": 2})
    assert [k for _, k in backend.searches] == [1, 1]
    assert backend.prompts[1].endswith(f"Fact 2: {ANSWER_FLAG}")
    assert reply.json()["stop_reason"] == "forced"
    assert reply.json()["overrides"] == {
        "passages_per_step": {"trained": 2, "served": 1},
        "max_steps": {"trained": 4, "served": 2},
    }


async def test_an_answer_whose_last_step_was_cut_off_says_so() -> None:
    reply = (await ask(service_over(ScriptedBackend(finish_reasons={2: "length"})))).json()
    assert reply["finish_reason"] == "length"
    assert [step["finish_reason"] for step in reply["steps"]] == ["stop", "length"]
    reply = (await ask(service_over(ScriptedBackend(finish_reasons={1: "length"})))).json()
    assert reply["finish_reason"] == "stop"
    assert [step["finish_reason"] for step in reply["steps"]] == ["length", "stop"]


@pytest.mark.parametrize(
    ("framework", "text", "instruction"),
    [
        ("self_ask", " No.\nSo the final answer is: Delft.", self_ask.INSTRUCTION),
        ("react", " I know.\nAction: Finish[Delft]", react.INSTRUCTION),
    ],
)
async def test_a_framework_of_a_request_reaches_the_loop_and_is_named(
    framework: str, text: str, instruction: str
) -> None:
    backend = ScriptedBackend([[text]])
    reply = await ask(service_over(backend), {**ASKED, "framework": framework})
    assert backend.prompts[0].startswith(f"{instruction}\n\n")
    assert reply.json()["answer"] == "Delft"
    assert reply.json()["overrides"] == {"framework": {"trained": "ircot", "served": framework}}


async def test_what_the_server_itself_changes_is_named_too() -> None:
    trained = ReasoningConfig(passages_per_step=2, max_steps=4)
    reasoning = ServingReasoning(
        trained, "v0", trained.model_copy(update={"passages_per_step": 1}), "v1"
    )
    reply = await ask(service_over(ScriptedBackend(), reasoning=reasoning))
    assert reply.json()["overrides"] == {
        "passages_per_step": {"trained": 2, "served": 1},
        "corpus_version": {"trained": "v0", "served": "v1"},
    }


async def test_a_batch_answers_in_order_and_one_failure_is_that_question_alone() -> None:
    own: Any = {"RefusedError?": [[RowError("the prompt is too long")]], "Lost?": [[LOST]]}
    service = service_over(ScriptedBackend(own=own), places=2)  # so one at a time
    questions = ["Who lives where?", "RefusedError?", "Lost?", "Who else?"]
    reply = await ask(service, {"questions": questions}, "/v1/answers")
    assert reply.status_code == 200
    first, refused, lost, last = reply.json()["answers"]
    assert untimed(first) == ANSWER
    assert refused["error"]["code"] == "prompt_refused"
    assert refused["error"]["message"] == "the prompt is too long"
    assert lost["error"]["code"] == "replica_lost"
    assert last["steps"][0]["query"] == "Who else?"


async def test_a_batch_leaves_half_of_the_places_to_others() -> None:
    go_on = asyncio.Event()
    backend = ScriptedBackend([[go_on, f" {ANSWER_FLAG} X."]])
    service = service_over(backend, places=4)
    batch = asyncio.create_task(ask(service, {"questions": ["A?"] * 6}, "/v1/answers"))
    await until(lambda: len(backend.prompts) == 2)
    await asyncio.sleep(0.02)
    assert service.admission.taken == 2
    go_on.set()
    assert [one["answer"] for one in (await batch).json()["answers"]] == ["X"] * 6


async def test_a_search_brings_the_k_best() -> None:
    backend = ScriptedBackend()
    reply = await ask(service_over(backend), {"query": " ada \n", "k": 1}, "/v1/search")
    assert untimed(reply.json()) == {"passages": [passage("ada", 4)], "corpus_version": "v1"}
    reply = await ask(service_over(backend), {"query": "ada"}, "/v1/search")
    assert backend.searches == [("ada", 1), ("ada", 4)]


# state, page and description


async def test_health_and_readiness() -> None:
    backend = ScriptedBackend()
    async with client_of(api_over(service_over(backend, max_question_chars=9))) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        told = {
            "model": "student",
            "model_version": "s1",
            "corpus_version": "v1",
            "framework": "ircot",
            "passages_per_step": 2,
            "max_steps": 4,
            "max_question_chars": 9,
            "keys_required": False,
        }
        assert ready.status_code == 200
        assert ready.json() == {"status": "ready", "missing": [], **told}
        backend.gone = ["model"]
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "missing": ["model"], **told}


@pytest.mark.parametrize("mount", ["", "/student"])
async def test_the_page_and_the_description_are_served(mount: str) -> None:
    api = api_over(service_over(ScriptedBackend()))
    async with client_of(api, root_path=mount) as client:
        for path in (f"{mount}/", f"{mount}/docs"):
            reply = await client.get(path)
            assert (reply.status_code, kind_of(reply)) == (200, "text/html"), path
            for tag in INLINE.findall(reply.text):
                assert re.fullmatch(r'<script [^>]*src="[^"]+"></script>', tag), "it is blocked"
            named = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
            parts = [name for name in named if name not in ("data:,", "openapi.json")]
            assert len(parts) >= 2
            for name in parts:  # every resource is here, and is what it should be
                assert re.match("[a-z]", name), f"{path} loads {name} from elsewhere"
                part = await client.get(urljoin(path, name))
                assert (part.status_code, kind_of(part)) == (200, LOADED[name.rpartition(".")[2]])
                assert part.text.strip()
        shown = (await client.get(f"{mount}/docs/docs.js")).text
        assert re.findall(r'url: "([^"]+)"', shown) == ["openapi.json"]  # beside /docs
        scripts = {name: (PAGE / f"{name}.js").read_text(encoding="utf-8") for name in MODULES}
        for name, text in scripts.items():
            part = await client.get(f"{mount}/{name}.js")
            assert (part.status_code, kind_of(part), part.text) == (200, "text/javascript", text)
        script = "".join(scripts.values())
        imported = set(re.findall(r'from "([^"]+)"', script))
        assert imported == {f"./{name}.js" for name in MODULES if name != "page"}
        asked = re.findall(r'(?:fetch|streamed)\((".*?")', script)
        assert asked == ['"v1/answer"', '"v1/chat/completions"', '"readyz"']  # beside the page
        odd = await client.get(f"{mount}/page.js", headers={"range": "bytes=a-b"})
        assert (odd.status_code, odd.content) == (200, (PAGE / "page.js").read_bytes())
        for path in ("/page.html", "/page.py", "/page.", "/page.css/x", "/redoc", "/docs/x"):
            refusal(await client.get(mount + path), 404, "not_found")
        described = (await client.get(f"{mount}/openapi.json")).json()
    assert described["servers"] == [{"url": "."}]  # beside openapi.json, whatever the prefix
    paths = described["paths"]
    assert set(paths) == {
        "/v1/answer",
        "/v1/answers",
        "/v1/search",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/completions",
        "/tokenize",
        "/healthz",
        "/readyz",
    }


INLINE: Final = re.compile(r"<script\b.*?</script>|<style\b|\bstyle=|\bon\w+=")

LOADED: Final = {"css": "text/css", "js": "text/javascript"}


def kind_of(reply: httpx.Response) -> str:
    return reply.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize("keys", [{}, {"ada": Key(sha256="0" * 64)}])
async def test_the_description_says_which_routes_need_a_key(keys: Keys) -> None:
    async with client_of(api_over(service_over(ScriptedBackend()), keys)) as client:
        described = (await client.get("/openapi.json")).json()
    for path, operations in described["paths"].items():
        (operation,) = operations.values()
        needed: Any = [{"api_key": []}] if keys and path not in OPEN_PATHS else None
        assert operation.get("security") == needed, path
    schemes = described["components"].get("securitySchemes", {})
    assert schemes == ({"api_key": {"type": "http", "scheme": "bearer"}} if keys else {})


# headers


async def test_every_reply_has_the_security_headers() -> None:
    service = service_over(ScriptedBackend(), max_body_bytes=1000)
    broken = service_over(ScriptedBackend(searching=[KeyError("no")]))
    async with client_of(api_over(service)) as client, client_of(api_over(broken)) as failing:
        replies = [
            await client.get("/"),
            await client.get("/page.js"),
            await client.get("/healthz"),
            await client.get("/readyz"),
            await client.get("/v1/models"),
            await client.get("/nothing"),
            await client.put("/v1/answer"),
            await client.post("/v1/answer", json=ASKED),
            await client.post("/v1/answer", json=STREAMED),
            await client.post("/v1/answer", json={}),
            await client.post("/v1/answer", content=b"x" * 1001),
            await failing.post("/v1/answer", json=ASKED),
        ]
    assert [reply.status_code for reply in replies] == [
        *(200, 200, 200, 200, 200, 404, 405, 200, 200, 422, 413, 500)
    ]
    for reply in replies:
        assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    policy = replies[0].headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")


async def test_other_pages_may_call_only_from_configured_origins() -> None:
    asking = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    ours, theirs = {"origin": "https://ours.org"}, {"origin": "https://theirs.org"}
    allowed = "access-control-allow-origin"
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        reply = await client.options("/v1/answer", headers={**ours, **asking})
        refusal(reply, 405, "method_not_allowed")
        assert allowed not in reply.headers
        reply = await client.post("/v1/answer", json=ASKED, headers=ours)
        assert reply.status_code == 200
        assert allowed not in reply.headers
    service = service_over(ScriptedBackend(), cors_origins=("https://ours.org",))
    async with client_of(api_over(service)) as client:
        reply = await client.options("/v1/answer", headers={**ours, **asking})
        assert (reply.status_code, reply.headers[allowed]) == (200, "https://ours.org")
        sends = {**asking, "access-control-request-headers": "authorization,x-stainless-lang"}
        reply = await client.options("/v1/answer", headers={**ours, **sends})
        told = reply.headers["access-control-allow-headers"].lower()
        assert {"authorization", "x-stainless-lang"} <= set(re.findall(r"[\w-]+", told))
        assert "access-control-allow-credentials" not in reply.headers
        reply = await client.post("/v1/answer", json=ASKED, headers=ours)
        assert reply.headers[allowed] == "https://ours.org"
        reply = await client.post("/v1/answer", json={}, headers=ours)
        assert (reply.status_code, reply.headers[allowed]) == (422, "https://ours.org")
        assert "x-ignored-parameters" in reply.headers["access-control-expose-headers"]
        for reply in (
            await client.options("/v1/answer", headers={**theirs, **asking}),
            await client.post("/v1/answer", json=ASKED, headers=theirs),
        ):
            assert allowed not in reply.headers
