"""The engine protocol: prompts in, steps out, and how tokens are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.schema import FinishReason


@dataclass(frozen=True, slots=True)
class Generation:
    """The text that an engine wrote after a prompt, up to and without the stop text."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    """The stop or end-of-text token included."""
    logprob_sum: float | None = None
    """Log-probabilities of `logprob_tokens` tokens together, in nats; None where the engine gives none."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; None where the engine does not say."""
    finish_reason: FinishReason | None = None
    """Why the engine stopped; None where it does not say."""
    logprob_tokens: int | None = None
    """Generated tokens that `logprob_sum` is over; None: all of them."""
    thought: str | None = None
    """What the model thought before, if that is not in the text."""

    @property
    def summed_tokens(self) -> int:
        """Number of tokens that `logprob_sum` is over."""
        return self.generated_tokens if self.logprob_tokens is None else self.logprob_tokens

    @property
    def mean_logprob(self) -> float | None:
        """Mean of the log-probabilities in `logprob_sum`, in nats; None where there are none."""
        return None if self.logprob_sum is None else self.logprob_sum / max(1, self.summed_tokens)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Least probability of the likeliest tokens that are drawn from."""
    seed: int | None = None
    """Draws the same text from the same prompt, where the engine can; None draws any."""

    def at(self, step: int) -> "Sampling":
        """This sampling with a seed of its own for a step."""
        return self if self.seed is None else replace(self, seed=self.seed + step)


GREEDY: Final = Sampling()


class Engine(Protocol):
    """An engine: writes the steps of chains."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt; threads may call it, and `count_text`, at the same time."""
        ...

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself."""
        ...

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation: ...
