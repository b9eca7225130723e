"""Whether an engine's model, keys and values have room on its GPUs, by arithmetic.

vLLM takes `gpu_memory_utilization` of each GPU; what weights and activations leave of it is for keys and
values. Here activations and the like are an assumed allowance (`plan.overhead_gb`).
"""

from dataclasses import dataclass, replace
from typing import Final

from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import InputError
from steper_ray.models.architecture import Architecture
from steper_ray.planning.gpus import Gpu
from steper_ray.planning.question_tokens import QuestionTokens

UTILIZATION: Final = 0.92
"""vLLM's own gpu_memory_utilization."""


FOUR_BYTES: Final = ("float32", "float")


@dataclass(frozen=True, slots=True)
class EngineFit:
    """Memory of one engine; bytes are of each of its GPUs, or of the machine where it has none."""

    gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    utilization: float
    weight_bytes: float
    overhead_bytes: float
    key_value_bytes: float
    """What remains for keys and values."""
    token_bytes: float | None
    """Of keys and values, of each of the first tokens of a text; None where it is not known."""
    question_bytes: float | None
    """Of keys and values of a question of the expected length, without its head."""
    expected_questions: int | None
    """Questions of the expected length that have room at a time, their common head once."""
    longest_questions: int | None
    """Questions of the longest prompt that have room at a time."""
    max_num_seqs: int


def fit_engine(
    model: Architecture, engine: EngineConfig, gpu: Gpu, overhead: float, tokens: QuestionTokens
) -> EngineFit:
    """Memory of an engine with a model.

    overhead: bytes on each GPU beside weights, keys and values
    Raises InputError where weights, or keys and values of one question, never fit.
    """
    tensor, pipeline = engine.tensor_size, engine.pipeline_size
    if model.heads % tensor:
        raise InputError(
            f"engine.args.tensor_parallel_size: the teacher's {model.heads} heads cannot be divided over "
            f"{tensor} GPUs; take a number that divides them"
        )
    utilization = float(engine.args.get("gpu_memory_utilization", UTILIZATION))
    ranks = tensor * pipeline
    weights = model.parameters * (4 if engine.dtype in FOUR_BYTES else 2) / ranks
    if engine.gpus:
        room = utilization * gpu.memory_bytes - overhead - weights
    else:
        room, overhead = engine.cpu_kv_cache_gib * 2**30, 0.0
    if room <= 0:
        raise InputError(
            f"engine.gpus: never fits: the teacher's weights take {weights / 1e9:,.1f} GB of each of "
            f"{ranks} GPUs, which have {utilization * gpu.memory_bytes / 1e9:,.1f} GB for them and "
            f"{overhead / 1e9:,.1f} GB of activations; take more GPUs an engine, or larger ones"
        )
    fit = EngineFit(
        gpus=ranks if engine.gpus else 0,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        utilization=utilization,
        weight_bytes=weights,
        overhead_bytes=overhead,
        key_value_bytes=room,
        token_bytes=None,
        question_bytes=None,
        expected_questions=None,
        longest_questions=None,
        max_num_seqs=engine.max_num_seqs,
    )
    return fit if model.key_values is None else _with_questions(fit, model, engine, tokens)


def _with_questions(
    fit: EngineFit, model: Architecture, engine: EngineConfig, tokens: QuestionTokens
) -> EngineFit:
    """The fit with the questions that keys and values have room for."""
    kept = model.key_values
    assert kept is not None
    kind = str(engine.args.get("kv_cache_dtype", "auto"))
    number = 1 if kind.startswith("fp8") else 4 if engine.dtype in FOUR_BYTES else 2

    def size(length: int) -> float:
        return number * kept.numbers_at(length, fit.tensor_parallel) / fit.pipeline_parallel

    needed = max(tokens.longest, int(engine.args.get("max_model_len") or 0))
    if size(needed) > fit.key_value_bytes:
        raise InputError(
            f"engine: never fits: one question of {needed:,} tokens (engine.args.max_model_len, "
            f"reasoning.max_prompt_tokens) needs {size(needed) / 1e9:,.2f} GB of keys and values, "
            f"{fit.key_value_bytes / 1e9:,.2f} GB remain; take more or larger GPUs, or shorter prompts"
        )
    # what slides out of a window is not there for the next question
    head = 0.0 if kept.window_layers else size(tokens.head)
    own = size(tokens.expected) - head
    return replace(
        fit,
        token_bytes=size(1),
        question_bytes=own,
        expected_questions=int((fit.key_value_bytes - head) // own),
        longest_questions=int(fit.key_value_bytes // size(tokens.longest)),
    )
