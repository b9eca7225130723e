"""The `train` section."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from steper_ray.engines.settings import AcceleratorType
from steper_ray.run.section import Address, LocalPath, Section

SigmaOptimizer = Literal["adam", "sgd"]


ZeroStage = Literal[0, 1, 2, 3]


Offload = Literal["none", "cpu", "nvme"]


AbilityMeans = Literal["batch", "expected"]


Tracker = Literal["tensorboard", "mlflow", "wandb"]


Recompute = Literal["full", "selective", "none"]


FULL_LR: Final = 5e-6
"""Peak learning rate of all weights where none is set."""


LORA_LR: Final = 2e-4
"""That of adapters, which start at an update of zero."""


class LoraConfig(Section):
    """Train low-rank adapters instead of all weights."""

    rank: PositiveInt = 16
    """Rank r of the update of each matrix."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapters' inputs that is dropped while training."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get adapters; `all-linear` is every linear layer but the head."""
    quantize: Literal["4bit"] | None = None
    """What the frozen matrices are kept in while training: `4bit` is NF4 (QLoRA), on GPUs, without ZeRO-3.
    The exported student has its weights from the base student as it is."""


class MixConfig(Section):
    """Other data that is trained on beside the examples, to keep what the student knew."""

    data: Address | tuple[Address, ...]
    """Chats or texts: a file, a folder, a pattern, an s3:// or gs:// address, hf:owner/name:config:split,
    or a list of such."""
    column: str | None = None
    """Column with a chat (a list of turns, each a role and its content) or a text; null takes `messages`,
    `conversations` or `text`, the first of them that a row has. Dots lead into objects."""
    ratio: PositiveFloat = 0.1
    """Rows of it for each step-wise example of a global batch; at least one row a batch."""
    weight: PositiveFloat = 1.0
    """Of its loss beside the objective's, whose weights count as 1 together."""
    max_rows: PositiveInt = 50_000
    """Rows that are used; of more, so many are drawn at random. Fewer than training takes come again."""


OWNED_BY_TRAINER: Final = {
    "train_batch_size": "chains_per_batch",
    "train_micro_batch_size_per_gpu": "micro_batch_tokens",
    "gradient_accumulation_steps": "micro_batch_tokens",
    "gradient_clipping": "max_grad_norm",
    "gradient_predivide_factor": "",
    "prescale_gradients": "",
    "bf16": "precision",
    "fp16": "precision",
    "amp": "precision",
    "torch_autocast": "precision",
    "data_types": "precision",
    "scheduler": "warmup_ratio",
    "optimizer.type": "",
    "optimizer.params.lr": "lr",
    "optimizer.params.weight_decay": "weight_decay",
    "zero_optimization.stage": "zero_stage",
    "zero_optimization.offload_optimizer.device": "offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "offload_dir",
    "zero_optimization.offload_param.device": "offload_weights",
    "zero_optimization.offload_param.nvme_path": "offload_dir",
    "activation_checkpointing": "gradient_checkpointing",
    "checkpoint.load_universal": "",
}
"""Keys of DeepSpeed's configuration that the trainer sets → the setting to use instead; "" has none."""


Share = Annotated[float, Field(ge=0.0, le=1.0)]


def recompute_named(value: Recompute | bool) -> Recompute:
    """What is recomputed; true and false are what `full` and `none` were called."""
    if isinstance(value, bool):
        return "full" if value else "none"
    return value


