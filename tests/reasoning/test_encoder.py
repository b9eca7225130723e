"""Prompts and targets as tokens, on tokenizers and chat templates of the kinds that real models have."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steper_ray.errors import RowError
from steper_ray.reasoning.control_tokens import control_tokens
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from tests.tokenizer_families import FAMILIES, encoder_of, family, ids_before, tokenizer_named

BYTE_LEVEL = ("toy", "qwen2.5", "qwen3", "smollm2", "llama3", "deepseek")
CHAT = pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
EVERY = pytest.mark.parametrize("name", ["toy", *FAMILIES])

ORDINARY = (
    Prompt("Go.\n\nQuestion: Who?\n", "Step 1:"),
    Prompt(
        "Answer.\n\nTitle: Beyoncé\nText:  Über 3.14 \t %, \u00a0x.\n\n\n\nQuestion: Où ?\n",
        "Step 12:",
    ),
    Prompt(
        "Los.\n\nTitle: \nText: 東京は日本の首都である。ประเทศไทย 서울 👩\u200d🔬\n\nQuestion: e\u0301?\n",
        "Thought:",
    ),
    Prompt(
        "\n Go. \nQuestion: <b>who</b> is 4 < 5 & [sic]?  \n\n",
        "Step 1: It is.\nStep 2: So the answer is:",
    ),
    Prompt("Go.\nQuestion: Who?\n", "Thought: Hm.\nAction: Finish["),
    Prompt("Go.\nQuestion: Who?\n", "Step 1:", " I think\nthat  "),
)


# Ordinary text -----------------------------------------------------------------------------------------


@EVERY
@CHAT
def test_text_without_control_tokens_has_the_ids_it_always_had(name: str, chat: bool) -> None:
    chat = chat and name != "toy"
    encoder, tokenizer = encoder_of(name, chat), tokenizer_named(name)
    for prompt in ORDINARY:
        assert encoder.encode(prompt) == ids_before(tokenizer, prompt, chat)
        assert encoder.count_tokens(prompt) == len(encoder.encode(prompt))


ENCODERS = {name: encoder_of(name) for name in ("toy", *FAMILIES)}
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@EVERY
@settings(max_examples=60, deadline=None)
@given(user=TEXT, assistant=TEXT, continued=TEXT)
def test_any_other_text_has_them_too(name: str, user: str, assistant: str, continued: str) -> None:
    tokenizer = tokenizer_named(name)
    prompt = Prompt(f"Go.\n\nQuestion: {user}\n", f"Step 1: {assistant.strip()}.", continued)
    if any(token in prompt.text for token in control_tokens(tokenizer)):
        return
    assert ENCODERS[name].encode(prompt) == ids_before(tokenizer, prompt, name != "toy")


# Control tokens in data --------------------------------------------------------------------------------


@EVERY
@CHAT
def test_nothing_of_a_question_becomes_a_control_token(name: str, chat: bool) -> None:
    encoder, tokenizer = encoder_of(name, chat), tokenizer_named(name)
    control = control_tokens(tokenizer)
    nasty = " ".join(["</think>", "Step 1:", *control, "".join(control), "\n".join(control)])
    plain = Prompt("Go.\n\nQuestion: x\n", "Step 1: x\nStep 2:")
    prompt = Prompt(f"Go.\n\nQuestion: {nasty}\n", f"Step 1: {nasty}\nStep 2:", f" {nasty}")
    written = prompt.continued.count("<think>") + prompt.continued.count("</think>")
    thoughts = [control[token] for token in ("<think>", "</think>") if token in control]

    def those(ids: list[int]) -> list[int]:
        return [token for token in ids if token in control.values()]

    ids = encoder.encode(prompt)
    frame = those(encoder.encode(plain))
    assert those(ids)[: len(frame)] == frame
    assert len(those(ids)) == len(frame) + (written if thoughts else 0)
    assert set(those(ids)[len(frame) :]) <= set(thoughts)
    target = encoder.encode_target(plain, f" {nasty}.\n")
    assert those(target) == []
    assert tokenizer.decode([*encoder.encode(plain), *target]) == (
        tokenizer.decode(encoder.encode(plain)) + f" {nasty}.\n"
    )


def test_control_tokens_are_those_that_are_special_or_spelled_as_markup() -> None:
    assert list(control_tokens(family("qwen3"))) == [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        *("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ]
    assert list(control_tokens(family("gemma"))) == [  # neither its "\n\n" nor its bytes
        *("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
    ]


def test_a_control_token_in_a_passage_is_split_into_words() -> None:
    tokenizer, encoder = family("qwen2.5"), encoder_of("qwen2.5")
    ids = encoder.encode(Prompt("Question: a <|im_end|> <tool_call>b?\n", "Step 1:"))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens.count("<|im_end|>") == 2  # of the system's turn and the user's
    assert ":ĠaĠ<|im_end|>Ġ<tool_call>b?<|im_end|>Ċ<|im_start|>" in "".join(tokens)


def test_merges_do_not_lead_to_a_control_token() -> None:
    """As in Llama 2, whose vocabulary has `</s>`, and may have `</` and `s>`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"</s>": 0, "<": 1, "/": 2, "s": 3, ">": 4, "</": 5, "s>": 6, "a": 7, ":": 8}
    letters = sorted(set("Question: Step 1:Wahictwnsld?.AretmxIRoT\n") - set(vocabulary))
    vocabulary |= {letter: len(vocabulary) + n for n, letter in enumerate(letters)}
    bpe = models.BPE(vocab=vocabulary, merges=[("<", "/"), ("s", ">"), ("</", "s>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(bpe), eos_token="</s>")
    data = tokenizer("a</s>a", split_special_tokens=True)["input_ids"]
    assert data == [7, 0, 7]  # what transformers makes of it
    assert PromptEncoder(tokenizer).encode(Prompt("a</s>", "a")) == [7, 5, 6, 7]


@pytest.mark.parametrize("name", ["qwen3", "deepseek"])
def test_no_template_cuts_the_assistants_turn_at_the_end_of_a_thought(name: str) -> None:
    encoder = encoder_of(name)
    prompt = Prompt("Go.\n", "Step 1: Tags are <think> and </think>.\nStep 2:")
    assert encoder.text(prompt).endswith(prompt.assistant)
    turns = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": prompt.assistant},
    ]
    cut: Any = family(name).apply_chat_template(turns, tokenize=False)
    assert "Tags" not in cut.rpartition("</think>")[2]
    control, ids = control_tokens(family(name)), encoder.encode(prompt)
    in_frame = name == "qwen3"
    assert ids.count(control["</think>"]) == ids.count(control["<think>"]) == in_frame


def test_a_thought_of_the_models_own_is_closed_by_its_token() -> None:
    encoder, control = encoder_of("deepseek"), control_tokens(family("deepseek"))
    thought = Prompt("Go.\n", "Step 1:", "<think> Hm, <｜User｜>.</think>\n")
    ids = encoder.encode(thought)
    assert ids.count(control["<think>"]) == ids.count(control["</think>"]) == 1
    assert ids.count(control["<｜User｜>"]) == 1  # of the template
    plain = PromptEncoder(family("deepseek"), False).encode(thought)
    assert plain.count(control["</think>"]) == 1
    assert plain.count(control["<｜User｜>"]) == 0


# Targets -----------------------------------------------------------------------------------------------

CUES = (
    (Prompt("Go.\n", "Step 1:"), " Rome is old.\n"),
    (Prompt("Go.\n", "Step 2: So the answer is:"), " Rome.\n"),
    (Prompt("Go.\n", "Thought: Hm.\nAction: Finish["), "Rome]\n"),
    (Prompt("Go.\n", "Follow up:"), " Who? <|im_end|>\nIntermediate answer: </s> 東京\n"),
    (Prompt("Go.\n", "Step 1:"), "\n"),
)


@EVERY
@CHAT
def test_a_target_is_split_as_it_would_be_written_after_the_prompt(name: str, chat: bool) -> None:
    """Its tokens stand for the target behind the prompt's, and no other split of the same run does so with
    the prompt's own tokens before it."""
    encoder, tokenizer = encoder_of(name, chat), tokenizer_named(name)
    for prompt, target in CUES:
        before, ids = encoder.encode(prompt), encoder.encode_target(prompt, target)
        assert tokenizer.decode([*before, *ids]) == tokenizer.decode(before) + target
        whole = encoder.encode(prompt.going_on(target))
        if whole[: len(before)] == before:
            assert ids == whole[len(before) :]


@pytest.mark.parametrize("name", BYTE_LEVEL)
@CHAT
def test_targets_of_byte_level_tokenizers_have_the_ids_they_always_had(
    name: str, chat: bool
) -> None:
    encoder, tokenizer = encoder_of(name, chat), tokenizer_named(name)
    control = control_tokens(tokenizer)
    for prompt, target in CUES:
        if not any(token in target for token in control):
            alone = tokenizer(target, add_special_tokens=False)["input_ids"]
            assert encoder.encode_target(prompt, target) == alone


@CHAT
def test_a_prepending_tokenizer_puts_no_second_space_before_a_target(chat: bool) -> None:
    for name in ("llama2", "mistral"):
        encoder, tokenizer = encoder_of(name, chat), family(name)

        def tokens(prompt: Prompt, target: str, by: PromptEncoder = encoder) -> list[str]:
            return list(tokenizer.convert_ids_to_tokens(by.encode_target(prompt, target)))  # noqa: B023

        assert tokens(CUES[0][0], " is\n")[0] == "▁is"
        assert "".join(tokens(CUES[2][0], "Rome]\n")) == "Rome]\n"
    alone = family("llama2")(" is\n", add_special_tokens=False)["input_ids"]
    assert family("llama2").convert_ids_to_tokens(alone)[0] == "▁"  # what it makes of it by itself


def test_a_target_goes_on_where_its_first_token_would_join_the_last_of_the_prompt() -> None:
    """GPT-4's words take an opening bracket along: `[A` is one, but `[` is in the prompt already."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*letters, "[A", "Ada", "da", "Ad"])}
    merges = [("[", "A"), ("A", "d"), ("d", "a"), ("Ad", "a")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    words = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|[^\p{L}]"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = PromptEncoder(tokenizer).encode_target(Prompt("Go.\n", "Finish["), "Ada]")
    assert tokenizer.convert_ids_to_tokens(ids) == ["Ada", "]"]
    assert tokenizer.tokenize("[Ada]") == ["[A", "da", "]"]


# Rows --------------------------------------------------------------------------------------------------


def test_text_that_has_no_tokens_fails_its_own_question() -> None:
    for encoder in (encoder_of("qwen2.5"), encoder_of("llama2", chat=False)):
        with pytest.raises(RowError, match="half a sign behind 'Go, '"):
            encoder.encode(Prompt("Go, \ud800\n", "Step 1:"))
        assert encoder.encode(Prompt("Go.\n", "Step 1:"))


def test_a_tokenizer_in_python_tells_them_apart_too() -> None:
    from transformers import PreTrainedTokenizer

    class Letters(PreTrainedTokenizer):
        """One token a letter."""

        @property
        def vocab_size(self) -> int:
            return 256

        def get_vocab(self) -> dict[str, int]:
            return {chr(n): n for n in range(256)}

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return ord(token)

        def _convert_id_to_token(self, index: int) -> str:
            return chr(index)

    tokenizer: Any = Letters(eos_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    end = tokenizer.eos_token_id
    assert end >= 256
    encoder = PromptEncoder(tokenizer)
    ids = encoder.encode(Prompt("a<|end|>b", "c"))
    assert ids == [*map(ord, "a<|end|>b"), end, ord("c")]
    plain = Prompt("ab", "c")
    assert encoder.encode(plain) == ids_before(tokenizer, plain, True)
