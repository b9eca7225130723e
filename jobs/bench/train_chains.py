"""The chains that `train.py` trains on: random words in the real prompts of a framework, as token ids.

Shapes as in the paper: 5 searches of 4 passages of 100 tokens, a question of 20, steps of about 30.
Prompts, targets and their tokens are made by the code that makes them in training; only the words are
invented, and the tokenizer, which has one token a word.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from string import ascii_lowercase
from typing import Any, Final

from steper_ray.reasoning.batch_encoder import BatchEncoder
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import FRAMEWORKS, ircot, self_ask
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain, Passage, Step, StepExample
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.examples import step_examples
from steper_ray.training.packing import depth_first, packed_length, prefix_tree
from steper_ray.training.tokenization import TokenExample, tokenize_rows

STEPS: Final = 5

PASSAGES_PER_STEP: Final = 4

TITLE_WORDS: Final = 2

TEXT_WORDS: Final = 90
"""With title, labels and line breaks a passage has 100 tokens."""

QUESTION_WORDS: Final = 17

VOCABULARY: Final = 32_000

WORDS: Final = 31_000
"""Invented words that are one token after a space."""

UNSPACED: Final = 500
"""How many of them are one token without a space before them too, as behind a bracket."""

PAD: Final = "<|pad|>"

END: Final = "<|end|>"


def reasoning_of(framework: str) -> ReasoningConfig:
    """How a question is asked."""
    return complete_reasoning(
        ReasoningConfig(
            framework=framework, passages_per_step=PASSAGES_PER_STEP, max_prompt_tokens=4096
        )
    )


def make_examples(framework: str, chains: int) -> list[StepExample]:
    """The step-wise examples of so many chains."""
    reasoning = reasoning_of(framework)
    return [
        example
        for number in range(chains)
        for example in step_examples(make_chain(framework, number), reasoning)
    ]


def make_chains(
    framework: str, chains: int, encoder: BatchEncoder | None = None
) -> list[list[TokenExample]]:
    """The examples of each chain as token ids, in the order in which training lays them out.

    encoder: of another tokenizer than `word_tokenizer`
    """
    examples, _ = tokenize_rows(
        [asdict(example) for example in make_examples(framework, chains)],
        encoder or BatchEncoder(word_tokenizer()),
        reasoning=reasoning_of(framework),
        scheme=STEPER,
        abilities=STEPER.names,
        whole_path=False,
    )
    parts = [examples[first : first + STEPS] for first in range(0, len(examples), STEPS)]
    return [[part[i] for i in depth_first([example.ids for example in part])] for part in parts]


def make_chain(framework: str, number: int) -> Chain:
    """A chain of random words; the same words in each framework."""
    rng = random.Random(number)
    question = " ".join(words(rng, QUESTION_WORDS)) + "?"
    passages = [
        Passage(f"{number}-{place}", " ".join(words(rng, TITLE_WORDS)), f"{text}.")
        for place in range(STEPS * PASSAGES_PER_STEP)
        if (text := " ".join(words(rng, TEXT_WORDS)))
    ]
    rationales = [RATIONALES[framework](rng, step) for step in range(1, STEPS + 1)]
    return chain_of(number, question, passages, rationales)


def chain_of(
    number: int, question: str, passages: Sequence[Passage], rationales: Sequence[str]
) -> Chain:
    """A chain whose steps say these after a search each, PASSAGES_PER_STEP passages at a time."""
    steps = []
    for step, rationale in enumerate(rationales):
        found = passages[step * PASSAGES_PER_STEP : (step + 1) * PASSAGES_PER_STEP]
        ids = tuple(passage.id for passage in found)
        steps.append(Step("query", ids, rationale, None, prompt_tokens=0, generated_tokens=0))
    return Chain(
        id=f"c{number:06d}",
        question_id=f"q{number:06d}",
        question=question,
        gold_answers=("x",),
        hops=None,
        passages=tuple(passages),
        steps=tuple(steps),
        answer="x",
        stop_reason="answered",
        em=1.0,
        f1=1.0,
        acc=1.0,
        right=1.0,
        model="teacher",
        corpus_version="v1",
    )


def ircot_rationale(rng: random.Random, step: int) -> str:
    """A sentence; the last one with the answer."""
    if step < STEPS:
        return f"{_sentence(rng, 28)}."
    return f"{_sentence(rng, 20)}. {ircot.ANSWER_FLAG} {_sentence(rng, 2)}."


def self_ask_rationale(rng: random.Random, step: int) -> str:
    """An answer to the last question and the next one; the last step with the final answer."""
    said = "Yes" if step == 1 else _sentence(rng, 12)
    if step < STEPS:
        return f"{said}.\n{self_ask.FOLLOW_UP} {_sentence(rng, 12)}?"
    return f"{said}.\n{self_ask.ANSWER_FLAG} {_sentence(rng, 2)}."


def react_rationale(rng: random.Random, step: int) -> str:
    """A thought and an action."""
    action = "Search" if step < STEPS else "Finish"
    inside = " ".join([word(rng.randrange(UNSPACED)), *words(rng, 7 if step < STEPS else 1)])
    return f"{_sentence(rng, 15)}.\nAction: {action}[{inside}]"


RATIONALES: Final = {
    "ircot": ircot_rationale,
    "self_ask": self_ask_rationale,
    "react": react_rationale,
}
"""The text of a step, by framework; the same number of tokens in each chain."""


def word(number: int) -> str:
    """An invented word that no framework takes for one of its own."""
    letters = []
    for _ in range(4):
        number, letter = divmod(number, 26)
        letters.append(ascii_lowercase[letter])
    return "x" + "".join(letters)


def words(rng: random.Random, count: int) -> list[str]:
    """Random words."""
    return [word(number) for number in rng.choices(range(WORDS), k=count)]


def _sentence(rng: random.Random, count: int) -> str:
    return " ".join(words(rng, count))


@cache
def word_tokenizer() -> Any:
    """A byte-level BPE without merges that knows the words of the prompts and the invented ones whole."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    frames = [
        example.prompt + example.target for name in FRAMEWORKS for example in make_examples(name, 1)
    ]
    parts = {part for text in frames for part, _ in split.pre_tokenize_str(text)}
    labels = sorted(part for part in parts if not part.lstrip("Ġ").startswith("x"))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    invented = [f"Ġ{word(number)}" for number in range(WORDS)]
    unspaced = [word(number) for number in range(UNSPACED)]
    tokens = dict.fromkeys([PAD, END, *alphabet, *labels, *unspaced, *invented])
    assert len(tokens) <= VOCABULARY, len(tokens)
    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def separate_tokens(chains: Sequence[Sequence[TokenExample]]) -> int:
    """Tokens of all examples, each on its own."""
    return sum(len(example.ids) for chain in chains for example in chain)


def tree_tokens(chains: Sequence[Sequence[TokenExample]]) -> int:
    """Tokens of the chains' prefix trees."""
    return sum(packed_length(prefix_tree([example.ids for example in chain])) for chain in chains)


def linear_ids(chain: Sequence[TokenExample]) -> Any:
    """The one sequence that every example of a chain is the beginning of, (tokens,) int32.

    Raises ValueError where there is none, as in IRCoT, whose passages stand before its reasoning.
    """
    longest = max((example.ids for example in chain), key=len)
    for example in chain:
        if (longest[: len(example.ids)] != example.ids).any():
            raise ValueError(f"step {example.step} is not the beginning of the last one")
    return longest
