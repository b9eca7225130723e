"""The toy tokenizer: one token a word of the toy world, bytes for everything else.

A byte-level BPE without merges: a word (with its leading space) that is in the vocabulary is one token
(`ignore_merges`, as in Llama 3), any other text falls back to its bytes, so every string survives a
round trip.
"""

from typing import TYPE_CHECKING

from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from steper_ray.toy.asking import CUE, INSTRUCTION
from steper_ray.toy.world import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer of both toy models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    frame = f"\n\nTitle:\nText:\n\nQuestion:\n{CUE}"
    numbers = "".join(f" {n}" for n in range(10))
    text = f"{INSTRUCTION} {ANSWER_FLAG}{frame}{numbers} " + " ".join(vocabulary())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word, _ in split.pre_tokenize_str(text)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([END_OF_TEXT, PAD, *alphabet, *words])
    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PAD, model_max_length=1024
    )
