"""The keys of a run file that results depend on, as paths within their section, and those that none does.

Only what is listed here goes into a result's record. A new key goes into one of the lists, or a test asks
for it (tests/run/test_identity.py).
"""

from typing import Final

REASONING_KEYS: Final = (
    "framework",
    "passages_per_step",
    "max_steps",
    "max_empty_searches",
    "instruction",
    "demonstrations.question",
    "demonstrations.steps.passages.title",
    "demonstrations.steps.passages.text",
    "demonstrations.steps.text",
    "cue",
    "chat",
    "template_date",
    "whole_line",
    "max_prompt_tokens",
    "max_passage_tokens",
    "max_step_tokens",
)


ENDPOINT_KEYS: Final = (
    "base_url",
    "api",
    "tokenizer",
    "max_reasoning_tokens",
    "send_stop",
    "send_sampling",
    "extra_body",
)


ENDPOINT_PACE_KEYS: Final = ("concurrency", "requests_per_minute")


ENGINE_KEYS: Final = (
    "cpus",
    "gpus",
    "max_num_seqs",
    "dtype",
    "cpu_kv_cache_gib",
    "args",
)
"""What the speed of an engine depends on; chains do not (the same model, computed elsewhere)."""


ENGINE_PLACE_KEYS: Final = (
    *("replicas", "max_restarts"),
    *("accelerator_type", "resources", "node_labels"),
)
"""How many engines there are, where they run, and how they are kept alive."""


_ENGINE: Final = (*ENGINE_KEYS, *ENGINE_PLACE_KEYS)


LEARNING_KEYS: Final = (
    "objective",
    "abilities",
    "fixed_weights",
    "ability_means",
    "sigma_init",
    "sigma_optimizer",
    "sigma_lr",
    "sigma_min",
    "sigma_max",
    "lr",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "epochs",
    "chains_per_batch",
    "mix.column",
    "mix.ratio",
    "mix.weight",
    "mix.max_rows",
    "lora.rank",
    "lora.alpha",
    "lora.dropout",
    "lora.target_modules",
    "lora.quantize",
    "deepspeed",
    "validation_chains",
    "validate_every_steps",
    "patience",
    "best_by",
)


CHECKPOINT_KEYS: Final = ("zero_stage", "offload_optimizer", "offload_weights", "use_gpu")
"""What a checkpoint can be resumed with; a finished student does not depend on it."""


SWEEP_KEYS: Final = (
    "parameters.choice",
    "parameters.range",
    "parameters.log",
    "search",
    "metric",
    "scheduler",
    "asha_grace",
    "asha_factor",
)


TEACHER_KEYS: Final = ("temperature", "top_p")


ATTEMPT_KEYS: Final = ("samples", "self_correction", "rationalization")
"""Chains of other attempts may lie side by side; a measurement of the pace depends on them."""


TOY_KEYS: Final = ("seed", "scale", "train", "dev", "test")


CORPUS_KEYS: Final = (
    "passages",
    "columns.id",
    "columns.title",
    "columns.text",
    "passage_size",
    "passage_overlap",
    "bad_rows",
    "retriever.type",
    "retriever.analyzer",
    "retriever.stem",
    "retriever.remove_stop_words",
    "retriever.title_boost",
    "retriever.title_weight",
)


QUESTIONS_KEYS: Final = (
    "train",
    "dev",
    "test",
    "columns.id",
    "columns.question",
    "columns.answer",
    "columns.answer_aliases",
    "columns.supporting_ids",
    "columns.hops",
    "columns.type",
    "task",
    "gold_passages",
    "aliases",
    "bad_rows",
)


SELECT_KEYS: Final = (
    "match",
    "min_f1",
    "keep_forced",
    "keep_rationalized",
    "keep_cut_off",
    "grounded",
    "repeated_steps",
    "min_support",
    "min_logprob",
    "min_steps",
    "max_steps",
    "min_words",
    "max_words",
    "choose",
    "abilities",
    "per_hops",
)


EVAL_KEYS: Final = (
    *("models", "limit", "abilities"),
    *(f"reasoning.{key}" for key in REASONING_KEYS),
)


TRAIN_KEYS: Final = (
    "model",
    "revision",
    "precision",
    "mix.data",
    *LEARNING_KEYS,
    *CHECKPOINT_KEYS,
)