class TrainConfig(Section):
    """How the student is trained."""

    model: LocalPath = ""
    """The base student: a Hugging Face folder, or a name on the Hub."""
    revision: str | None = None
    """Commit, branch or tag of a base student on the Hub; null takes what was fetched, else `main`."""
    objective: str = "difficulty"
    """How the losses of the abilities become one: `difficulty` (learned σ), `uniform` (equal weights) or
    `fixed` (`fixed_weights`). `vanilla-kd` is the baseline: each chain's whole path, no abilities."""
    abilities: tuple[str, ...] = ("init", "exp", "agg")
    """Abilities whose examples are trained on."""
    fixed_weights: tuple[NonNegativeFloat, ...] = (1.0, 1.0, 1.0)
    """λ of each ability (init, exp, agg) for `fixed`; scaled to sum 1."""
    ability_means: AbilityMeans = "batch"
    """Over how many examples an ability's loss is the mean: those in the global `batch`, so that a rare
    ability's few examples weigh much in one batch and little in the next; or those that a batch has on
    average (`expected`), so that each example weighs the same in every batch."""
    sigma_init: tuple[PositiveFloat, ...] = (1.0, 1.0, 1.0)
    """σ of each ability (init, exp, agg) at the start."""
    sigma_optimizer: SigmaOptimizer = "adam"
    """What moves log σ: Adam, or plain gradient descent."""
    sigma_lr: PositiveFloat = 0.02
    """Learning rate of log σ, constant."""
    sigma_min: PositiveFloat = 0.05
    """Lower bound of σ: an ability then weighs at most 1/(2·sigma_min²)."""
    sigma_max: PositiveFloat = 20.0
    """Upper bound of σ."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the model; null takes 5e-6, and 2e-4 with `lora`."""
    warmup_ratio: Share = 0.03
    """Share of all steps in which the learning rate rises linearly; then it falls as a cosine."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay, of matrices; norms and biases have none."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Gradients with a larger norm are scaled down to it; null clips none."""
    epochs: PositiveInt = 2
    """Times every example is seen."""
    chains_per_batch: PositiveInt = 32
    """Chains in one optimizer step, each with all its examples. What remains of an epoch is a step of its
    own if it is at least half as many, and else joins the step before."""
    micro_batch_tokens: PositiveInt = 16384
    """Upper bound of the tokens, padding included, that a worker computes at a time; bounds memory only."""
    mix: MixConfig | None = None
    """Other data that is trained on beside the examples, to keep what the student knew; null has none."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights; the exported student has them merged, and has them
    apart in `adapter/`."""
    zero_stage: ZeroStage = 3
    """What ZeRO shards: nothing (0, fp32 only), optimizer state (1), gradients too (2), weights too (3)."""
    offload_optimizer: Offload = "none"
    """Where the optimizer's state lives if not with the weights: `cpu` memory, or `nvme` in offload_dir."""
    offload_weights: Offload = "none"
    """Where weights wait until they are needed; ZeRO-3 only."""
    offload_dir: LocalPath | None = None
    """Folder on a fast local disk of every node, for `nvme`."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Laid over the DeepSpeed configuration, section by section; keys that other settings stand for are
    refused."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What is computed in; `auto` is bf16 on GPUs and fp32 on CPUs. Optimizer states are fp32."""
    packing: bool = True
    """Compute the common prefixes of a chain's examples once; exact. Models that it does not fit train on
    separate examples, and the run says why."""
    gradient_checkpointing: Annotated[Recompute | bool, AfterValidator(recompute_named)] = "full"
    """Activations that are computed twice instead of being kept: all of a layer (`full`, about a third more
    work), all but the results of matrix products and attention (`selective`: a little more work, memory
    between), or `none`. true and false are `full` and `none`."""
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 2
    """Ray Train workers: a number, or the least and the most, `[2, 8]`. Training then starts with as many
    as the cluster has room for; when that changes, it resumes from its last checkpoint with as many."""
    cpus_per_worker: PositiveInt = 1
    """CPUs reserved for each worker; also its number of torch threads."""
    use_gpu: bool = False
    """One GPU for each worker; otherwise CPU."""
    accelerator_type: AcceleratorType | None = None
    """Kind of the workers' GPUs as Ray calls it, `H100`; null takes any."""
    resources_per_worker: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Custom resources of Ray that each worker reserves: name → amount."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that the workers' nodes must have: name → value, with Ray's operators (`!in(spot)`)."""
    checkpoint_every_steps: NonNegativeInt = 0
    """Optimizer steps between checkpoints; 0 does not count steps. One is always written at the end."""
    checkpoint_every_minutes: NonNegativeFloat = 30.0
    """Minutes between checkpoints: what a dead worker costs at most; 0 does not look at the clock."""
    num_to_keep: PositiveInt = 2
    """Newest checkpoints kept, older ones are deleted; also how many students `best_by: em` compares."""
    max_restarts: NonNegativeInt = 2
    """Times the run resumes from its last checkpoint after a worker died."""
    timeout_minutes: PositiveFloat = 30.0
    """Minutes that a worker waits for the others in a collective operation before the training fails."""
    validation_chains: NonNegativeInt = 0
    """Chains held out of training to validate on; the best student is then exported instead of the last."""
    validate_every_steps: NonNegativeInt = 0
    """Optimizer steps between validations; 0 validates at the end of each epoch."""
    patience: NonNegativeInt = 0
    """Validations without a new best loss before training stops early; 0 never stops it."""
    best_by: Literal["loss", "em"] = "loss"
    """What makes a student the best: its validation loss, or, of the `num_to_keep` best by that, its exact
    match on `questions.dev` in the reasoning loop."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where metrics are sent beside `training/metrics.jsonl`; mlflow and wandb are extras to install."""
    dry_run: bool = False
    """Have `steper train` say what it would take (steps, memory, hours), and train nothing."""
    push_to_hub: str | None = None
    """Repository (owner/name) on the Hugging Face Hub that the student is uploaded to, privately if new."""

    @property
    def min_workers(self) -> int:
        """Workers that training needs to start, and to go on."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Workers that training has at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if not any(self.fixed_weights):
            raise ValueError("fixed_weights are all 0; give at least one ability some weight")
        if not all(self.sigma_min <= sigma <= self.sigma_max for sigma in self.sigma_init):
            raise ValueError("sigma_init must lie between sigma_min and sigma_max")
        if not self.abilities or len(set(self.abilities)) < len(self.abilities):
            raise ValueError("abilities must name at least one ability, and none twice")
        if self.min_workers > self.max_workers:
            raise ValueError("workers: the least number of workers is above the most")
        if self.accelerator_type is not None and not self.use_gpu:
            raise ValueError("accelerator_type is for workers on GPUs; set use_gpu: true")
        checkpoints = self.checkpoint_every_minutes or self.checkpoint_every_steps
        if not isinstance(self.workers, int) and not checkpoints:
            raise ValueError(
                "workers: a change of their number resumes from a checkpoint; set checkpoint_every_minutes"
            )
        if self.zero_stage == 0 and (
            self.precision == "bf16" or (self.use_gpu and self.precision == "auto")
        ):
            raise ValueError("zero_stage 0 computes in fp32; set precision: fp32, or take stage 1")
        if self.lora is not None and self.lora.quantize is not None:
            if not self.use_gpu:
                raise ValueError("lora.quantize is for GPUs; set use_gpu: true, or leave it out")
            if self.zero_stage == 3:
                raise ValueError("lora.quantize is for ZeRO stages 0 to 2; set zero_stage: 2")
        if self.offload_weights != "none" and self.zero_stage != 3:
            raise ValueError("offload_weights needs zero_stage 3")
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if "nvme" in (self.offload_weights, self.offload_optimizer) and not self.offload_dir:
            raise ValueError("offload_dir must name a folder for nvme")
        for key, setting in OWNED_BY_TRAINER.items():
            if _has(self.deepspeed, key):
                instead = f"; set train.{setting} instead" if setting else ""
                raise ValueError(f"deepspeed.{key} is the trainer's own{instead}")
        if not self.validation_chains and (self.patience or self.best_by == "em"):
            raise ValueError(
                "validation_chains is 0; patience and best_by: em need chains to validate on"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """`lr`, or what stands for null."""
        if self.lr is not None:
            return self.lr
        return FULL_LR if self.lora is None else LORA_LR

    def with_lr(self) -> "TrainConfig":
        """These settings with the learning rate that null stands for, as records and cards have it."""
        return self.model_copy(update={"lr": self.peak_lr})


def _has(config: Mapping[str, Any], path: str) -> bool:
    """Whether a DeepSpeed configuration sets a key, given as a path of sections."""
    first, _, rest = path.partition(".")
    value = config.get(first)
    return first in config if not rest else isinstance(value, Mapping) and _has(value, rest)
