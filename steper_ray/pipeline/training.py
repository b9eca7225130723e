"""Training of a run file: `train` with the settings of its sections, a score, a card and pictures."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.pipeline.versions import TRAINING_PACKAGES, installed_versions
from steper_ray.ray_runtime.watch import calling_every
from steper_ray.reports.student_card import Card, write_card
from steper_ray.reports.training_charts import write_training_pictures
from steper_ray.run.versions import in_use
from steper_ray.training.dry_run import TrainingForecast, dry_run
from steper_ray.training.preparation import Progress
from steper_ray.training.summary import TrainSummary
from steper_ray.training.train import train
from steper_ray.training.worker_spec import read_corpus_version, read_scheme

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig


def train_student(
    config: "RunConfig",
    *,
    corpus: Path | None = None,
    on_prepared: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainSummary:
    """Train the student of a run file, with its card and pictures; other arguments as for `train`.

    corpus: the version that candidates are scored on (`best_by: em`); None takes the newest
    """
    corpus_version = read_corpus_version(config.folder.chains)
    searched = corpus or config.folder.corpus.resolve()

    def score(student: Path) -> float:
        from steper_ray.evaluation.compare import dev_scores

        answers = student.with_name(f"{student.name}-answers")
        return dev_scores(config, student, answers, searched).em

    def add_card(student: Path, summary: TrainSummary) -> None:
        for picture in write_training_pictures(config.folder.metrics, config.folder.training):
            shutil.copy(picture, student)
        write_card(student, student_card(config, summary, corpus_version))

    with in_use(searched) if config.train.best_by == "em" else nullcontext():
        return train(
            config.train,
            examples=config.folder.examples,
            out=config.folder.root,
            seed=config.run.seed,
            reasoning=config.reasoning,
            corpus_version=corpus_version,
            hub=config.hub,
            scheme=read_scheme(config.folder.stats),
            prepared=config.folder.prepared,
            on_prepared=on_prepared,
            score=score,
            add_card=add_card,
            callbacks=callbacks,
        )


def forecast_training(
    config: "RunConfig", *, on_prepared: Progress | None = None
) -> TrainingForecast:
    """What the training of a run file would take."""
    return dry_run(
        config.train,
        examples=config.folder.examples,
        out=config.folder.root,
        seed=config.run.seed,
        reasoning=config.reasoning,
        hub=config.hub,
        scheme=read_scheme(config.folder.stats),
        prepared=config.folder.prepared,
        on_prepared=on_prepared,
    )


def student_card(config: "RunConfig", summary: TrainSummary, corpus_version: str) -> Card:
    """The card of a trained student."""
    reasoning, settings = config.reasoning, config.train
    return Card(
        base_model=settings.model,
        base_revision=summary.base_commit,
        teacher=config.build.teacher,
        objective=settings.objective,
        abilities=settings.abilities,
        settings=settings.with_lr().model_dump(mode="json"),
        framework=reasoning.framework,
        passages_per_step=reasoning.passages_per_step,
        max_steps=reasoning.max_steps,
        max_prompt_tokens=reasoning.max_prompt_tokens,
        corpus_version=corpus_version,
        chains=summary.chains,
        examples=summary.examples,
        dropped_passages=summary.dropped_passages,
        steps=summary.steps,
        epochs=settings.epochs,
        input_tokens=summary.input_tokens,
        supervised_tokens=summary.supervised_tokens,
        losses=summary.ability_losses,
        validation_loss=summary.validation_loss,
        validation_step=None if summary.validation_loss is None else summary.steps,
        sigma=summary.sigma,
        workers=settings.max_workers,
        seconds=summary.seconds,
        versions=installed_versions(TRAINING_PACKAGES),
    )


@contextmanager
def following_metrics(metrics: Path, progress: "StageProgress") -> Iterator[None]:
    """Show the newest line of the training metrics while the block runs."""
    before = metrics.stat().st_mtime if metrics.exists() else 0.0

    def show() -> None:
        if not metrics.exists() or metrics.stat().st_mtime == before:
            return
        lines = metrics.read_text(encoding="utf-8").split("\n")
        if len(lines) < 2:
            return
        last = json.loads(lines[-2])  # the last line may still be on its way
        progress.update(
            last["step"],
            last["steps"],
            f"step {last['step']}/{last['steps']}  "
            f"loss {last['loss']:.3f}  {last['tokens_per_second']:,.0f} tokens/s",
        )

    with calling_every(1.0, show):
        yield
