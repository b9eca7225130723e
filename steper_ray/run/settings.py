"""The `run` section: folder, data and seed of a run."""

from steper_ray.run.section import Section


class RunSection(Section):
    """Where the run lives."""

    dir: str = "runs/steper"
    """Folder of everything the run writes; on a cluster, storage that every node sees."""
    data: str | None = None
    """Folder of another run whose corpus, chains and examples this one uses; null uses its own."""
    seed: int = 0
    """Seed of everything that is drawn at random (data order, initialization)."""
