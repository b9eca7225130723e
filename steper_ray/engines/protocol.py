"""The engine protocol: prompts in, steps out, and how tokens are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from steper_ray.reasoning.frameworks.protocol import Prompt


@dataclass(frozen=True, slots=True)
class Generation:
    """The text that an engine wrote after a prompt, up to and without the stop text."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    """The stop or end-of-text token included."""
    logprob_sum: float | None = None
    """Sum of the generated tokens' log-probabilities in nats; None where the engine gives none."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; None where the engine does not say."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of the generated tokens in nats; None where the engine gives none."""
        if self.logprob_sum is None:
            return None
        return self.logprob_sum / max(1, self.generated_tokens)


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
