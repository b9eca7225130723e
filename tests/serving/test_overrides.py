"""How the served model is asked: what the training, the server and a request each say."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import InputError
from steper_ray.models.student_settings import SETTINGS_FILE, student_settings
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import framework_named, ircot, react, self_ask
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.run.loading import load_config
from steper_ray.selection.abilities import SCHEMES, STEPER, AbilityScheme
from steper_ray.serving.api.schema import AnswerRequest
from steper_ray.serving.overrides import ServingReasoning, serving_reasoning
from steper_ray.serving.server_spec import ingress_places
from steper_ray.serving.session import server_spec
from steper_ray.serving.settings import ServeConfig
from tests.serving.backend import ScriptedBackend, api_over, client_of, events_of, service_over

TRAINED = complete_reasoning(
    ReasoningConfig(
        passages_per_step=4, max_steps=5, demonstrations="bundled", max_step_tokens=64, chat=False
    )
)
SERVED = ServingReasoning(TRAINED, "v1", TRAINED.model_copy(update={"max_steps": 3}), "v1")


def test_a_request_that_changes_nothing_is_asked_as_served() -> None:
    assert SERVED.with_changes({}) is SERVED.settings
    assert SERVED.overrides(SERVED.settings) == {"max_steps": {"trained": 5, "served": 3}}


def test_a_request_may_change_k_and_s_and_the_rest_stays() -> None:
    asked = SERVED.with_changes({"passages_per_step": 2, "max_steps": 5})
    assert asked == TRAINED.model_copy(update={"passages_per_step": 2})
    assert asked.demonstrations == TRAINED.demonstrations != ()
    assert SERVED.overrides(asked) == {"passages_per_step": {"trained": 4, "served": 2}}


def test_a_request_may_name_the_framework_that_it_has_already() -> None:
    assert SERVED.with_changes({"framework": "ircot"}) == SERVED.settings


@pytest.mark.parametrize(("name", "code"), [("self_ask", self_ask), ("react", react)])
def test_another_framework_brings_its_own_instruction_and_no_demonstrations(
    name: str, code: object
) -> None:
    asked = SERVED.with_changes({"framework": name, "passages_per_step": 2})
    assert framework_named(asked.framework) is code
    assert asked.instruction == framework_named(asked.framework).INSTRUCTION != ircot.INSTRUCTION
    assert (TRAINED.cue, asked.cue) == ("Fact", None)
    assert asked.demonstrations == ()
    assert (asked.passages_per_step, asked.max_steps) == (2, 3)
    assert (asked.max_step_tokens, asked.chat) == (64, False)
    assert SERVED.overrides(asked) == {
        "framework": {"trained": "ircot", "served": name},
        "passages_per_step": {"trained": 4, "served": 2},
        "max_steps": {"trained": 5, "served": 3},
    }


def test_a_corpus_of_another_version_is_an_override_of_every_answer() -> None:
    served = ServingReasoning(TRAINED, "v1", TRAINED, "v2")
    assert served.overrides(TRAINED) == {"corpus_version": {"trained": "v1", "served": "v2"}}
    assert ServingReasoning(TRAINED, "v1", TRAINED, "v1").overrides(TRAINED) == {}


def test_the_serve_section_overrides_k_and_s_and_nothing_else() -> None:
    section = ServeConfig(max_steps=3)
    assert serving_reasoning(section, TRAINED, "v1", "v1") == SERVED
    unchanged = serving_reasoning(ServeConfig(), TRAINED, "v1", "v2")
    assert unchanged == ServingReasoning(TRAINED, "v1", TRAINED, "v2")


def test_a_student_s_own_ability_scheme_names_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = AbilityScheme(
        "halves", ("early", "late"), lambda step, steps: "late" if 2 * step > steps else "early"
    )
    monkeypatch.setitem(SCHEMES, "halves", halves)
    config = load_config(
        TOY_RUN_FILE, [f"run.dir={tmp_path / 'run'}", f"serve.model={tmp_path / 'student'}"]
    )
    config.folder.corpus.mkdir(parents=True)
    write_corpus_record(config.folder.corpus, CorpusRecord("v1", 2, {"type": "none"}))
    (tmp_path / "student").mkdir()
    for name, content in (("config.json", "{}"), ("model.safetensors", "")):
        (tmp_path / "student" / name).write_text(content)
    assert server_spec(config).reasoning.scheme is STEPER  # a model that is no student of ours
    settings = student_settings(TRAINED, "v1", chat=False, abilities=halves.record())
    (tmp_path / "student" / SETTINGS_FILE).write_text(json.dumps(settings))
    assert server_spec(config).reasoning.scheme is halves
    monkeypatch.delitem(SCHEMES, "halves")
    with pytest.raises(InputError, match=r"steper\.json: made with ability scheme 'halves'"):
        server_spec(config)


@pytest.mark.anyio
async def test_the_ability_in_an_answer_is_the_scheme_s() -> None:
    halves = AbilityScheme(
        "halves", ("early", "late"), lambda step, steps: "late" if 2 * step > steps else "early"
    )
    trained = ReasoningConfig(passages_per_step=2, max_steps=4)
    reasoning = ServingReasoning(trained, "v1", trained, "v1", halves)
    async with client_of(api_over(service_over(ScriptedBackend(), reasoning=reasoning))) as client:
        whole = await client.post("/v1/answer", json={"question": "Who?"})
        assert [step["ability"] for step in whole.json()["steps"]] == ["early", "late"]
        stream = await client.post("/v1/answer", json={"question": "Who?", "stream": True})
    steps = [data["ability"] for name, data in events_of(stream.text) if name == "step"]
    assert steps == [step["ability"] for step in whole.json()["steps"]]


def test_a_request_changes_only_what_it_names() -> None:
    asked = AnswerRequest(question=" Who? ", max_steps=2, stream=True)
    assert asked.question == "Who?"
    assert asked.changes == {"max_steps": 2}
    assert AnswerRequest(question="Who?").changes == {}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["engine.max_num_seqs=8"], 16),  # twice what the engine runs at a time
        (["engine.max_num_seqs=8", "serve.llm_replicas=3"], 16),  # fused: each has its own engine
        (["engine.max_num_seqs=8", "serve.llm_replicas=3", "serve.layout=apart"], 48),
        (
            ["engine.max_num_seqs=8", "serve.max_llm_replicas=4", "serve.ingress_replicas=2"],
            32,
        ),  # for the engines that may come, so that they do
        (
            ["engine.max_num_seqs=8", "serve.llm_replicas=3", "serve.ingress_replicas=5"],
            9,
        ),  # 48 / 5
        (["engine.max_num_seqs=1", "serve.ingress_replicas=5"], 1),  # never none
        (["engine.max_num_seqs=8", "serve.max_concurrent=3", "serve.ingress_replicas=2"], 3),
    ],
)
def test_ingresses_share_twice_what_the_engines_run_at_a_time(
    overrides: list[str], expected: int
) -> None:
    config = load_config(TOY_RUN_FILE, overrides)
    assert ingress_places(config.serve, config.engine) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"llm_replicas": 0},
        {"max_body_bytes": 0},
        {"request_timeout_s": 0},
        {"requests_per_minute": 0},
        {"max_concurrent": 0},
        {"ingress_cpus": -0.1},
        {"keys_env": "hf_secret"},
        {"keys_env": "not a name"},
        {"prot": 8000},
    ],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as told:
        ServeConfig.model_validate(wrong)
    assert told.value.errors()[0]["loc"][:1] == tuple(wrong)
    assert "secret" not in str(told.value)
