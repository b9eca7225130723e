"""Chain → one training example per step (StepER, section 3.2)."""

from pathlib import Path
from typing import Any

from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.prompts import make_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain, Passage, StepExample
from steper_ray.selection.abilities import STEPER, AbilityScheme


def step_examples(
    chain: Chain, settings: ReasoningConfig, scheme: AbilityScheme = STEPER
) -> list[StepExample]:
    """One example per step: q, P_≤s and R_<s as input, r_s with the text that ends the step as target.

    settings: how the student will be asked
    """
    framework, examples = framework_named(settings.framework), []
    rationales = tuple(step.rationale for step in chain.steps)
    counts = tuple(len(step.passage_ids) for step in chain.steps)
    for number, step in enumerate(chain.steps, 1):
        found, reasoning = counts[:number], rationales[: number - 1]
        passages = chain.passages[: sum(found)]
        forced = chain.answer_forced and number == len(chain.steps)
        searches = split_searches(passages, found)
        prompt = make_prompt(settings, chain.question, searches, reasoning, forced=forced)
        examples.append(
            StepExample(
                id=f"{chain.id}/{number}",
                chain_id=chain.id,
                step=number,
                ability=scheme.of(number, len(chain.steps)),
                question=chain.question,
                passages=passages,
                reasoning=reasoning,
                forced=forced,
                prompt=prompt.text,
                target=framework.render_target(step.rationale, forced=forced),
                found=found,
                thought=step.thought,
            )
        )
    return examples


def read_examples(folder: Path | str) -> list[StepExample]:
    """The examples of a data set, ordered by id.

    folder: with the Parquet files, as `RunFolder.examples`
    """
    import pyarrow.dataset as ds

    from steper_ray.arrow import STEP_EXAMPLE_SCHEMA

    files = [str(file) for file in sorted(Path(folder).glob("*.parquet"))]
    rows = ds.dataset(files, schema=STEP_EXAMPLE_SCHEMA).to_table().to_pylist()
    return sorted(map(example_from_row, rows), key=lambda example: example.id)


def example_from_row(row: dict[str, Any]) -> StepExample:
    """A row of `STEP_EXAMPLE_SCHEMA` as a StepExample."""
    lists = {name: tuple(row[name] or ()) for name in ("reasoning", "found")}
    passages = tuple(Passage(**passage) for passage in row["passages"])
    return StepExample(**{**row, **lists, "passages": passages})
