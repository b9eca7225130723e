"""Chains made through an endpoint: the real Ray Data path, with a server of the test as the teacher."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from steper_ray.config import RunConfig
from steper_ray.errors import InputError, StageError, find_steper_error
from steper_ray.questions import load_questions
from steper_ray.reasoning.endpoint import EndpointConfig
from steper_ray.stepwise.asking import Respondent, Wanted
from steper_ray.stepwise.chains import MOST_FAILURES, read_chains, write_chains

pytestmark = pytest.mark.engine


class Teacher(ThreadingHTTPServer):
    """Answers every step at once; 400 to prompts that contain a word, 500 to all when broken."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.refuses: set[str] = set()
        self.broken = False
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
            text = " It is so. So the answer is: Rome."
            choice = {"text": text, "index": 0, "finish_reason": "stop", "logprobs": None}
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


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teacher]:
    server = Teacher()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def write(config: RunConfig, teacher: Teacher, name: str, **settings: Any) -> list[Any]:
    """The chains of the first 60 dev questions."""
    # A variable that is set in every process: the endpoint here wants no key.
    endpoint = EndpointConfig(base_url=teacher.url, api_key_env="PATH", retries=0, **settings)
    write_chains(
        [Wanted(question) for question in load_questions(config, "dev")[:60]],
        config.dir / name,
        respondent=Respondent("teacher-of-the-test", config.reasoning, config.engine, endpoint),
        corpus=config.corpus_dir,
        log=config.log_file("build"),
    )
    return read_chains(config.dir / name)


def test_every_question_has_one_chain_and_a_refused_one_its_reason(
    toy_corpus: RunConfig, teacher: Teacher
) -> None:
    questions = load_questions(toy_corpus, "dev")[:60]
    teacher.refuses = {questions[7].question}
    chains = write(toy_corpus, teacher, "endpoint-chains")
    assert [chain.id for chain in chains] == sorted(question.id for question in questions)
    (failed,) = [chain for chain in chains if chain.error is not None]
    assert failed.id == questions[7].id
    assert "this prompt is too long" in str(failed.error)
    for chain in chains:
        if chain.error is None:
            assert chain.answer == "Rome"
            assert [step.mean_logprob for step in chain.steps] == [None]
            assert chain.steps[0].generated_tokens == 4


def test_an_endpoint_that_is_down_ends_the_stage_with_its_reason(
    toy_corpus: RunConfig, teacher: Teacher
) -> None:
    teacher.broken = True
    with pytest.raises(Exception, match="questions in a row") as raised:
        write(toy_corpus, teacher, "endpoint-broken")
    known = find_steper_error(raised.value)
    assert isinstance(known, StageError)
    assert f"{MOST_FAILURES} questions in a row" in str(known)
    assert "out of order" in str(known)
    assert not (toy_corpus.dir / "endpoint-broken").exists()


def test_a_missing_key_ends_the_stage_at_once(toy_corpus: RunConfig, teacher: Teacher) -> None:
    endpoint = EndpointConfig(base_url=teacher.url, api_key_env="NO_SUCH_KEY")
    with pytest.raises(Exception, match="NO_SUCH_KEY is not set") as raised:
        write_chains(
            [Wanted(question) for question in load_questions(toy_corpus, "dev")[:3]],
            toy_corpus.dir / "endpoint-keyless",
            respondent=Respondent("m", toy_corpus.reasoning, toy_corpus.engine, endpoint),
            corpus=toy_corpus.corpus_dir,
            log=toy_corpus.log_file("build"),
        )
    assert isinstance(find_steper_error(raised.value), InputError)
    assert not teacher.prompts
