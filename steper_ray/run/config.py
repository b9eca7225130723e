"""`RunConfig`: every section of the run file, and nothing else."""

from pathlib import Path

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

    @property
    def folder(self) -> RunFolder:
        """The paths of the run."""
        root = Path(self.run.dir)
        return RunFolder(root, Path(self.run.data) if self.run.data else root)
