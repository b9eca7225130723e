"""A plan that is computed from the models' configurations: memory, questions at a time, tokens, hours.

Nothing is measured: sizes of models are exact, what fits follows from them and from one assumed allowance,
and hours are arithmetic over assumed shares of a GPU's speed (the `plan` section). Reading prompts takes
FLOPs, writing takes bandwidth: at each step an engine reads its weights once, and the keys and values of
the questions at work. Both are added, as if none of them overlapped.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from steper_ray.chains.settings import BuildConfig
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import InputError
from steper_ray.models.architecture import Architecture
from steper_ray.planning.engine_fit import EngineFit, fit_engine
from steper_ray.planning.gpus import Gpu, chosen_gpu
from steper_ray.planning.question_tokens import QuestionTokens, question_tokens
from steper_ray.planning.settings import PlanConfig
from steper_ray.planning.training import train_states
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.training.flops import model_flops
from steper_ray.training.settings import TrainConfig
from steper_ray.training.storage import Needed, adapter_weights, storage_of


@dataclass(frozen=True, slots=True)
class ComputedTeacher:
    """The teacher's sizes, and what a build with it takes."""

    model: str
    """Its name, or the file of its configuration."""
    parameters: int
    active_parameters: int | None
    fit: EngineFit
    replicas: int
    questions_at_work: int | None
    """Of each engine: `max_num_seqs`, or the questions that have room where those are fewer."""
    read_tokens: int
    written_tokens: int
    read_hours: float | None
    """Hours of all engines together; None where they cannot be computed."""
    write_hours: float | None

    @property
    def hours(self) -> float | None:
        """Hours of the build."""
        if self.read_hours is None or self.write_hours is None:
            return None
        return self.read_hours + self.write_hours


@dataclass(frozen=True, slots=True)
class ComputedStudent:
    """The student's sizes, and what its training takes."""

    model: str
    """Its name, or the file of its configuration."""
    parameters: int
    trained: int
    heads: int
    workers: int
    zero_stage: int
    stage_bytes: Mapping[int, int] | None
    """ZeRO stage → bytes of weights, gradients and optimizer states on one worker; None where part of them
    lies elsewhere (offloading) or in 4 bits."""
    storage: Needed
    tokens: int
    """That training computes in all epochs, if every chain is kept."""
    hours: float | None


@dataclass(frozen=True, slots=True)
class ComputedPlan:
    """What a run takes, by arithmetic."""

    questions: int
    questions_known: bool
    """Whether they were counted or given; else 1,000 are taken."""
    tokens: QuestionTokens
    gpu: Gpu
    assumed: PlanConfig
    teacher: ComputedTeacher
    student: ComputedStudent | None
    notes: tuple[str, ...]


def check_computed(build: BuildConfig) -> None:
    """Raises InputError for a teacher behind an endpoint, whose memory and speed are not this cluster's."""
    if build.endpoint is not None:
        raise InputError(
            "build.endpoint: the memory and speed of an endpoint cannot be computed; leave --no-sample out"
        )


def compute_teacher(
    model: Architecture,
    build: BuildConfig,
    engine: EngineConfig,
    plan: PlanConfig,
    tokens: QuestionTokens,
    questions: int,
) -> ComputedTeacher:
    """Memory and hours of the teacher; raises InputError for one that never fits or has unknown weights."""
    if model.quantized is not None:
        raise InputError(
            f"build.teacher: its weights are quantized ({model.quantized}), and their bytes do not follow "
            "from its configuration; plan with a sample, without --no-sample"
        )
    gpu = chosen_gpu(plan)
    fit = fit_engine(model, engine, gpu, plan.overhead_gb * 1e9, tokens)
    at_work = fit.max_num_seqs
    if fit.expected_questions is not None:
        at_work = max(1, min(at_work, fit.expected_questions))
    asked = questions * build.samples
    read_s, write_s = _seconds(model, fit, at_work, gpu, plan, tokens)
    return ComputedTeacher(
        model=plan.teacher_config or build.teacher,
        parameters=model.parameters,
        active_parameters=model.active,
        fit=fit,
        replicas=engine.min_replicas,
        questions_at_work=None if fit.expected_questions is None else at_work,
        read_tokens=asked * tokens.read,
        written_tokens=asked * tokens.written,
        read_hours=None if read_s is None else asked * read_s / engine.min_replicas / 3600,
        write_hours=None if write_s is None else asked * write_s / engine.min_replicas / 3600,
    )


def _seconds(
    model: Architecture,
    fit: EngineFit,
    at_work: int,
    gpu: Gpu,
    plan: PlanConfig,
    tokens: QuestionTokens,
) -> tuple[float | None, float | None]:
    """Seconds of an engine for one question: reading, and writing while `at_work` questions share it."""
    if not fit.gpus or model.active is None:
        return None, None
    flops = _forward_flops(model, tokens.read, tokens.expected, tokens.written)
    read = flops / (fit.gpus * gpu.flops * plan.mfu)
    if fit.question_bytes is None:
        return read, None
    step_bytes = fit.weight_bytes + at_work * fit.question_bytes
    write = tokens.written * step_bytes / (gpu.bytes_per_second * plan.bandwidth_share) / at_work
    return read, write


def _forward_flops(model: Architecture, computed: int, length: int, supervised: int) -> float:
    """FLOPs of a forward pass; each computed token is taken to see half of the length."""
    assert model.active is not None
    pairs = computed * length // 2
    return model_flops(model.config, model.active - model.tables, computed, pairs, supervised) / 3


def compute_student(
    model: Architecture,
    train: TrainConfig,
    reasoning: ReasoningConfig,
    plan: PlanConfig,
    chains: int,
) -> ComputedStudent:
    """Memory and hours of the training; raises InputError where its states alone never fit.

    reasoning: complete settings of the student
    chains:    all that a build makes
    """
    tokens, workers, gpu = question_tokens(reasoning, plan), train.min_workers, chosen_gpu(plan)
    trained, frozen = model.parameters, 0
    if train.lora is not None:
        trained, frozen = adapter_weights(model.shapes, train.lora), model.parameters
    states = train_states(train, trained=trained, frozen=frozen, workers=workers)
    own = 0 if states is None else states[train.zero_stage]
    if train.use_gpu and own > gpu.memory_bytes:
        raise InputError(
            f"train: never fits: weights, gradients and optimizer states take {own / 1e9:,.1f} GB of each "
            f"of {workers} GPUs at zero_stage {train.zero_stage}, which have {gpu.memory_bytes / 1e9:,.0f} "
            "GB; add workers, or set offload_optimizer: cpu or lora"
        )
    computed = tokens.packed if train.packing else tokens.separate
    hours = None
    if train.use_gpu and model.active is not None:
        flops = 3 * _forward_flops(model, computed, tokens.expected, tokens.written)
        seconds = chains * train.epochs * flops / (workers * gpu.flops * plan.mfu)
        hours = seconds / 3600
    return ComputedStudent(
        model=plan.student_config or train.model,
        parameters=model.parameters,
        trained=trained,
        heads=model.heads,
        workers=workers,
        zero_stage=train.zero_stage,
        stage_bytes=states,
        storage=storage_of(train, model.shapes),
        tokens=chains * train.epochs * computed,
        hours=hours,
    )
