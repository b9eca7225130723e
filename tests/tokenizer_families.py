"""Small tokenizers of the kinds that real models have, with their families' chat templates.

Each is trained on a few kilobytes, and has the normalizer, pre-tokenizer, post-processor and added tokens
of its family: those decide how text around control tokens is split.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.toy.tokenizer import make_tokenizer
from tests.conftest import ROOT

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

GPT4_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2.5 and Llama 3 cut a text into words: an opening bracket goes with what follows it."""

CHATML: Final = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3: Final = (
    "{%- for message in messages %}{%- if message.role == 'user' %}"
    "{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}"
    "{%- else %}{%- set content = message.content %}{%- set reasoning_content = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n'"
    " + content.lstrip('\n') }}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
)
LLAMA3: Final = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Today Date: ' + date_string + '\n\n' }}"
    "{{- '<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' }}{%- endfor %}"
)
DEEPSEEK: Final = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% else %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
)
MISTRAL: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA: Final = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
)

CHATML_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _trained(tokenizer: "Tokenizer", tokens: Sequence[str], *, bytes_: bool) -> "Tokenizer":
    """The tokenizer with a vocabulary of these tokens, bytes, and what is frequent in bundled texts."""
    from tokenizers import pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytes_ else []
    fallback = [] if bytes_ else [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=[*tokens, *fallback],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    folder = ROOT / "steper_ray" / "reasoning"
    texts = [
        file.read_text() for file in sorted(folder.rglob("*.yaml")) + sorted(folder.glob("*.py"))
    ]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _byte_level(tokens: Sequence[str], words: str | None = GPT4_WORDS) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = (
        pre_tokenizers.Split(Regex(words), "isolated")
        if words
        else pre_tokenizers.Digits(individual_digits=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, tokens, bytes_=True)


def _sentencepiece(tokens: Sequence[str], *, prepends: str) -> "Tokenizer":
    """prepends: `always` a space before each text and after each control token (Llama 2), `first` before
    the whole text only (Mistral 0.3), `never` (Gemma)
    """
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # cut for the training alone: a piece of SentencePiece begins with a space or has none
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    tokenizer = _trained(tokenizer, tokens, bytes_=False)
    tokenizer.pre_tokenizer = None
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if prepends == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁")] if prepends == "always" else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strips = [decoders.Strip(" ", 1, 0)] if prepends != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strips]
    )
    return tokenizer


def _loaded(
    tokenizer: "Tokenizer",
    template: str,
    *,
    bos: str | None,
    eos: str,
    begins: bool = False,
    ends: bool = False,
    words: Sequence[str] = (),
) -> "PreTrainedTokenizerFast":
    """begins, ends: whether plain text gets `bos` and `eos`; words: added tokens that are not special"""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    single = [*([bos] if begins and bos else []), "$A", *([eos] if ends else [])]
    named = [(token, tokenizer.token_to_id(token)) for token in {bos, eos} if token in single]
    if named:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(single), special_tokens=named
        )
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    loaded.chat_template = template
    return loaded


TOOLS: Final = ("<tool_call>", "</tool_call>")
THOUGHTS: Final = ("<think>", "</think>")


@cache
def family(name: str) -> "PreTrainedTokenizerFast":
    """The tokenizer of a family; not to be changed."""
    if name == "qwen2.5":
        tokens = _byte_level(CHATML_TOKENS)
        return _loaded(tokens, CHATML, bos=None, eos="<|im_end|>", words=TOOLS)
    if name == "qwen3":
        tokens = _byte_level(CHATML_TOKENS)
        return _loaded(tokens, QWEN3, bos=None, eos="<|im_end|>", words=(*TOOLS, *THOUGHTS))
    if name == "smollm2":
        tokens = _byte_level(CHATML_TOKENS, words=None)
        return _loaded(tokens, CHATML, bos="<|im_start|>", eos="<|im_end|>")
    if name == "llama3":
        marks = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
        tokens = _byte_level(marks)
        return _loaded(tokens, LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>", begins=True)
    if name == "deepseek":
        tokens = _byte_level(("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"))
        return _loaded(
            tokens,
            DEEPSEEK,
            bos="<｜begin▁of▁sentence｜>",
            eos="<｜end▁of▁sentence｜>",
            begins=True,
            words=("<｜User｜>", "<｜Assistant｜>", *THOUGHTS),
        )
    ends = ("<unk>", "<s>", "</s>")
    if name in ("llama2", "mistral"):
        scheme = {"llama2": "always", "mistral": "first"}[name]
        tokens = _sentencepiece((*ends, "[INST]", "[/INST]"), prepends=scheme)
        return _loaded(tokens, MISTRAL, bos="<s>", eos="</s>", begins=True)
    assert name == "gemma", name
    tokens = _sentencepiece(
        ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), prepends="never"
    )
    return _loaded(
        tokens, GEMMA, bos="<bos>", eos="<eos>", begins=True, words=("\n\n", "\n\n\n", "\t\t")
    )


FAMILIES: Final = (
    "qwen2.5",
    "qwen3",
    "smollm2",
    "llama3",
    "deepseek",
    "llama2",
    "mistral",
    "gemma",
)


def tokenizer_named(name: str) -> Any:
    return make_tokenizer() if name == "toy" else family(name)


def encoder_of(name: str, chat: bool = True) -> PromptEncoder:
    return PromptEncoder(tokenizer_named(name), chat if name != "toy" else False)


def ids_before(tokenizer: Any, prompt: Prompt, chat: bool) -> list[int]:
    """What `PromptEncoder` gave before it told markup and data apart: the text of both in one run."""
    if not chat:
        ids: list[int] = tokenizer(prompt.text)["input_ids"]
        return ids
    turns = [
        {"role": "user", "content": prompt.user.strip("\n")},
        {"role": "assistant", "content": prompt.assistant},
    ]
    opened = tokenizer.apply_chat_template(
        turns, tokenize=False, continue_final_message=True, date_string="26 Jul 2024"
    )
    return list(tokenizer(opened + prompt.continued, add_special_tokens=False)["input_ids"])
