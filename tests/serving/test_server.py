"""The server as its users have it: real engines, real HTTP. The tests share one server, a fused one."""

import asyncio
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.retrieval import open_retriever
from steper_ray.serving.applications import INGRESS, ingress_app
from tests.fakes import hits_of
from tests.serving.conftest import PLACES, Server
from tests.serving.load import LONG_CHAT, events, post, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def test_an_answer_is_what_the_loop_gives_in_this_corpus(server: Server) -> None:
    body = post(server, "/v1/answer", {"question": server.questions[0]}).json()
    retriever = open_retriever(server.config.folder.corpus)
    assert body["corpus_version"] == retriever.version
    assert body["overrides"] == {}
    assert body["model"] == "teacher"
    seen: set[str] = set()
    query = server.questions[0]
    for step in body["steps"]:
        assert step["query"] == query
        hits = hits_of(retriever, query, server.config.reasoning.passages_per_step)
        new = [hit for hit in hits if hit.passage.id not in seen]
        seen |= {hit.passage.id for hit in new}
        assert [(p["id"], p["text"], p["score"]) for p in step["passages"]] == [
            (hit.passage.id, hit.passage.text, hit.score) for hit in new
        ]
        query = step["rationale"]
    assert body["answer"] in body["steps"][-1]["rationale"]
    abilities = [step["ability"] for step in body["steps"]]
    assert abilities == ["init", *["exp"] * (len(abilities) - 2), "agg"]
    for kind in ("prompt_tokens", "generated_tokens", "cached_tokens"):
        assert body[kind] == sum(step[kind] for step in body["steps"])
    assert body["cached_tokens"] > 0  # a step finds the one before it in the cache


def test_a_stream_tells_the_same_as_it_happens(server: Server) -> None:
    async def run() -> list[tuple[str, Any, float]]:
        begun = time.monotonic()
        body = {"question": server.questions[1], "stream": True}
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", f"{server.url}/v1/answer", json=body) as reply,
        ):
            assert reply.headers["content-type"].startswith("text/event-stream")
            return [(name, data, time.monotonic() - begun) async for name, data in events(reply)]

    told = asyncio.run(run())
    whole = post(server, "/v1/answer", {"question": server.questions[1]}).json()
    last = told[-1]
    assert last[0] == "answer"
    assert last[1]["answer"] == whole["answer"]
    steps = [data for name, data, _ in told if name == "step"]
    assert steps == last[1]["steps"]
    assert [s["rationale"] for s in steps] == [s["rationale"] for s in whole["steps"]]
    for step in steps:
        written = [
            d["text"] for name, d, _ in told if name == "token" and d["step"] == step["step"]
        ]
        assert len(written) > 1
        assert "".join(written).strip() == step["rationale"]
    first = next(at for name, _, at in told if name == "token")
    assert first < 0.8 * last[2]  # not all at once at the end


