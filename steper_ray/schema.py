"""The rows that flow between stages, and their Arrow schemas.

Five records and no more: `Question` and `Passage` come in, `Step` and `Chain` are what a reasoning
run produces, `StepExample` is what the student is trained on. Every stage reads and writes these as
Parquet (or Lance), so any output opens with pandas or `datasets`.

Words used the same way everywhere:

* *chain*: one question answered in several steps; *step*: one search plus one written sentence.
* *rationale* r_s: the sentence written at step s, without the step terminator.
* *ability*: what a step teaches: `init`, `exp` or `agg` (StepER, section 3.2; selection/abilities.py).
* *stage*: a step of the pipeline: index, build, train …
"""

from dataclasses import dataclass
from typing import Final, Literal

Ability = Literal["init", "exp", "agg"]


ABILITIES: Final[tuple[Ability, ...]] = ("init", "exp", "agg")


StopReason = Literal["answered", "forced", "no_query", "nothing_new"]
"""Why a chain ended: it gave its answer, or was asked for it because the steps ran out, a step named
nothing to search for, or searches brought nothing new."""


FinishReason = Literal["stop", "length", "other"]
"""Why the writing of a step ended: at the text that ends one or at the end of text (also where the limit of
tokens only cut what came after the step); at the limit of tokens; for another reason."""


def is_forced(reason: str) -> bool:
    """Whether a chain that ended for this `StopReason` was asked for its answer."""
    return reason != "answered"


@dataclass(frozen=True, slots=True)
class Passage:
    """A searchable piece of the corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answer."""

    id: str
    question: str
    answer: str
    answer_aliases: tuple[str, ...] = ()
    supporting_ids: tuple[str, ...] = ()
    """Ids of the gold passages, in chain order; empty where the dataset names none."""
    hops: int | None = None
    """Number of facts the answer needs; null where the dataset does not say."""
    type: str | None = None
    """What the data set calls this kind of question (`bridge`, `comparison`); null where it does not."""

    @property
    def gold_answers(self) -> tuple[str, ...]:
        """Every accepted answer, the main one first."""
        return (self.answer, *self.answer_aliases)


@dataclass(frozen=True, slots=True)
class Step:
    """One search and one sentence."""

    query: str
    passage_ids: tuple[str, ...]
    """Passages this search added (k at most; passages seen before are dropped, not refilled)."""
    rationale: str
    mean_logprob: float | None
    """Mean log-probability of the generated tokens, in nats; null where the engine gives none."""
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int | None = None
    """Prompt tokens that the engine had in its prefix cache; null where it does not say."""
    dropped_passages: int = 0
    """Oldest passages left out of this step's prompt because it would have outgrown the context."""
    search_seconds: float = 0.0
    generate_seconds: float = 0.0
    finish_reason: FinishReason | None = None
    """Why the engine stopped; null where it does not say, and in chains of older versions."""
    thought: str | None = None
    """What the model thought before it wrote the step: in no prompt and no target; null where it thought
    nothing, and in chains of older versions."""
    cut_sentences: int = 0
    """Sentences that the model wrote after the step and that were left out."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the limit of tokens (`reasoning.max_step_tokens`) ended the step before its end."""
        return self.finish_reason == "length"


SCORES: Final = ("em", "f1", "acc", "right")
"""Columns of a chain's scores."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One question answered step by step, with the verdict on it."""

    id: str
    question_id: str
    question: str
    gold_answers: tuple[str, ...]
    hops: int | None
    passages: tuple[Passage, ...]
    """Every passage retrieved, in the order it was first seen."""
    steps: tuple[Step, ...]
    answer: str
    stop_reason: StopReason
    em: float
    """Exact match against the gold answers, 0 or 1 (HotpotQA normalisation, best alias)."""
    f1: float
    acc: float
    """Whether a gold answer is contained in the answer, on word boundaries, 0 or 1."""
    model: str
    corpus_version: str
    right: float = 0.0
    """Whether the answer is right by the task, 0 or 1: what selection and second attempts go by."""
    supporting_ids: tuple[str, ...] = ()
    """Ids of the gold passages; empty where the dataset names none."""
    teacher: str = ""
    """Which one of an ensemble answered; empty for `build.teacher`."""
    sample: int = 1
    """Which of the answers that were drawn from this model, counted from 1."""
    attempt: int = 1
    """1; or 2 where the model was shown its wrong first attempt and what it said was wrong with it."""
    rationalized: bool = False
    """Whether the model was shown the gold answer."""
    critique: str | None = None
    """What the model said was wrong with its first attempt; null but for second ones."""
    error: str | None = None
    """Why no chain could be produced for this question; null when one was."""
    rejected: str | None = None
    """Reason code why selection leaves the chain out of training; null when it is kept."""
    type: str | None = None
    """As the data set calls this kind of question; null in chains of older versions."""

    @property
    def asked(self) -> Question:
        """The question that it answers."""
        gold, *aliases = self.gold_answers
        return Question(
            id=self.question_id,
            question=self.question,
            answer=gold,
            answer_aliases=tuple(aliases),
            supporting_ids=self.supporting_ids,
            hops=self.hops,
            type=self.type,
        )

    @property
    def answer_forced(self) -> bool:
        """Whether the last prompt itself began the answer, as the model had not given one."""
        return is_forced(self.stop_reason)


@dataclass(frozen=True, slots=True)
class StepExample:
    """One training example: everything the step saw, and what it should write."""

    id: str
    chain_id: str
    step: int
    """Step number s, counted from 1."""
    ability: str
    """Name of the ability in the data set's scheme (selection/abilities.py)."""
    question: str
    passages: tuple[Passage, ...]
    """P_≤s in the order retrieved."""
    reasoning: tuple[str, ...]
    """R_<s, the rationales of the earlier steps."""
    forced: bool
    """Whether the prompt begins the answer (the answer flag is then no part of the target)."""
    prompt: str
    """The rendered prompt with every passage in it, for reading and for other trainers."""
    target: str
    """What the model should write, up to the end of the text that ends the step."""
    found: tuple[int, ...] = ()
    """How many of the passages each search brought; empty where all came with the first."""
    thought: str | None = None
    """What the teacher thought before it wrote the target; no part of prompt and target."""


UNKNOWN_HOPS: Final = "unknown"
