"""Scripted parts: a teacher behind an OpenAI-compatible endpoint, an engine and a retriever."""

import asyncio
import json
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.retrieval.protocol import Hit, Retriever
from steper_ray.schema import FinishReason, Passage


class Teacher(ThreadingHTTPServer):
    """Answers every step at once; 400 to prompts that contain a word, 500 to all when broken."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.refuses: set[str] = set()
        self.broken = False
        self.says: Callable[[dict[str, Any]], str] = lambda _: " It is so. So the answer is: Rome."
        """The text after a request's prompt."""
        self.prompts: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["prompt"]
        self.server.prompts.append(prompt)
        if self.server.broken:
            self.reply(500, {"error": {"message": "out of order"}})
        elif any(word in prompt for word in self.server.refuses):
            self.reply(400, {"error": {"message": "this prompt is too long"}})
        else:
            choice = {
                "text": self.server.says(asked),
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
            }
            usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
            body = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
            self.reply(200, {**body, "choices": [choice], "usage": usage})

    def reply(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class CountsWords:
    """What an engine counts: a word is a token."""

    def count_tokens(self, prompt: Prompt) -> int:
        return self.count_text(prompt.text)

    def count_text(self, text: str) -> int:
        return len(text.split())


class ScriptedEngine(CountsWords):
    """Writes these texts, one a step; keeps the prompts and the texts that end a step."""

    def __init__(self, *texts: str, finish_reason: FinishReason | None = None) -> None:
        self.texts = list(texts)
        self.finish_reason = finish_reason
        self.prompts: list[str] = []
        self.stops: list[tuple[str, ...]] = []

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        self.prompts.append(prompt.text)
        self.stops.append(tuple(stop))
        return Generation(
            self.texts.pop(0),
            self.count_tokens(prompt),
            4,
            -2.0,
            finish_reason=self.finish_reason,
        )


class ScriptedRetriever:
    """Finds these passages, one list a search, then nothing; keeps what it was asked."""

    version = "v1"

    def __init__(self, *found: Sequence[Passage]) -> None:
        self._found = list(found)
        self.queries: list[str] = []

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._next(query)[:k] for query in queries]

    def _next(self, query: str) -> list[Hit]:
        self.queries.append(query)
        return [Hit(passage, 1.0) for passage in (self._found.pop(0) if self._found else ())]


def hits_of(retriever: Retriever, query: str, k: int) -> list[Hit]:
    """The hits of one search."""
    (hits,) = asyncio.run(retriever.search([query], k))
    return hits


def cut(text: str, stops: Sequence[str]) -> str:
    """What an engine gives back of a text."""
    return text[: min([place for stop in stops if (place := text.find(stop)) >= 0] or [len(text)])]