def test_openai_s_client_works_unchanged_with_both_models(server: Server) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["teacher", "teacher-rag"]
    asked: Any = [{"role": "user", "content": server.questions[0]}]
    whole = post(server, "/v1/answer", {"question": server.questions[0]}).json()

    rag = client.chat.completions.create(model="teacher-rag", messages=asked)
    assert rag.choices[0].message.content == whole["answer"]
    assert rag.usage is not None
    assert rag.usage.completion_tokens == whole["generated_tokens"]
    assert rag.model_extra is not None
    rationales = [step["rationale"] for step in rag.model_extra["steper"]["steps"]]
    assert rationales == [step["rationale"] for step in whole["steps"]]
    parts = list(client.chat.completions.create(model="teacher-rag", messages=asked, stream=True))
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert said == whole["answer"]

    plain = client.chat.completions.create(
        model="teacher", messages=asked, max_tokens=5, temperature=0
    )
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 5
    pieces = client.chat.completions.create(
        model="teacher", messages=asked, max_tokens=5, temperature=0, stream=True, seed=7
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == plain.choices[0].message.content


def test_openai_s_client_has_what_vllm_has(server: Server) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    (context,) = {model.max_model_len for model in client.models.list()}  # type: ignore[attr-defined]
    asked: Any = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    for model in ("teacher", "teacher-rag"):  # a conversation
        if model == "teacher-rag":
            asked = [{"role": "user", "content": server.questions[0]}]
        first = client.chat.completions.create(model=model, messages=asked, max_tokens=5)
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        more = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]
        messages = [*asked, first.choices[0].message, *more, asked[-1]]
        again = client.chat.completions.create(
            model=model, messages=messages, max_tokens=5, tools=[], stream_options={}
        )
        assert again.choices[0].message.role == "assistant"

    chat: Any = {"model": "teacher", "messages": asked, "max_tokens": 5, "temperature": 1}
    several = client.chat.completions.create(**chat, n=3, logprobs=True, top_logprobs=2, stop=["x"])
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    for choice in several.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes"]}}}
    formed = client.chat.completions.create(**chat, response_format=form)
    assert formed.choices[0].message.content == '"yes"'
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"enum": [1]}}}
    named: Any = {"type": "function", "function": {"name": "f"}}
    called = client.chat.completions.create(**chat, tools=[tool], tool_choice=named)
    calls: Any = called.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["f"]

    text = client.completions.create(model="teacher", prompt="Ada", max_tokens=3, temperature=0)
    assert text.usage is not None
    assert text.usage.completion_tokens == 3
    parts = client.completions.create(
        model="teacher", prompt="Ada", max_tokens=3, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == text.choices[0].text
    for said in ({"prompt": "Ada"}, {"messages": [{"role": "user", "content": "Ada"}]}):
        tokens = post(server, "/tokenize", said).json()
        assert 0 < tokens["count"] == len(tokens["tokens"])
        assert tokens["max_model_len"] == context

    for model in ("teacher", "teacher-rag"):
        response = client.responses.create(
            model=model, input=server.questions[0], max_output_tokens=5, temperature=0
        )
        assert response.output_text or model == "teacher"
        events = list(
            client.responses.create(
                model=model,
                input=server.questions[0],
                max_output_tokens=5,
                temperature=0,
                stream=True,
            )
        )
        assert events[0].type == "response.created"
        assert events[-1].type in ("response.completed", "response.incomplete")
        assert events[-1].response.output_text == response.output_text

    for long in (
        {"messages": [{"role": "user", "content": "word " * 5000}]},
        {"messages": asked, "max_tokens": context},
    ):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as told:
                client.chat.completions.create(**{**chat, **long, "stream": stream})
            assert told.value.code == "context_length_exceeded"
            assert "Traceback" not in told.value.message
    for wrong in ({"max_tokens": context + 1}, {"logprobs": True, "top_logprobs": 1000}):
        with pytest.raises(openai.BadRequestError) as told:
            client.chat.completions.create(**{**chat, **wrong})
        assert told.value.code == "invalid_value"


def test_an_answer_says_what_it_rests_on(server: Server) -> None:
    body = post(server, "/v1/answer", {"question": server.questions[0]}).json()
    assert (body["supported"], body["unknown_names"]) == (True, [])
    assert all(step["unsupported"] == [] for step in body["steps"])
    assert all(-5 < step["mean_logprob"] <= 0 for step in body["steps"])
    stranger = "Who is the founder of the label of Queen Victoria?"
    body = post(server, "/v1/answer", {"question": stranger}).json()
    assert body["supported"] is False
    assert body["unknown_names"] == ["Queen Victoria"]


def test_another_way_of_asking_is_named_and_limits_hold(server: Server) -> None:
    question = server.questions[2]
    body = post(server, "/v1/answer", {"question": question, "passages_per_step": 3}).json()
    assert body["overrides"] == {"passages_per_step": {"trained": 2, "served": 3}}
    assert len(body["steps"][0]["passages"]) == 3
    react = post(server, "/v1/answer", {"question": question, "framework": "react"}).json()
    assert react["overrides"] == {"framework": {"trained": "ircot", "served": "react"}}
    refused = post(server, "/v1/answer", {"question": question, "max_steps": 99})
    assert refused.status_code == 422
    long = {"model": "teacher", "messages": [{"role": "user", "content": "word " * 1500}]}
    if (refused := post(server, "/v1/chat/completions", long)).status_code != 400:
        pytest.fail(refused.text)  # longer than the engine's context


def test_a_batch_a_search_and_readiness(server: Server) -> None:
    asked = server.questions[:3]
    body = post(server, "/v1/answers", {"questions": asked}).json()
    singly = [post(server, "/v1/answer", {"question": one}).json()["answer"] for one in asked]
    assert [one["answer"] for one in body["answers"]] == singly
    found = post(server, "/v1/search", {"query": asked[0], "k": 3}).json()["passages"]
    hits = hits_of(open_retriever(server.config.folder.corpus), asked[0], 3)
    assert [passage["id"] for passage in found] == [hit.passage.id for hit in hits]
    ready = httpx.get(f"{server.url}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_what_another_server_has_and_a_public_address_without_keys_are_refused(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray import serve

    before = set(serve.status().applications)
    port = f"serve.port={server.config.serve.port}"
    (tmp_path / "corpus.lance").symlink_to(server.config.folder.corpus)

    def refused(folder: Path, *settings: str) -> str:
        settings = (f"run.dir={folder}", f"serve.model={server.config.serve.model}", *settings)
        words = [word for setting in settings for word in ("--set", setting)]
        assert main(["serve", "--config", str(TOY_RUN_FILE), *words]) == 2
        return capfd.readouterr().err

    own = server.config.folder.root
    assert "this run is served already" in refused(own, port)
    taken = f"serve.route_prefix: / is taken by the application {ingress_app(server.run)}"
    assert taken in refused(tmp_path, port)
    assert f"set serve.host=127.0.0.1 and {port}" in refused(tmp_path, "serve.port=1")
    assert "no API keys are set" in refused(own, "serve.host=0.0.0.0")
    assert set(serve.status().applications) == before


def test_who_goes_away_is_not_worked_for(server: Server) -> None:
    from ray.serve.handle import DeploymentHandle

    begun = time.monotonic()
    whole = post(server, "/v1/chat/completions", LONG_CHAT).json()
    # it asked for more
    assert whole["usage"]["completion_tokens"] <= server.config.serve.max_output_tokens
    a_token = (time.monotonic() - begun) / whole["usage"]["completion_tokens"]
    half_of_it = LONG_CHAT["max_tokens"] / 2 * a_token

    async def run() -> None:
        # Serve would keep a handle of get_deployment_handle, and end it after this loop
        llm = DeploymentHandle[Any](INGRESS, ingress_app(server.run))
        for stream in (False, True):
            async with httpx.AsyncClient(timeout=60) as client:
                asked = asyncio.create_task(
                    client.post(
                        f"{server.url}/v1/chat/completions", json={**LONG_CHAT, "stream": stream}
                    )
                )
                while not await llm.unfinished.remote():
                    assert not asked.done()
                    await asyncio.sleep(0.05)
                asked.cancel()
            started = time.monotonic()
            while await llm.unfinished.remote():
                assert time.monotonic() - started < half_of_it
                await asyncio.sleep(0.05)

    asyncio.run(run())


def test_past_its_places_it_says_so_at_once_and_recovers(server: Server) -> None:
    """And no replica is taken to hang, however many ask."""
    statuses: list[tuple[int, float, float]] = []
    replica = server.processes(":ingress")[0].pid

    async def run() -> None:
        async with httpx.AsyncClient(
            timeout=60, limits=httpx.Limits(max_connections=8 * PLACES)
        ) as client:

            async def worker(number: int) -> None:
                for turn in range(6):
                    started = time.monotonic()
                    reply = await client.post(
                        f"{server.url}/v1/answer",
                        json={"question": server.questions[(6 * number + turn) % 300]},
                    )
                    after = float(reply.headers.get("retry-after", "0"))
                    statuses.append((reply.status_code, time.monotonic() - started, after))
                    if reply.status_code == 503:
                        assert reply.json()["error"]["code"] == "overloaded"
                        await asyncio.sleep(0.2)

            await asyncio.gather(*(worker(number) for number in range(8 * PLACES)))

    asyncio.run(run())
    answered, refused = (
        [seconds for status, seconds, _ in statuses if status == said] for said in (200, 503)
    )
    assert {status for status, _, _ in statuses} == {200, 503}
    assert all(after >= 1 for status, _, after in statuses if status == 503)
    assert median(refused) < median(answered) / 2
    assert post(server, "/v1/answer", {"question": server.questions[0]}).status_code == 200
    assert server.processes(":ingress")[0].pid == replica


def test_idle_bodies_stop_no_health_check_and_questions_for_seconds_only(server: Server) -> None:
    """More connections than an ingress holds beside its places once stopped everything."""
    head = b"POST /v1/answer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    ask = {"question": server.questions[0]}
    with ExitStack() as stack:
        for _ in range(400):
            address = ("127.0.0.1", server.config.serve.port)
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(head)
        for path in ("/healthz", "/readyz", "/v1/models", "/"):
            assert httpx.get(server.url + path, timeout=20).status_code == 200, path
        started = time.monotonic()
        until(lambda: post(server, "/v1/answer", ask).is_success)
        assert time.monotonic() - started < 4 * server.config.serve.body_timeout_s


def test_a_request_keeps_its_id_and_gives_serve_no_orders(server: Server) -> None:
    orders = {
        "x-request-timeout-seconds": "0.001",
        "x-request-disconnect-disabled": "?1",
        "serve-multiplexed-model-id": "other",
    }
    ask = {"question": server.questions[0]}
    reply = post(server, "/v1/answer", ask, headers={**orders, "x-request-id": "mine.1"})
    assert (reply.status_code, reply.headers["x-request-id"]) == (200, "mine.1")
    forged = post(server, "/v1/answer", ask, headers={"x-request-id": "a b"})
    assert re.fullmatch("[0-9a-f]{32}", forged.headers["x-request-id"])
    logs = server.config.folder.latest_log("serve")
    lines = [line for file in logs.glob("access-*.log") for line in file.read_text().splitlines()]
    (line,) = [line for line in lines if " id=mine.1 " in line]
    whole = reply.json()
    tokens = whole["prompt_tokens"] + whole["generated_tokens"]
    assert f"route=/v1/answer status=200 code=ok tokens={tokens} seconds=" in line
    assert any(f" id={forged.headers['x-request-id']} " in line for line in lines)


def test_metrics_are_where_prometheus_finds_them(server: Server) -> None:
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        'ray_steper_questions_total{.*outcome="answered"': 10,
        "ray_steper_answer_seconds_count": 10,
        'ray_steper_tokens_total{.*kind="cached"': 100,
        "ray_steper_search_seconds_count": 10,
        "ray_steper_generate_seconds_count": 10,
        'ray_steper_stops_total{.*reason="answered"': 10,
        'ray_steper_requests_total{.*code="ok".*route="/v1/answer"': 10,
        'ray_steper_proxy_refusals_total{.*code="overloaded"': 1,
        "ray_vllm_num_requests_running": 0,
    }

    def there() -> bool:
        lines = httpx.get(address).text.splitlines()
        for pattern, least in wanted.items():
            values = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line)]
            if not values or sum(values) < least:
                return False
        return True

    until(there)
