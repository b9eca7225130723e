"""`steper prompt`: the exact prompts of a question, with the run's index and a model's tokenizer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steper_ray.chains.teachers import model_reasoning
from steper_ray.errors import InputError
from steper_ray.models.folder import check_model
from steper_ray.models.hub import split_revision
from steper_ray.models.loading import load_tokenizer
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.preview import preview
from steper_ray.retrieval import open_retriever

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def show_prompts(
    config: "RunConfig",
    question: str,
    *,
    rationales: Sequence[str] = (),
    model: str | None = None,
    teacher: bool = False,
) -> Iterator[str]:
    """Lines to print: a prompt for each assumed rationale, and the one after them.

    model:   whose tokenizer and settings; None takes the base student's (`train.model`)
    teacher: take the teacher's (`build.teacher`)
    Raises InputError for an unusable model or corpus, or a blank question.
    """
    question = question.strip()
    if not question:
        raise InputError("--question is blank; give one to answer")
    setting = "build.teacher" if teacher else "train.model"
    endpoint = config.build.endpoint if teacher and not model else None
    if model:
        name, revision = split_revision(model)
    elif teacher:
        name, revision = config.build.teacher, config.build.revision
    else:
        name, revision = config.train.model, config.train.revision
    tokenizer = name
    if endpoint is not None:
        if endpoint.tokenizer is None:
            raise InputError(
                "--teacher: the teacher is an endpoint, whose tokenizer is not known; name one in "
                "build.endpoint.tokenizer"
            )
        tokenizer, setting = endpoint.tokenizer, "build.endpoint.tokenizer"
    tokenizer = check_model(tokenizer, "--model" if model else setting, revision)
    settings = model_reasoning(name, build=config.build, reasoning=config.reasoning)
    retriever = open_retriever(config.folder.corpus)
    encoder = PromptEncoder(
        load_tokenizer(tokenizer, config.hub, revision),
        False if endpoint else settings.chat,  # an endpoint is sent the prompt's plain text
        settings.template_date,
    )
    shown = "in its chat template" if encoder.chat else "as plain text"
    examples = len(settings.demonstrations)
    yield (
        f"{Path(name).name}, {shown}; {settings.framework}, k = {settings.passages_per_step}, "
        f"at most {settings.max_steps} steps, {examples} demonstration{'' if examples == 1 else 's'}; "
        f"corpus {retriever.version}"
    )
    yield from preview(question, rationales, encoder, retriever, settings)
