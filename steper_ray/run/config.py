"""`RunConfig`: every section of the run file, and nothing else."""

from pathlib import Path

from steper_ray.chains.settings import BuildConfig
from steper_ray.data.settings import CorpusConfig, QuestionsConfig
from steper_ray.engines.settings import EngineConfig
from steper_ray.evaluation.settings import CompareConfig, EvalConfig
from steper_ray.models.settings import HubConfig
from steper_ray.reasoning.settings import ReasoningConfig
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
    build: BuildConfig = BuildConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    compare: CompareConfig = CompareConfig()
    sweep: SweepConfig = SweepConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def dir(self) -> Path:
        """The run folder."""
        return Path(self.run.dir)

    @property
    def data_dir(self) -> Path:
        """The folder of corpus, chains and examples."""
        return Path(self.run.data) if self.run.data else self.dir

    @property
    def corpus_dir(self) -> Path:
        """The Lance dataset with its index."""
        return self.data_dir / "corpus.lance"

    @property
    def chains_dir(self) -> Path:
        """Parquet files with every chain, kept or rejected."""
        return self.data_dir / "chains"

    @property
    def dataset_dir(self) -> Path:
        """The step-wise data set with its card, as `datasets` and the Hub take it."""
        return self.data_dir / "stepwise"

    @property
    def stepwise_dir(self) -> Path:
        """Parquet files with one row per training example: the data set's, or some put into its place.

        They have a folder of their own: pandas and pyarrow read a folder only if nothing else is in it.
        """
        own = self.dataset_dir / "data"
        return own if own.is_dir() else self.dataset_dir

    @property
    def stats_file(self) -> Path:
        """Counts of chains and examples, by ability, hops and reason."""
        return self.data_dir / "stats.json"

    @property
    def plan_file(self) -> Path:
        """What was measured for a plan, and what it predicts."""
        return self.data_dir / "plan.json"

    @property
    def student_dir(self) -> Path:
        """The trained student as a Hugging Face folder."""
        return self.dir / "student"

    @property
    def evaluation_dir(self) -> Path:
        """One folder per evaluated model, and the comparison."""
        return self.dir / "evaluation"

    @property
    def compare_dir(self) -> Path:
        """One folder per variant and model, and the comparison."""
        return self.dir / "compare"

    @property
    def sweep_dir(self) -> Path:
        """The sweep's table and page, its best run, and a run folder for each trial."""
        return self.dir / "sweep"

    @property
    def metrics_file(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.dir / "training" / "metrics.jsonl"

    def log_file(self, stage: str) -> Path:
        """What a stage's engines and workers print."""
        return self.dir / "logs" / f"{stage}.log"
