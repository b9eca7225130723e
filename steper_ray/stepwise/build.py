"""Questions → chains → step-wise examples: the teacher's work, kept whole."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from steper_ray.errors import StageError
from steper_ray.models import check_model
from steper_ray.questions import read_questions
from steper_ray.retrieval import Retriever
from steper_ray.schema import STAGES, STEP_EXAMPLE_SCHEMA, Chain
from steper_ray.section import Section
from steper_ray.stepwise.chains import Progress, chain_from_row, write_chains
from steper_ray.stepwise.select import SelectConfig, explode, rejection

if TYPE_CHECKING:
    import pyarrow as pa

    from steper_ray.config import RunConfig


class BuildConfig(Section):
    """The teacher and what it works on."""

    teacher: str = ""
    """Hugging Face folder or Hub name of the teacher."""
    limit: PositiveInt | None = None
    """Use only the first so many training questions; null uses all."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """Every question accounted for."""

    questions: int
    kept: int
    rejected: dict[str, int]
    """Chains left out, by reason code."""
    examples: dict[str, int]
    """Examples by stage."""
    prompt_tokens: int
    generated_tokens: int
    dropped_passages: int
    """Passages left out of prompts that would have outgrown the context."""
    forced: int
    seconds: float

    @property
    def questions_per_second(self) -> float:
        """Questions a second, engine start included."""
        return self.questions / max(self.seconds, 1e-9)


def build(config: "RunConfig", on_progress: Progress | None = None) -> BuildSummary:
    """Let the teacher answer the training questions and write `chains/` and `stepwise/`.

    Needs a running Ray and an indexed corpus. Raises InputError for unusable input.
    """
    started = time.monotonic()
    teacher = check_model(config.build.teacher, "build.teacher")
    questions = read_questions(config.questions.train, "questions.train")[: config.build.limit]
    Retriever(config.corpus_dir)
    write_chains(
        questions,
        config.chains_dir,
        model=teacher,
        corpus=config.corpus_dir,
        reasoning=config.reasoning,
        engine=config.engine,
        log=config.log_file("build"),
        finish=_Judge(config.select),
        on_progress=on_progress,
    )
    write_examples(config)
    return summarize_build(config, len(questions), time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Puts selection's verdict on a chain; a class so that it travels to the actors."""

    config: SelectConfig

    def __call__(self, chain: Chain) -> Chain:
        return replace(chain, rejected=rejection(chain, self.config))


def write_examples(config: "RunConfig") -> None:
    """Write `stepwise/` from the kept chains of `chains/`."""
    import ray

    partial = config.stepwise_dir.with_name("stepwise.partial")
    shutil.rmtree(partial, ignore_errors=True)
    instruction = config.reasoning.instruction

    def examples(batch: "pa.Table") -> Iterator["pa.Table"]:
        import pyarrow as pa

        chains = [chain_from_row(row) for row in batch.to_pylist()]
        rows = [
            asdict(example)
            for chain in chains
            if chain.rejected is None
            for example in explode(chain, instruction)
        ]
        yield pa.Table.from_pylist(rows, schema=STEP_EXAMPLE_SCHEMA)

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        chains = ray.data.read_parquet(str(config.chains_dir))
        chains.map_batches(examples, batch_size=256, batch_format="pyarrow").write_parquet(
            str(partial)
        )
    shutil.rmtree(config.stepwise_dir, ignore_errors=True)
    partial.rename(config.stepwise_dir)


def summarize_build(config: "RunConfig", questions: int, seconds: float) -> BuildSummary:
    """Count what was written; raises StageError if a question is neither kept nor rejected."""
    import pyarrow.parquet as pq

    chains = pq.read_table(
        config.chains_dir, columns=["id", "rejected", "stop_reason", "steps"]
    ).to_pylist()
    reasons = Counter(chain["rejected"] for chain in chains if chain["rejected"] is not None)
    stages = Counter(pq.read_table(config.stepwise_dir, columns=["stage"])["stage"].to_pylist())
    steps = [step for chain in chains for step in chain["steps"]]
    summary = BuildSummary(
        questions=questions,
        kept=len(chains) - reasons.total(),
        rejected=dict(sorted(reasons.items())),
        examples={stage: stages[stage] for stage in STAGES},
        prompt_tokens=sum(step["prompt_tokens"] for step in steps),
        generated_tokens=sum(step["generated_tokens"] for step in steps),
        dropped_passages=sum(step["dropped_passages"] for step in steps),
        forced=sum(chain["stop_reason"] == "forced" for chain in chains),
        seconds=seconds,
    )
    if len({chain["id"] for chain in chains}) != questions or len(chains) != questions:
        raise StageError(
            f"build: {questions} questions went in, {len(chains)} chains came out; "
            f"see {config.log_file('build')}"
        )
    return summary
