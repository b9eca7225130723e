"""A scripted teacher behind an OpenAI-compatible endpoint."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
