"""What the tests of the API ask, what they must get, and how they look at it."""

import json
from typing import Any, Final

import httpx

from steper_ray.errors import ReplicaLostError
from steper_ray.serving.answering import AnswerService
from tests.serving.backend import api_over, client_of

ASKED: Final = {"question": "Who lives where?"}
STREAMED: Final = {**ASKED, "stream": True}
CHAT: Final = {"model": "student", "messages": [{"role": "user", "content": "Hi"}]}
JSON: Final = {"content-type": "application/json"}
LOST: Final = ReplicaLostError("the replica that wrote the answer was lost")


def passage(name: str, score: float) -> dict[str, Any]:
    return {"id": name, "title": name.upper(), "text": f"About {name}.", "score": score}


def step(number: int, ability: str, query: str, rationale: str, generated: int) -> dict[str, Any]:
    """A step of `TWO_STEPS` as the API shows it, without what takes time."""
    found = [[passage("ada", 4), passage("bob", 3)], [passage("cy", 3)]][number - 1]
    return {
        "step": number,
        "ability": ability,
        "query": query,
        "passages": found,
        "rationale": rationale,
        "unsupported": ["Delft"] if "Delft" in rationale else [],
        "mean_logprob": None,
        "thought": None,
        "prompt_tokens": 10 * number,
        "generated_tokens": generated,
        "cached_tokens": 5 * (number - 1),
        "dropped_passages": 0,
        "finish_reason": "stop",
    }


STEPS: Final = [
    step(1, "init", "Who lives where?", "Ada knows Bob.", 2),
    step(2, "agg", "Ada knows Bob.", "Bob lives in Delft. So the answer is: Delft.", 3),
]
ANSWER: Final = {
    "answer": "Delft",
    "supported": False,  # no passage has Delft
    "unknown_names": [],
    "stop_reason": "answered",
    "finish_reason": "stop",
    "steps": STEPS,
    "prompt_tokens": 30,
    "generated_tokens": 5,
    "cached_tokens": 5,
    "model": "student",
    "model_version": "s1",
    "corpus_version": "v1",
    "overrides": {},
}


def untimed(value: Any) -> Any:
    """The value without seconds, each of which must be a small number."""
    if isinstance(value, list):
        return [untimed(one) for one in value]
    if not isinstance(value, dict):
        return value
    assert all(0 <= value[name] < 5 for name in value if name.endswith("seconds"))
    return {k: untimed(one) for k, one in value.items() if not k.endswith("seconds")}


def refusal(reply: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of a reply that must be this refusal, in the documented form."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert list(body) == ["error"]
    error = body["error"]
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    assert {k: error[k] for k in error if k != "message"} == {
        "type": kind,
        "code": code,
        "param": param,
    }
    return str(error["message"])


async def ask(
    service: AnswerService, body: Any = ASKED, path: str = "/v1/answer"
) -> httpx.Response:
    """One request to a new application; afterwards its places are free."""
    async with client_of(api_over(service)) as client:
        reply = await client.post(path, content=json.dumps(body), headers=JSON)
    assert service.admission.taken == 0
    return reply
