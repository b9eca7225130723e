"""The task of a training worker, and its outcome."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steper_ray.errors import InputError
from steper_ray.models.folder import model_identity, pinned
from steper_ray.models.hub import use_hub
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.folder import RunFolder
from steper_ray.selection.abilities import STEPER, AbilityScheme, recorded_scheme
from steper_ray.training.metrics import StepMetrics
from steper_ray.training.mix import read_mix
from steper_ray.training.objective import WeightInputs, objective_named
from steper_ray.training.settings import TrainConfig
from steper_ray.training.summary import TrainingDataCounts
from steper_ray.training.tokenization import examples_digest

CANDIDATES: Final = "candidates"


STOP_FILE: Final = "stop"
"""In the training's folder, while it is asked to write a checkpoint and stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """Everything a worker needs to know."""

    train: TrainConfig
    stepwise_files: tuple[str, ...]
    training_dir: str
    seed: int
    reasoning: ReasoningConfig
    """How the student will be asked; written into its folder as `steper.json`."""
    corpus_version: str
    """Version of the corpus that the chains were retrieved from; written there too."""
    examples: str = ""
    """Digest of what is read of the step-wise examples."""
    mix: str = ""
    """Digest of the rows of `train.mix`; empty without one."""
    base_model: Mapping[str, str] = field(default_factory=dict)
    """The base student by its content, from `model_identity`; written there too."""
    scheme: AbilityScheme = STEPER
    """The abilities that the examples were selected with."""
    hub: HubConfig = DEFAULTS
    """How the base student is reached."""
    prepared: str = ""
    """Folder of the training data that was made from the examples (`training_data.py`)."""
    prepared_mix: str = ""
    """Folder of the rows of `train.mix` as token ids (`mix_data.py`); empty without one."""
    report_validations: bool = False
    """Write a checkpoint and report to Ray Train after each validation, for the scheduler of a sweep."""

    @property
    def bf16(self) -> bool:
        """Whether weights and activations are bf16."""
        precision = self.train.precision
        return precision == "bf16" or (precision == "auto" and self.train.use_gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOutcome(TrainingDataCounts):
    """The result of a training, from rank 0."""

    last: StepMetrics
    candidates: list[tuple[float, int]]
    """(validation loss, step) of the students in `candidates/`, best first; without validation the last
    step alone, and its training loss."""
    validated: bool


@dataclass(frozen=True, slots=True)
class StoppedTraining:
    """A training that was asked to stop, after a checkpoint."""

    step: int
    steps: int


def candidate_dir(training_dir: Path, step: int) -> Path:
    """Folder of the student of a step."""
    return training_dir / CANDIDATES / f"step-{step:06d}"


def worker_task(
    settings: TrainConfig,
    files: Sequence[Path],
    *,
    out: Path,
    seed: int,
    reasoning: ReasoningConfig,
    corpus_version: str,
    hub: HubConfig = DEFAULTS,
    scheme: AbilityScheme = STEPER,
    report_validations: bool = False,
) -> WorkerTask:
    """The task of the workers of a run; see the fields of `WorkerTask`.

    files: from `stepwise_files`
    out:   the run folder

    Raises InputError for settings that do not fit the objective or the abilities.
    """
    check_abilities(settings, scheme)
    check_weights(settings, scheme)
    use_hub(hub)
    model_folder = Path(settings.model).expanduser()
    model = str(model_folder.absolute()) if model_folder.is_dir() else settings.model
    revision = pinned(model, settings.revision, hub)
    folder = RunFolder(out.absolute(), out.absolute())
    return WorkerTask(
        train=settings.with_lr().model_copy(update={"model": model, "revision": revision}),
        base_model=model_identity(model, revision, hub),
        stepwise_files=tuple(str(file.absolute()) for file in files),
        examples=examples_digest(files, scheme),
        mix="" if settings.mix is None else read_mix(settings.mix).digest,
        training_dir=str(folder.training),
        seed=seed,
        reasoning=complete_reasoning(reasoning),
        corpus_version=corpus_version,
        scheme=scheme,
        hub=hub,
        report_validations=report_validations,
    )


def check_abilities(settings: TrainConfig, scheme: AbilityScheme) -> None:
    """Raises InputError for settings by ability that do not fit the scheme."""
    names = ", ".join(scheme.names)
    for name in settings.abilities:
        if name not in scheme.names:
            raise InputError(
                f"train.abilities: ability scheme {scheme.name!r} has no {name!r}; there are {names}"
            )
    for key in ("sigma_init", "fixed_weights"):
        values = getattr(settings, key)
        if len(values) != len(scheme.names):
            raise InputError(
                f"train.{key}: {len(values)} values for the {len(scheme.names)} abilities of scheme "
                f"{scheme.name!r}; give one each for {names}"
            )


def check_weights(settings: TrainConfig, scheme: AbilityScheme) -> None:
    """Raises InputError for an unknown objective, and for one that gives what is trained no weight."""
    objective = objective_named(settings.objective)
    weight_A = objective.weights(WeightInputs(settings.sigma_init, settings.fixed_weights))
    trained = scheme.names[-1:] if objective.whole_path else settings.abilities
    if not any(weight_A[scheme.names.index(name)] for name in trained):
        raise InputError(
            f"train.fixed_weights: {', '.join(trained)} have weight 0, and nothing else is trained on "
            "(train.abilities)"
        )


def read_scheme(stats_file: Path) -> AbilityScheme:
    """The ability scheme that examples were selected with, from their `stats.json`.

    StepER's where the file is missing, as for examples that were put in place by hand, or names no scheme.
    """
    if not stats_file.is_file():
        return STEPER
    scheme = json.loads(stats_file.read_text(encoding="utf-8")).get("abilities")
    return STEPER if scheme is None else recorded_scheme(scheme, stats_file)


def read_corpus_version(chains_dir: Path) -> str:
    """Version of the corpus that the chains were retrieved from; empty where no chains exist."""
    import pyarrow.parquet as pq

    for file in sorted(chains_dir.glob("*.parquet")):
        versions = pq.read_table(file, columns=["corpus_version"]).column(0)
        if len(versions):
            return str(versions[0].as_py())
    return ""