_TEACHER: Final = (
    "teacher",
    "revision",
    "instruction",
    "demonstrations",
    *(f"endpoint.{key}" for key in (*ENDPOINT_KEYS, *ENDPOINT_PACE_KEYS)),
    *TEACHER_KEYS,
    *ATTEMPT_KEYS,
)


_NOT_OF_A_TEACHER: Final = (
    "endpoint.api_key_env",
    "endpoint.max_retries",
    "endpoint.timeout_seconds",
    "endpoint.limit_parameter",
)


BUILD_KEYS: Final = (
    *_TEACHER,
    "limit",
    "ensemble.name",
    *(f"ensemble.{key}" for key in _TEACHER),
    *(f"ensemble.engine.{key}" for key in ENGINE_KEYS),
)


DEPENDED_ON: Final[dict[str, tuple[str, ...]]] = {
    "run": ("seed",),
    "toy": TOY_KEYS,
    "corpus": CORPUS_KEYS,
    "questions": QUESTIONS_KEYS,
    "reasoning": REASONING_KEYS,
    "engine": ENGINE_KEYS,
    "build": BUILD_KEYS,
    "select": SELECT_KEYS,
    "train": TRAIN_KEYS,
    "eval": EVAL_KEYS,
    "sweep": SWEEP_KEYS,
}
"""Section → keys that some result's record holds, as they are or by what follows from them."""


EXCLUDED: Final[dict[str, tuple[str, ...]]] = {
    # where things lie, how the log is written, and how long is waited
    "run": ("dir", "data", "log_format", "wait_for_room_minutes"),
    # how models are reached
    "hub": ("trust_remote_code", "offline", "token_env"),
    "engine": ENGINE_PLACE_KEYS,
    "build": (
        *_NOT_OF_A_TEACHER,
        *(f"ensemble.{key}" for key in _NOT_OF_A_TEACHER),
        *(f"ensemble.engine.{key}" for key in ENGINE_PLACE_KEYS),
        *(f"engine.{key}" for key in _ENGINE),
        "fresh",
        "mix",
        "plan_sample",
        "push_to_hub",
    ),
    # a plan that is computed is made anew each time
    "plan": (
        "computed",
        "teacher_config",
        "student_config",
        "questions",
        "gpu",
        "gpu_memory_gb",
        "gpu_tflops",
        "gpu_gb_per_s",
        "overhead_gb",
        "mfu",
        "bandwidth_share",
        "passage_tokens",
        "question_tokens",
        "step_tokens",
    ),
    # how a training is cut up, watched and published
    "train": (
        "micro_batch_tokens",
        "offload_dir",
        "packing",
        "gradient_checkpointing",
        "workers",
        "cpus_per_worker",
        "accelerator_type",
        "resources_per_worker",
        "node_labels",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "num_to_keep",
        "max_restarts",
        "timeout_minutes",
        "trackers",
        "dry_run",
        "push_to_hub",
    ),
    "eval": tuple(f"{where}.{key}" for where in ("engine", "engines") for key in _ENGINE),
    # what is compared; each student and each model's answers have records of their own
    "compare": ("variants", "baseline", "learning_rates", "seeds", "repeated"),
    "sweep": (
        *("trials", "concurrent", "max_restarts", "retry_failed"),
        *(f"engine.{key}" for key in _ENGINE),
    ),
    # a server makes nothing that stays
    "serve": (
        "model",
        *(f"engine.{key}" for key in _ENGINE),
        "host",
        "port",
        "layout",
        "route_prefix",
        "tool_parser",
        "llm_replicas",
        "max_llm_replicas",
        "retriever_replicas",
        "max_retriever_replicas",
        "retriever_cpus",
        "ingress_replicas",
        "max_ingress_replicas",
        "ingress_cpus",
        "keys_file",
        "keys_env",
        "requests_per_minute",
        "max_key_share",
        "open",
        "access_log",
        "cors_origins",
        "refuse_unsupported",
        "max_question_chars",
        "max_body_bytes",
        "body_timeout_s",
        "max_batch",
        "max_requested_passages_per_step",
        "max_requested_steps",
        "max_output_tokens",
        "max_concurrent",
        "request_timeout_s",
        "stall_s",
        "batch_timeout_s",
        "passages_per_step",
        "max_steps",
    ),
}
"""Section → keys that no result depends on."""
