"""Whether a model's loss is the one that is trained on: checked before the first step, on its own weights.

The trainer computes the loss by its own ways: the head in chunks and only where something is supervised,
examples padded to one length, or packed by their common prefixes. Each rests on what a model does, and a
model that does something else would learn another loss in silence. So two examples of at most 256 tokens
with a common prefix are put through the model's own forward pass, one at a time and with nothing of ours,
and through each way. A way that gives another loss, or fails, is not taken. Costs some ten short
forward passes.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from steper_ray.errors import InputError
from steper_ray.training.attention import ATTENTION, CannotPackError
from steper_ray.training.packing import prefix_tree
from steper_ray.training.student import StudentLoss
from steper_ray.training.tensors import Batch, packed_batch, padded_batch
from steper_ray.training.tokenization import TokenExample

logger = logging.getLogger(__name__)


MOST_TOKENS: Final = 256
"""Of an example of the check."""


MOST_CHARACTERS: Final = 160
"""Of another library's message."""


TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far two ways may be apart, as `apart` measures it.

Measured on a CPU: in fp32 at most 7e-6 between these ways (SmolLM2-135M, Qwen2.5-0.5B); in bf16 0.014
between two kernels of attention (SmolLM2). A factor of 1.1 on the logits, which must be found, is 0.054.
"""


FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model's code raises where it is not made for the way that it is called."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of computing the loss gives for the two examples."""

    nll_P: Tensor | None
    """(P,) fp32: of each supervised token, in nats; None if the way fails."""
    error: Exception | None = None
    """How it fails."""

    def __str__(self) -> str:
        if self.nll_P is not None:
            return f"{float(self.nll_P.mean()):.4f}"
        line = next(iter(str(self.error).strip().splitlines()), "")
        return f"an error ({type(self.error).__name__}: {line}"[:MOST_CHARACTERS] + ")"


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways of computing the loss; all ranks take each together."""

    engine: Any
    pad: int
    device: torch.device
    agree: Callable[[float], float]

    def alone(self, *examples: TokenExample) -> Outcome:
        """The model's own forward pass, an example at a time."""
        return self._outcome([self._padded([example]) for example in examples], plain=True)

    def separate(self, *examples: TokenExample) -> Outcome:
        """As separate examples are trained: a row each, padded."""
        return self._as_trained(self._padded(examples))

    def packed(self, *examples: TokenExample) -> Outcome:
        """As packed ones are trained: what they have in common once."""
        tree = prefix_tree([example.ids for example in examples])
        weights = [0.0] * len(examples)
        batch = packed_batch([examples], [tree], weights, self.pad, self.device)
        return self._as_trained(batch)

    def _as_trained(self, batch: Batch) -> Outcome:
        """Twice, because some models fail only in training, and lose tokens at random there."""
        self.engine.train()
        trained = self._outcome([batch], plain=False)
        self.engine.eval()
        return trained if trained.nll_P is None else self._outcome([batch], plain=False)

    def same(self, found: Outcome, expected: Outcome) -> bool:
        """Whether two outcomes are equal but for rounding, on every rank."""
        if found.nll_P is None or expected.nll_P is None:
            return False
        return self.agree(apart(found.nll_P, expected.nll_P)) <= self._tolerance

    def finite(self, outcome: Outcome) -> bool:
        """Whether it is a number, for every token and on every rank."""
        assert outcome.nll_P is not None
        return self.agree(float(not outcome.nll_P.isfinite().all())) == 0

    def release(self) -> None:
        """Give back the weights that ZeRO-3 gathered; what comes may load others."""
        if hasattr(self.engine, "empty_partition_cache"):
            self.engine.empty_partition_cache()

    @property
    def _tolerance(self) -> float:
        """That of the coarsest numbers which the student computes in."""
        return max(TOLERANCE.get(parameter.dtype, 0.0) for parameter in self.engine.parameters())

    def _padded(self, examples: Sequence[TokenExample]) -> Batch:
        return padded_batch(examples, [0.0] * len(examples), self.pad, self.device)

    def _outcome(self, batches: Sequence[Batch], *, plain: bool) -> Outcome:
        try:
            found = [self.engine(_by_token(batch), plain=plain)[1] for batch in batches]
            outcome = Outcome(torch.cat(found))
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            outcome = Outcome(None, error)
        if self.agree(float(outcome.nll_P is None)):
            self.release()
            return Outcome(None, outcome.error or RuntimeError("another worker failed"))
        return outcome


