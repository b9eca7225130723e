"""What an answer says of its support: looked-up names and numbers of its steps, and of the question."""

import json
from dataclasses import replace
from typing import Any

import pytest

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.serving.answering import NOT_FOUND
from tests.serving.asking import ask
from tests.serving.backend import ScriptedBackend, ScriptedEngine, events_of, service_over

pytestmark = pytest.mark.anyio

SUPPORTED: Any = [[" Ada knows Bob."], [" Bob is 3 years old. So the answer is: Bob."]]
INVENTED: Any = [
    [" Ada knows Kek Stumum."],
    [" Kek Stumum was born in 1743. So the answer is: 1743."],
]


async def answer_of(script: Any, question: str = "Who knows Bob?", **serve: Any) -> Any:
    reply = await ask(service_over(ScriptedBackend(script), **serve), {"question": question})
    assert reply.status_code == 200
    return reply.json()


async def test_each_step_says_which_names_and_numbers_stand_nowhere() -> None:
    said = await answer_of(INVENTED)
    # what an earlier step said is known to a later one
    assert [step["unsupported"] for step in said["steps"]] == [["Kek Stumum"], ["1743"]]
    assert (said["answer"], said["supported"], said["unknown_names"]) == ("1743", False, [])


async def test_an_answer_of_what_it_saw_is_supported() -> None:
    said = await answer_of([[" Ada knows Bob. So the answer is: Bob."]])
    assert [step["unsupported"] for step in said["steps"]] == [[]]
    assert (said["answer"], said["supported"], said["unknown_names"]) == ("Bob", True, [])


async def test_a_name_of_the_question_that_no_passage_has_is_told() -> None:
    said = await answer_of([[" So the answer is: Bob."]], "Who knows Zalk Stumum?")
    assert said["steps"][0]["unsupported"] == []  # the name is in the question
    assert (said["supported"], said["unknown_names"]) == (False, ["Zalk Stumum"])


async def test_what_is_not_supported_is_told_as_it_is_written() -> None:
    said = await answer_of([[" Ada knows Béa-Stümum, born 1,743."], [" So the answer is: Bob."]])
    assert said["steps"][0]["unsupported"] == ["Béa-Stümum", "1,743"]


async def test_a_stream_tells_the_same() -> None:
    body = {"question": "Who knows Bob?", "stream": True}
    reply = await ask(service_over(ScriptedBackend(INVENTED)), body)
    steps = [data for name, data in events_of(reply.text) if name == "step"]
    assert [step["unsupported"] for step in steps] == [["Kek Stumum"], ["1743"]]
    name, last = events_of(reply.text)[-1]
    assert (name, last["supported"], last["steps"]) == ("answer", False, steps)


@pytest.mark.parametrize(("script", "answer"), [(INVENTED, NOT_FOUND), (SUPPORTED[:1], None)])
async def test_a_server_may_refuse_what_is_not_supported(script: Any, answer: str | None) -> None:
    script = script if answer else [[" Ada knows Bob. So the answer is: Bob."]]
    said = await answer_of(script, refuse_unsupported=True)
    assert said["answer"] == (answer or "Bob")
    assert said["steps"][0]["rationale"]
    chat = {"model": "student-rag", "messages": [{"role": "user", "content": "Who knows Bob?"}]}
    service = service_over(ScriptedBackend(script), refuse_unsupported=True)
    reply = (await ask(service, chat, "/v1/chat/completions")).json()
    assert reply["choices"][0]["message"]["content"] == said["answer"]
    assert reply["steper"]["supported"] is (answer is None)
    streamed = await ask(service, {**chat, "stream": True}, "/v1/chat/completions")
    chunks = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if "{" in line]
    contents = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert contents[-2:] == [said["answer"], None]


async def test_steps_have_their_mean_log_probability() -> None:
    class Sure(ScriptedEngine):
        async def generate(
            self, prompt: Prompt, *, stop: Any, max_tokens: int, sampling: Sampling = GREEDY
        ) -> Generation:
            written = await super().generate(prompt, stop=stop, max_tokens=max_tokens)
            return replace(written, logprob_sum=-0.5 * written.generated_tokens)

    class Backend(ScriptedBackend):
        def engine(self, say: Any = None) -> ScriptedEngine:
            return Sure(self, say)

    said = (await ask(service_over(Backend(SUPPORTED)), {"question": "Who knows Bob?"})).json()
    assert [step["mean_logprob"] for step in said["steps"]] == [-0.5, -0.5]
