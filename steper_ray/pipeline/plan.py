"""`steper plan` for a run."""

from typing import TYPE_CHECKING

from steper_ray.pipeline.build import run_teachers, training_questions
from steper_ray.planning.forecast import Plan
from steper_ray.planning.plan import check_plan, plan_build

if TYPE_CHECKING:
    from steper_ray.chains.usage import Progress
    from steper_ray.run.config import RunConfig


def plan_run(config: "RunConfig", on_progress: "Progress | None" = None) -> Plan:
    """Predict the build of a run from a sample of its training questions; writes `plan.json`."""
    check_plan(config.build)
    return plan_build(
        config.build,
        select=config.select,
        reasoning=config.reasoning,
        teachers=run_teachers(config),
        questions=training_questions(config),
        corpus=config.folder.corpus,
        chains=config.folder.chains,
        out=config.folder.plan,
        stats=config.folder.stats,
        log=config.folder.log("plan"),
        on_progress=on_progress,
    )