def check_loss(
    engine: Any,
    example: TokenExample,
    *,
    model: str,
    packed: bool,
    pad: int,
    device: torch.device,
    agree: Callable[[float], float] = float,
) -> str | None:
    """Make a student compute its loss in a way that is right; every rank must call it.

    By our head if that is right, else from the model's own logits; packed if that is right, else as
    separate examples, by the attention that the model takes by itself.

    engine:  DeepSpeed's, or the bare student
    example: any that is trained on, the same on every rank
    model:   its name, for messages
    packed:  whether packed rows are wanted
    pad:     any token id
    agree:   gives the largest of the ranks' numbers
    Returns why the student must not be packed, in a few words; None if it may or should not.

    Raises InputError if the model's loss is none that it can be trained by.
    """
    student: StudentLoss = getattr(engine, "module", engine)
    ways = Ways(engine, pad, device, agree)
    engine.eval()
    started = time.monotonic()
    try:
        with torch.no_grad():
            obstacle = _choose(student, ways, cut(example), model, packed)
    finally:
        ways.release()
        engine.train()
    logger.info("%s: its loss was checked in %.1f s", model, time.monotonic() - started)
    return obstacle


def _choose(
    student: StudentLoss,
    ways: Ways,
    examples: tuple[TokenExample, TokenExample],
    model: str,
    packed: bool,
) -> str | None:
    """See `check_loss`."""
    attention = ATTENTION if packed else student.own_attention
    student.model.set_attn_implementation(student.own_attention)
    expected = ways.alone(*examples)
    if expected.nll_P is None:
        raise InputError(
            f"train.model: {model} gives {expected} for plain token ids; take a causal language model"
        )
    if not ways.finite(expected):
        logger.warning("%s: its loss is no number, so it was not checked", model)
        student.model.set_attn_implementation(attention)
        return None
    _check_causal(ways, examples[0], expected, model)
    found = ways.separate(*examples)
    if not ways.same(found, expected) and not student.own_logits:
        logger.info(
            "%s: our head gives %s, the model %s; its own logits are taken, which needs more memory",
            model,
            found,
            expected,
        )
        student.own_logits = True
        found = ways.separate(*examples)
    if not ways.same(found, expected):
        raise InputError(
            f"train.model: {model} cannot be trained on: the trainer's loss is {found}, that of the model "
            f"on the same tokens {expected}; take another model"
        )
    if packed:
        student.model.set_attn_implementation(ATTENTION)
        found = ways.packed(*examples)
        if not ways.same(found, expected):
            student.model.set_attn_implementation(student.own_attention)
            if isinstance(found.error, CannotPackError):
                return str(found.error)
            return f"packed, it gives {found} as its loss in place of {expected}"
    return None


def _check_causal(ways: Ways, example: TokenExample, expected: Outcome, model: str) -> None:
    """Raises InputError if what a model gives for a token depends on those behind it."""
    behind = len(example.ids) // 4
    targets = example.target_tokens - behind
    if targets < 1:
        return
    shorter = replace(example, ids=example.ids[:-behind], target_tokens=targets)
    assert expected.nll_P is not None
    if not ways.same(ways.alone(shorter), Outcome(expected.nll_P[:targets])):
        raise InputError(
            f"train.model: {model} looks ahead: what it predicts for a token changes with the tokens "
            "behind it; take a causal language model"
        )


def cut(example: TokenExample) -> tuple[TokenExample, TokenExample]:
    """Two examples that begin alike, the second shorter, with targets in both what they share and not."""
    ids = example.ids[:MOST_TOKENS]
    half, quarter = len(ids) // 2, max(1, len(ids) // 4)
    branch = np.concatenate([ids[:half], example.ids[-quarter:]])
    return (
        replace(example, ids=ids, target_tokens=half),
        replace(example, ids=branch, target_tokens=max(1, len(branch) // 2)),
    )


def apart(found_P: Tensor, expected_P: Tensor) -> float:
    """Root mean square of the tokens' differences, relative to the losses if these are above 1."""
    expected_P = expected_P.double()
    difference = (found_P.double() - expected_P).square().mean().sqrt()
    share = float(difference / expected_P.square().mean().sqrt().clamp(min=1.0))
    return share if math.isfinite(share) else math.inf


def _by_token(batch: Batch) -> Batch:
    """The batch with every supervised token as an example of its own."""
    tokens = len(batch.target_P)
    return replace(batch, example_P=torch.arange(tokens, device=batch.at_P.device), examples=tokens)
