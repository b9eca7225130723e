"""The run folder: the path and name of every file that a run reads or writes.

docs/run-folder.md is the same as a table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

LATEST: Final = "latest"
"""The link to the newest launch, in the folder of a stage's logs."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run. Another run's data (`run.data`) may stand in for its own."""

    root: Path
    """Folder of everything the run writes."""
    data: Path
    """Folder of corpus, chains and examples: `root`, or that of the run whose data this one uses."""

    @property
    def corpus(self) -> Path:
        """The Lance dataset with its index (a link to the newest one)."""
        return self.data / "corpus.lance"

    @property
    def chains(self) -> Path:
        """Parquet files with every chain, kept or rejected."""
        return self.data / "chains"

    @property
    def dataset(self) -> Path:
        """The step-wise data set with its card, as `datasets` and the Hub take it."""
        return self.data / "stepwise"

    @property
    def examples(self) -> Path:
        """Parquet files with one row per training example: the data set's, or some put into its place.

        They have a folder of their own: pandas and pyarrow read a folder only if nothing else is in it.
        """
        own = self.dataset / "data"
        return own if own.is_dir() else self.dataset

    @property
    def prepared(self) -> Path:
        """Training data made from the examples: token ids, a folder for each way of making them."""
        return self.data / "prepared"

    @property
    def stats(self) -> Path:
        """Counts of chains and examples, by ability, hops and reason."""
        return self.data / "stats.json"

    @property
    def plan(self) -> Path:
        """What was measured for a plan, and what it predicts."""
        return self.data / "plan.json"

    @property
    def student(self) -> Path:
        """The trained student as a Hugging Face folder (a link to the newest one)."""
        return self.root / "student"

    @property
    def training(self) -> Path:
        """Metrics, candidates and pictures of the training."""
        return self.root / "training"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.training / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Ray Train's checkpoints, a folder for each identity of a training."""
        return self.root / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """One folder per evaluated model, and the comparison."""
        return self.root / "evaluation"

    @property
    def compare(self) -> Path:
        """One folder per variant and model, and the comparison."""
        return self.root / "compare"

    @property
    def sweep(self) -> Path:
        """The sweep's table and page, its best run, and a run folder for each trial."""
        return self.root / "sweep"

    @property
    def inputs(self) -> Path:
        """Row accounting of every input: counts a file, and the skipped rows."""
        return self.root / "inputs"

    @property
    def submitted(self) -> Path:
        """Local files that submitted jobs brought along, by the digest of their content."""
        return self.root / "submitted"

    def summary(self, stage: str) -> Path:
        """Closing counts of the newest run of a stage, as JSON."""
        return self.logs / stage / "summary.json"

    @property
    def ledger(self) -> Path:
        """The stages that `steper run` and `steper demo` have finished, and with what."""
        return self.root / "stages.json"

    @property
    def toy(self) -> Path:
        """The toy world: passages, questions and tiny models."""
        return self.root / "toy"

    @property
    def logs(self) -> Path:
        """Logs of the stages and the server."""
        return self.root / "logs"

    def log(self, stage: str) -> Path:
        """The logs of a stage: a folder for each launch, with a file for each process."""
        return self.logs / stage

    def latest_log(self, stage: str) -> Path:
        """The log of a stage's newest launch."""
        return self.log(stage) / LATEST

    @property
    def cluster_file(self) -> Path:
        """While a server runs: how `steper serve --update` reaches the server's Ray."""
        return self.root / "serve.cluster.json"
