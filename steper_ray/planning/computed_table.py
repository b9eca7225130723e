"""A computed plan as lines for people."""

from collections.abc import Iterator

from steper_ray.planning.computed import ComputedPlan, ComputedStudent, ComputedTeacher
from steper_ray.planning.training import states_line
from steper_ray.text import UNKNOWN


def computed_lines(plan: ComputedPlan) -> list[str]:
    """The plan as text: every figure is arithmetic, and says on what."""
    gpu, assumed = plan.gpu, plan.assumed
    head = (
        f"computed, not measured: {gpu.name} of {gpu.memory_bytes / 1e9:,.0f} GB, {gpu.flops / 1e12:,.0f} "
        f"TFLOP/s, {gpu.bytes_per_second / 1e9:,.0f} GB/s; {assumed.mfu:.0%} of the arithmetic (plan.mfu) "
        f"and {assumed.bandwidth_share:.0%} of the bandwidth (plan.bandwidth_share) are assumed"
    )
    tokens = plan.tokens
    question = (
        f"a question: {tokens.expected:,} tokens expected at its last step, {tokens.longest:,} at most "
        f"(reasoning.max_prompt_tokens); {tokens.read:,} read and {tokens.written:,} written in all steps"
    )
    lines = [head, question, *_teacher_lines(plan.teacher, plan)]
    if plan.student is not None:
        lines += _student_lines(plan.student)
    return [*lines, *plan.notes]


def _teacher_lines(teacher: ComputedTeacher, plan: ComputedPlan) -> Iterator[str]:
    fit = teacher.fit
    active = ""
    if teacher.active_parameters not in (None, teacher.parameters):
        active = f", {_billions(teacher.active_parameters or 0)} of them for each token"
    yield f"teacher: {teacher.model or UNKNOWN}, {_billions(teacher.parameters)} parameters{active}"
    if fit.gpus:
        yield (
            f"engine: {fit.gpus} GPUs; of {fit.utilization * plan.gpu.memory_bytes / 1e9:,.1f} GB of each "
            f"(engine.args.gpu_memory_utilization) weights {fit.weight_bytes / 1e9:,.1f}, activations and "
            f"the like {fit.overhead_bytes / 1e9:,.1f} (plan.overhead_gb), keys and values "
            f"{fit.key_value_bytes / 1e9:,.1f}"
        )
    else:
        yield f"engine: {fit.key_value_bytes / 1e9:,.1f} GB of keys and values (engine.cpu_kv_cache_gib)"
    yield _questions_line(teacher)
    known = "" if plan.questions_known else " (as many are taken; give plan.questions)"
    yield (
        f"build: {plan.questions:,} questions{known}: {teacher.read_tokens:,} prompt tokens computed, "
        f"{teacher.written_tokens:,} written; {_hours(teacher.hours)} of {teacher.replicas} "
        f"engine{'' if teacher.replicas == 1 else 's'} (reading {_hours(teacher.read_hours)}, writing "
        f"{_hours(teacher.write_hours)})"
    )


def _questions_line(teacher: ComputedTeacher) -> str:
    """How many questions an engine has room for, against `engine.max_num_seqs`."""
    fit = teacher.fit
    if fit.token_bytes is None or fit.expected_questions is None:
        return (
            "keys and values: not known, this model's layers keep something else (states, chunks, shared "
            "keys); plan with a sample"
        )
    asked, room = fit.max_num_seqs, fit.expected_questions
    line = (
        f"keys and values: {fit.token_bytes:,.0f} bytes a token on each GPU; an engine holds {room:,} "
        f"questions of the expected length, {fit.longest_questions:,} of the longest"
    )
    if asked > room:
        return (
            f"{line}: engine.max_num_seqs {asked} is {asked / max(1, room):,.1f} times that; lower it to "
            f"{max(1, room)}, or take more or larger GPUs"
        )
    return f"{line} (engine.max_num_seqs {asked})"


def _student_lines(student: ComputedStudent) -> Iterator[str]:
    storage = student.storage
    adapters = ""
    if student.trained != student.parameters:
        adapters = f", {_billions(student.trained)} trained (train.lora)"
    yield f"student: {student.model or UNKNOWN}, {_billions(student.parameters)} parameters{adapters}"
    states = "states: not computed with offloading or 4-bit weights"
    if student.stage_bytes is not None:
        states = states_line(student.stage_bytes, student.zero_stage, student.workers)
    yield f"{states}; activations are measured by steper train --dry-run alone"
    yield (
        f"training: {student.tokens:,} tokens computed if every chain is kept, {_hours(student.hours)} "
        f"of {student.workers} workers; on disk {storage.checkpoints} checkpoints of "
        f"{storage.checkpoint / 1e9:,.1f} GB, {storage.students} students of "
        f"{storage.student / 1e9:,.1f} GB"
    )


def _hours(hours: float | None) -> str:
    if hours is None:
        return f"{UNKNOWN} hours"
    if hours >= 10:
        return f"{hours:,.0f} hours"
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours:.2g} hours"


def _billions(number: int) -> str:
    return f"{number / 1e9:,.2f} B" if number >= 1e9 else f"{number / 1e6:,.1f} M"
