"""`RunConfig`: every section of the run file, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from steper_ray.chains.settings import BuildConfig
from steper_ray.data.settings import CorpusConfig, QuestionsConfig
from steper_ray.engines.settings import EngineConfig
from steper_ray.evaluation.settings import CompareConfig, EvalConfig
from steper_ray.models.settings import HubConfig
from steper_ray.planning.settings import PlanConfig
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.folder import RunFolder
from steper_ray.run.section import Section
from steper_ray.run.settings import RunSection
from steper_ray.selection.settings import SelectConfig
from steper_ray.serving.settings import ServeConfig
from steper_ray.sweep.settings import SweepConfig
from steper_ray.toy.settings import ToyConfig
from steper_ray.training.settings import TrainConfig


class RunConfig(Section):
    """The whole run file."""

    run: RunSection = RunSection()
    hub: HubConfig = HubConfig()
    toy: ToyConfig = ToyConfig()
    corpus: CorpusConfig = CorpusConfig()
    questions: QuestionsConfig = QuestionsConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    engine: EngineConfig = EngineConfig()
    plan: PlanConfig = PlanConfig()
    build: BuildConfig = BuildConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    compare: CompareConfig = CompareConfig()
    sweep: SweepConfig = SweepConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="before")
    @classmethod
    def _parts_are_whole(cls, values: Any) -> Any:
        """Keys that are left out of one use's engines or reasoning are those of the section above."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for name in ("build", "eval", "serve", "sweep"):
            if not isinstance(values.get(name), Mapping):
                continue
            above = filled.get("eval") if name == "sweep" else None
            base = above.get("engine") if isinstance(above, Mapping) else None
            base = values.get("engine") if base is None else base
            filled[name] = section = dict(values[name])
            if section.get("engine") is not None:
                section["engine"] = base = _laid_over(base, section["engine"])
            for part, below in (("engines", base), ("reasoning", values.get("reasoning"))):
                if isinstance(given := section.get(part), Mapping):
                    section[part] = {key: _laid_over(below, given[key]) for key in given}
            if isinstance(teachers := section.get("ensemble"), list | tuple):
                section["ensemble"] = [_with_engine(teacher, base) for teacher in teachers]
        return filled

    @property
    def folder(self) -> RunFolder:
        """The paths of the run."""
        root = Path(self.run.dir)
        return RunFolder(root, Path(self.run.data) if self.run.data else root)


def _with_engine(teacher: Any, base: Any) -> Any:
    """The values of a teacher with its whole engine, where it has one of its own."""
    if not isinstance(teacher, Mapping) or "engine" not in teacher:
        return teacher
    return {**teacher, "engine": _laid_over(base, teacher["engine"])}


def _laid_over(below: Any, above: Any) -> Any:
    """The values of an engine with those of another one, vLLM's arguments too; what is none stays."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    laid = {**below, **above}
    args = below.get("args"), above.get("args")
    if isinstance(args[0], Mapping) and isinstance(args[1], Mapping):
        laid["args"] = {**args[0], **args[1]}
    return laid
