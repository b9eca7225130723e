"""An HTTP server that answers as an endpoint would, and as it is told to."""

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from steper_ray.engines.endpoint import EndpointEngine
from steper_ray.engines.settings import EndpointConfig
from steper_ray.reasoning.frameworks.protocol import Prompt

Reply = tuple[int, dict[str, str], str]


def completion(text: Any, **more: Any) -> Reply:
    choice = {"text": text, "index": 0, "finish_reason": "stop", "logprobs": None, **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
    return 200, {}, json.dumps({**body, "choices": [choice], "usage": usage})


def chat(text: Any, *, usage: Any = None, finish_reason: Any = "stop", **message: Any) -> Reply:
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "finish_reason": finish_reason, "message": said, "logprobs": None}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return 200, {}, json.dumps({**body, "choices": [choice], "usage": usage})


def body(**changes: Any) -> Reply:
    """The reply of a completion with other parts in place of its own."""
    return 200, {}, json.dumps({**json.loads(completion(" x")[2]), **changes})


def refused(status: int, message: str = "no", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message}})


class Server:
    """Answers each request with what `answer` makes of its body, or with the next of a list."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[dict[str, Any]], Reply]] = []
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.requests.append((self.path, body, self.headers["Authorization"]))
                    reply = server.replies[0] if len(server.replies) == 1 else server.replies.pop(0)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    status, headers, text = reply(body) if callable(reply) else reply
                finally:
                    with lock:
                        server.at_once -= 1
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def ask(server: Server, *prompts: str, **settings: Any) -> list[Any]:
    """What the engine makes of prompts that are asked at once; errors are returned."""

    async def work() -> list[Any]:
        engine = EndpointEngine("m", EndpointConfig(base_url=server.url, **settings))
        asked = [
            engine.generate(Prompt(prompt, ""), stop=("\n",), max_tokens=20) for prompt in prompts
        ]
        done = await asyncio.gather(*asked, return_exceptions=True)
        await engine.close()
        return done

    return asyncio.run(work())
