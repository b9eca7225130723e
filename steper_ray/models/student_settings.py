"""`steper.json`: the reasoning settings that a student's folder carries."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from steper_ray import __version__
from steper_ray.errors import InputError
from steper_ray.models.folder import model_identity
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.dependencies import ASKING_RULES
from steper_ray.run.identity import FORMAT, RULES, check_format, digest, migrated

SETTINGS_FILE: Final = "steper.json"


def student_settings(
    reasoning: ReasoningConfig,
    corpus_version: str,
    *,
    chat: bool,
    base: Mapping[str, str] | None = None,
    abilities: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The settings in a trained student's folder, with which it is asked as it was trained.

    reasoning: complete settings (`complete_reasoning`), so that the folder needs no other file
    chat:      whether its examples were put into the chat template
    base:      the base student, from `model_identity`
    abilities: record of the ability scheme that it was trained by
    """
    assert reasoning.instruction is not None, "complete settings have an instruction"
    return {
        "format": FORMAT,
        "steper_ray": __version__,
        **reasoning.model_dump(mode="json"),
        "chat": chat,
        "corpus_version": corpus_version,
        "base_model": dict(base or {}),
        "abilities": dict(abilities or {}),
        "rules": {name: RULES[name] for name in (*ASKING_RULES, "objective")},
    }


def carried_settings(model: str) -> tuple[ReasoningConfig, str] | None:
    """The reasoning settings and corpus version in a model folder, or None if it carries none.

    Raises InputError for settings that cannot be read, or that a newer version has written.
    """
    file = settings_file(model)
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        check_format(values, file)
        _check_rules(values["rules"], values["steper_ray"], file)
        values = migrated({"result": "student", **values})
        version = str(values.pop("corpus_version"))
        for name in ("result", "format", "steper_ray", "base_model", "rules"):
            values.pop(name)
        values.pop("abilities", None)  # a student of an earlier version has none
        return ReasoningConfig.model_validate(values), version
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, ValidationError) as error:
        raise InputError(
            f"{file}: not the settings of a student ({type(error).__name__}); export it again"
        ) from None


def carried_abilities(model: str) -> Mapping[str, object]:
    """Record of the ability scheme that a student was trained by; empty if its folder has none.

    To be read after `carried_settings`, which checks the file.
    """
    file = settings_file(model)
    if not file.is_file():
        return {}
    abilities: Mapping[str, object] = json.loads(file.read_text(encoding="utf-8")).get("abilities")
    return abilities or {}


def settings_file(model: str) -> Path:
    """The file with a student's settings; missing in the folder of any other model."""
    return Path(model).expanduser() / SETTINGS_FILE


def student_identity(folder: Path) -> str:
    """Identity of a student by its content, settings included: 12 hexadecimal digits."""
    settings = settings_file(str(folder)).read_text(encoding="utf-8")
    return digest([model_identity(str(folder)), settings])[:12]


def _check_rules(rules: Mapping[str, int], version: str, file: Path) -> None:
    """Raises InputError for a student that is to be asked by a rule which this version does not know."""
    for name in ASKING_RULES:
        if rules.get(name, 1) > RULES[name]:
            raise InputError(
                f"{file}: trained with {name} rule {rules[name]} by steper_ray {version}; this is "
                f"steper_ray {__version__}, which knows rule {RULES[name]}: install that version or later"
            )
