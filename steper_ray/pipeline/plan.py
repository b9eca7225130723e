"""`steper plan` for a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.chains.teachers import teacher_settings
from steper_ray.data.questions import load_questions
from steper_ray.errors import InputError
from steper_ray.evaluation.settings import STUDENT
from steper_ray.models.architecture import Architecture, read_architecture
from steper_ray.pipeline.build import run_teachers, training_questions
from steper_ray.planning.computed import (
    ComputedPlan,
    ComputedStudent,
    check_computed,
    compute_student,
    compute_teacher,
)
from steper_ray.planning.forecast import Plan
from steper_ray.planning.gpus import chosen_gpu
from steper_ray.planning.plan import check_plan, plan_build
from steper_ray.planning.question_tokens import question_tokens
from steper_ray.planning.sample import write_computed
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.run.versions import in_use

if TYPE_CHECKING:
    from steper_ray.chains.usage import Progress
    from steper_ray.run.config import RunConfig


UNCOUNTED: Final = 1000
"""Questions that are taken where their number is not known."""


def plan_run(config: "RunConfig", on_progress: "Progress | None" = None) -> Plan:
    """Predict the build of a run from a sample of its training questions; writes `plan.json`."""
    check_plan(config.build)
    with in_use(config.folder.corpus) as corpus:
        return plan_build(
            config.build,
            select=config.select,
            reasoning=config.reasoning,
            teachers=run_teachers(config),
            questions=training_questions(config),
            corpus=corpus,
            chains=config.folder.chains,
            out=config.folder.plan,
            stats=config.folder.stats,
            log=config.folder.log("plan"),
            on_progress=on_progress,
        )


def compute_run(config: "RunConfig") -> ComputedPlan:
    """Compute the plan of a run from the configurations of its models; writes `plan.json`.

    Needs no Ray, GPU, weights or questions; fetches at most a `config.json` from the Hub.
    Raises InputError where something never fits, and for a teacher whose configuration cannot be had.
    """
    plan, build = config.plan, config.build
    check_computed(build)
    reasoning = teacher_settings(
        config.reasoning, instruction=build.instruction, demonstrations=build.demonstrations
    )
    tokens = question_tokens(reasoning, plan)
    count = _count_questions(config)
    questions = UNCOUNTED if count is None else count
    model = _teacher(config)
    teacher = compute_teacher(model, build, build.engine or config.engine, plan, tokens, questions)
    student, notes = _student(config, questions)
    if build.ensemble:
        notes.append("build.ensemble: only build.teacher is computed")
    computed = ComputedPlan(
        questions=questions,
        questions_known=count is not None,
        tokens=tokens,
        gpu=chosen_gpu(plan),
        assumed=plan,
        teacher=teacher,
        student=student,
        notes=tuple(notes),
    )
    write_computed(config.folder.plan, computed)
    return computed


def _count_questions(config: "RunConfig") -> int | None:
    """Number of training questions: counted where their files are here, else `plan.questions`."""
    given = config.questions.train
    addresses = [given] if isinstance(given, str) else list(given)
    count = config.plan.questions
    if any(addresses) and all(Path(address).expanduser().exists() for address in addresses):
        count = len(load_questions(config.questions, "train", config.folder.inputs))
    limit = config.build.limit
    return count if count is None or limit is None else min(count, limit)


def _teacher(config: "RunConfig") -> Architecture:
    plan, build = config.plan, config.build
    if plan.teacher_config is not None:
        return read_architecture(plan.teacher_config, "plan.teacher_config", config.hub)
    if not build.teacher:
        raise InputError(
            "build.teacher is not set; name a model, or give its config.json with --model-config"
        )
    return read_architecture(build.teacher, "build.teacher", config.hub, build.revision)


def _student(config: "RunConfig", questions: int) -> tuple[ComputedStudent | None, list[str]]:
    """The student, and notes; None where its configuration cannot be had."""
    plan, train = config.plan, config.train
    given = plan.student_config or train.model
    if not given:
        return None, []
    setting = "plan.student_config" if plan.student_config else "train.model"
    revision = None if plan.student_config else train.revision
    try:
        model = read_architecture(given, setting, config.hub, revision)
    except InputError as error:
        if plan.student_config:
            raise
        return None, [
            f"student: not computed ({error}); give its config.json with --student-config"
        ]
    reasoning = complete_reasoning(config.reasoning)
    student = compute_student(model, train, reasoning, plan, questions * config.build.samples)
    ranks = (config.eval.engine_of(STUDENT) or config.engine).tensor_size
    if model.heads % ranks:
        note = (
            f"student: its {model.heads} heads cannot be divided over the {ranks} GPUs of the engines that "
            "evaluate it; set tensor_parallel_size in eval.engine.args"
        )
        return student, [note]
    return student, []
