"""What engines say about the text that they wrote, read into our own words."""

from typing import Any, Final

from steper_ray.schema import FinishReason

FINISHED: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    # of other servers than OpenAI's and vLLM's
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
}
"""An engine's word, in lower case → why it stopped."""


UNFINISHED: Final = ("abort", "error")
"""Words of an engine whose text is no reply: its work was ended from outside, or by a fault of its own."""


def finish_reason(word: Any) -> FinishReason | None:
    """Why an engine stopped, from its own word for it; None where it says nothing."""
    if not isinstance(word, str) or not word:
        return None
    return FINISHED.get(word.lower(), "other")
