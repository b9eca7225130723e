"""The frame of a chat template, and the tokens that a prompt begins and ends with."""

import logging
from copy import deepcopy
from datetime import date
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import TEMPLATE_DATE
from tests.tokenizer_families import FAMILIES, encoder_of, family, ids_before

# First and last tokens ---------------------------------------------------------------------------------


def with_post_processor(name: str, single: str) -> Any:
    from tokenizers import processors

    tokenizer = deepcopy(family(name))
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[pair for pair in named if pair[0] in single]
    )
    return tokenizer


def test_no_end_of_text_stands_between_prompt_and_target() -> None:
    ends = with_post_processor("llama2", "<s> $A </s>")
    prompt = Prompt("Go.\n", "Step 1:")
    assert ends(prompt.text)["input_ids"][-1] == ends.eos_token_id
    for chat in (True, False):
        expected = encoder_of("llama2", chat).encode(prompt)
        assert PromptEncoder(ends, chat).encode(prompt) == expected
        assert expected[-1] != ends.eos_token_id


def test_a_template_that_ends_the_turn_is_refused() -> None:
    tokenizer = deepcopy(family("qwen2.5"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if loop.first %}<|im_end|>{% endif %}{% endfor %}"
    )
    PromptEncoder(tokenizer)
    tokenizer.eos_token = ":"  # what a plain prompt ends with
    with pytest.raises(InputError, match="would end with ':', after which nothing is written"):
        PromptEncoder(tokenizer)


def test_a_first_token_that_is_missing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for name in FAMILIES:
            encoder_of(name)
            encoder_of(name, chat=False)
    assert caplog.messages == []
    tokenizer = deepcopy(family("llama3"))
    tokenizer.chat_template = tokenizer.chat_template.replace("{{- bos_token }}", "")
    PromptEncoder(tokenizer)
    (said,) = caplog.messages
    assert "do not begin with <|begin_of_text|>" in said
    assert "its chat template leaves it out" in said
    caplog.clear()
    tokenizer = with_post_processor("llama2", "$A")
    object.__setattr__(tokenizer, "_add_bos_token", True)  # as its configuration says
    PromptEncoder(tokenizer, False)
    (said,) = caplog.messages
    assert "do not begin with <s>" in said


# Templates ---------------------------------------------------------------------------------------------


def templated(template: str, name: str = "qwen2.5") -> Any:
    tokenizer = deepcopy(family(name))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('No content') }}", "No content"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "final message does not appear"),
        ("{{ messages[0].content.nothing.at_all }}{{ messages[1].content }}", "has no attribute"),
        ("{{ messages[1].content }}", "does not show both turns once"),
        ("{{ messages[0].content * 2 }}{{ messages[1].content }}", "does not show both turns once"),
        ("{{ messages[0].content.split('\n')[0] }}{{ messages[1].content }}", "changes what it is given"),
        ("{% for m in messages %}{{ m.content | replace(' ', '  ') }}{% endfor %}", "changes the spaces"),
        ("{% for m in messages %}{{ m.content", "unexpected end"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_refused_before_any_question(
    template: str, reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        PromptEncoder(templated(template))
    said = str(refused.value)
    assert said.startswith(
        "reasoning.chat: the chat template cannot go on with an assistant's turn ("
    )
    assert reason in said
    assert said.endswith("; set it to false")
    assert "\n" not in said
    PromptEncoder(templated(template), False)


def test_a_template_strips_what_it_is_given_as_it_always_did() -> None:
    for template in (
        "{% for m in messages %}[{{ m.role }}] {{ m.content.strip() }}\n{% endfor %}",
        "{% for m in messages %}[{{ m.role }}]{{ m.content }} {% endfor %}",
        "{{ messages[0].content.lstrip() }}[SEP]{{ messages[1].content.rstrip() }}",
    ):
        tokenizer = templated(template)
        prompt = Prompt("  Go. \n\nQuestion: Who?\t\n", " Step 1:")
        assert PromptEncoder(tokenizer).encode(prompt) == ids_before(tokenizer, prompt, True)


def test_the_date_in_a_prompt_is_the_settings() -> None:
    prompt = Prompt("Go.\n", "Step 1:")
    now = templated(
        "{{ strftime_now('%Y-%m-%d') }}|{{ date_string }}|"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert PromptEncoder(now).text(prompt).startswith("2024-07-26|26 Jul 2024|Go.")
    other = PromptEncoder(now, template_date=date(2025, 2, 3))
    assert other.text(prompt).startswith("2025-02-03|03 Feb 2025|Go.")
    assert encoder_of("llama3").text(prompt) == PromptEncoder(
        family("llama3"), template_date=TEMPLATE_DATE
    ).text(prompt)
