"""Reading that settles: what a framework makes of a text, it makes of it again when it stands in a target.

What a reader takes off (marks, quotes, what follows an answer) may bring to light what it would take off at
a second look: `1[**`, quotes in brackets in quotes. So a text is read until the step reads back as it is,
which texts of models do at once. Cost: two more readings, of texts that are mostly short by then.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from steper_ray.reasoning.frameworks.protocol import ParsedStep, ends_of

MAX_READINGS: Final = 8
"""What changes more often than this is noise, and says nothing."""


def settled(
    text: str,
    read: Callable[..., ParsedStep],
    write: Callable[..., str],
    *,
    forced: bool,
    stops: Sequence[str],
) -> ParsedStep:
    """The step in a text, as it is read back from its target, whole or cut at the text that ends it.

    read:  what a text says at a first look, from the text and `forced`
    write: a rationale's target, see `Framework.render_target`
    stops: see `Framework.STOPS`
    """
    step = read(text, forced=forced)
    for _ in range(MAX_READINGS):
        target = write(step.rationale, forced=forced)
        ends = (target.find(end) for end in ends_of(stops, forced=forced))
        end = min((at for at in ends if at >= 0), default=None)
        for form in dict.fromkeys((target.rstrip(), target[:end].rstrip())):
            again = replace(read(form, forced=forced), cut_sentences=step.cut_sentences)
            if again != step:
                break
        else:
            return step
        step = again
    return read("", forced=forced)
