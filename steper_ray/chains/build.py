"""Questions → the teachers' chains: the first half of `steper build`. Only missing chains are made."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from steper_ray.chains.attempts import MissingAttempts, check_ids, missing_attempts
from steper_ray.chains.rows import read_chains
from steper_ray.chains.scoring import score_chains
from steper_ray.chains.settings import BuildConfig
from steper_ray.chains.store import existing_chains, merge_new, new_dir, prepare_store
from steper_ray.chains.stream import write_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage, Progress
from steper_ray.errors import StageError
from steper_ray.ray_runtime.logs import launch
from steper_ray.retrieval import corpus_identity
from steper_ray.run.dependencies import chains_identity
from steper_ray.run.lock import locked
from steper_ray.schema import Question


def build_chains(
    settings: BuildConfig,
    *,
    teachers: Sequence[Reasoner],
    questions: Sequence[Question],
    corpus: Path,
    out: Path,
    log: Path,
    on_progress: Progress | None = None,
) -> EngineUsage:
    """Have every teacher answer every question, into the chain store `out`; returns the engines' usage.

    Existing chains are kept and their questions not asked again. Needs a running Ray.

    teachers: from `find_teachers`, the main one first
    corpus:   folder of an indexed corpus
    log:      folder for the log of a new launch; within a launch its log is written on
    Raises InputError if existing chains were made with other settings, and for ids of questions with which
    chains would have one id; StageError if a chain is missing.
    """
    check_ids(teachers, questions)
    with locked(out), launch(log) as launch_log:
        prepare_chains(settings, teachers=teachers, corpus=corpus, out=out)
        score_chains(out, teachers[0].reasoning.framework, teachers[0].task)
        usage = EngineUsage()
        for teacher in teachers:
            usage += ask_teacher(teacher, questions, out, corpus, log, on_progress)
        for teacher in teachers:
            lost = find_missing(out, teacher, questions, retry_errors=False)
            if lost:
                raise StageError(
                    f"{len(questions)} questions went in, and for {len(lost)} a chain is missing, as for "
                    f"{lost[0].question.id!r}; see {launch_log.folder}"
                )
    return usage


def prepare_chains(
    settings: BuildConfig, *, teachers: Sequence[Reasoner], corpus: Path, out: Path
) -> None:
    """Check that existing chains were made by these teachers, asked in the same way.

    The caller holds the store's lock. Raises InputError with what differs, and if there is no corpus.
    """
    asked = {teacher.name: teacher.identity for teacher in teachers}
    now = chains_identity(corpus_identity(corpus), asked, teachers[0].task)
    prepare_store(out, now, fresh=settings.fresh, mix=settings.mix)


def ask_teacher(
    teacher: Reasoner,
    questions: Sequence[Question],
    out: Path,
    corpus: Path,
    log: Path,
    on_progress: Progress | None = None,
) -> EngineUsage:
    """Make one teacher's missing chains and merge them into the store, whose lock the caller holds."""
    usage = EngineUsage()
    missing = find_missing(out, teacher, questions)
    while missing:
        usage += write_chains(
            missing,
            new_dir(out),
            reasoner=teacher,
            corpus=corpus,
            log=log,
            on_progress=on_progress,
            by_other_rules=True,  # which the store's record keeps
        )
        merge_new(out)
        # A killed build with fewer attempts a question may have been resumed: the others come now.
        missing = find_missing(out, teacher, questions, retry_errors=False)
    return usage


def find_missing(
    chains: Path, teacher: Reasoner, questions: Sequence[Question], *, retry_errors: bool = True
) -> list[MissingAttempts]:
    """Attempts of a teacher that the store `chains` lacks, in the order of the questions."""
    return missing_attempts(
        teacher,
        questions,
        existing_chains(chains),
        partial(read_chains, chains),
        retry_errors=retry_errors,
    )
