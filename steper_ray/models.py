"""Model folders: whether one is usable, and the reasoning settings a student carries."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from steper_ray.errors import InputError
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig

if TYPE_CHECKING:
    from steper_ray.config import RunConfig
    from steper_ray.stepwise.build import TeacherConfig

SETTINGS_FILE: Final = "steper.json"


def check_model(model: str, what: str) -> str:
    """The model unchanged if it is a Hugging Face folder, or the name of one on the Hub.

    what: names the setting in errors, as `train.model`
    """
    if not model:
        raise InputError(f"{what} is not set; name a Hugging Face model folder or a Hub model")
    folder = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{what}: {model}: not a model folder (no config.json in it)")
        if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise InputError(f"{what}: {model}: not a model folder (no weights in it)")
    elif folder.exists() or looks_like_path:
        raise InputError(f"{what}: {model}: no such model folder; check the path")
    return model


def model_size(model: str) -> tuple[int | None, int | None]:
    """(parameters, bytes on disk) of a model folder's safetensors; (None, None) for a Hub name."""
    from math import prod

    from safetensors import safe_open

    files = sorted(Path(model).expanduser().glob("*.safetensors"))
    if not files:
        return None, None
    parameters = 0
    for file in files:
        with safe_open(file, framework="numpy") as weights:
            parameters += sum(
                prod(weights.get_slice(key).get_shape())
                for key in weights.keys()  # noqa: SIM118
            )
    return parameters, sum(file.stat().st_size for file in files)


def files_digest(model: str) -> str:
    """Changes with any file of a model folder; for a Hub name, the name."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def student_settings(
    reasoning: ReasoningConfig, corpus_version: str, *, chat: bool
) -> dict[str, Any]:
    """What a trained student's folder carries so that it is asked as it was trained.

    chat: whether its examples were put into the chat template
    """
    settings = complete_reasoning(reasoning).model_dump(mode="json")
    return {**settings, "chat": chat, "corpus_version": corpus_version}


def carried_settings(model: str) -> tuple[ReasoningConfig, str] | None:
    """The reasoning settings and corpus version in a model folder, or None if it carries none."""
    file = Path(model).expanduser() / SETTINGS_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = str(values.pop("corpus_version"))
        return ReasoningConfig.model_validate(values), version
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, ValidationError) as error:
        raise InputError(
            f"{file}: not the settings of a student ({type(error).__name__}); export it again"
        ) from None


def reasoning_for(config: "RunConfig", model: str) -> ReasoningConfig:
    """How a model is asked: a student as its folder says, a teacher with what `build` adds to the prompt,
    any other as the run file says.

    Raises InputError for settings or demonstrations that cannot be used.
    """
    for teacher in (config.build, *config.build.ensemble):
        if model == teacher.teacher:
            return reasoning_of(teacher, config.reasoning)
    carried = carried_settings(model)
    return carried[0] if carried is not None else complete_reasoning(config.reasoning)


def reasoning_of(teacher: "TeacherConfig", reasoning: ReasoningConfig) -> ReasoningConfig:
    """How a teacher is asked: a trained student as its folder says, else like the student, with what the
    teacher alone is shown.

    Raises InputError for settings or demonstrations that cannot be used.
    """
    carried = carried_settings(teacher.teacher)
    if carried is not None:
        return carried[0]
    return teacher_settings(
        reasoning, instruction=teacher.instruction, demonstrations=teacher.demonstrations
    )


def teacher_settings(
    reasoning: ReasoningConfig, *, instruction: str | None, demonstrations: str | None
) -> ReasoningConfig:
    """How the teacher is asked: as the student is, but for what it is shown before the question.

    instruction, demonstrations: None leaves the student's; demonstrations are a file or `bundled`
    Raises InputError for demonstrations that cannot be used.
    """
    update = {"instruction": instruction, "demonstrations": demonstrations}
    given = {name: value for name, value in update.items() if value is not None}
    return complete_reasoning(reasoning.model_copy(update=given))
