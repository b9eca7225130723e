"""Access to the Hugging Face Hub: token, offline mode, revisions, and one line for whatever fails.

A token is never passed on, so no argument, log or record has it: it stays in the environment of each
process that loads, under the one name that every library reads. A model that cannot be loaded gives one
line that names the model, the variable and the remedy, whatever library failed.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steper_ray.errors import InputError, behind
from steper_ray.models.settings import DEFAULTS, TOKEN, HubConfig
from steper_ray.text import short_message


def use_hub(hub: HubConfig) -> None:
    """Have this process, and those it starts, reach the Hub as the `hub` section says."""
    if token := os.environ.get(hub.token_env):
        os.environ[TOKEN] = token
    if hub.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
        # read once, by whoever has imported them already
        for name in ("huggingface_hub.constants", "datasets.config"):
            if name in sys.modules:
                vars(sys.modules[name])["HF_HUB_OFFLINE"] = True


def split_revision(model: str) -> tuple[str, str | None]:
    """(name, revision) of `owner/name@revision`; a folder, and a name without one, has None."""
    name, at, revision = model.partition("@")
    if not at or Path(model).expanduser().exists():
        return model, None
    return name, revision


def hub_commit(name: str, revision: str | None = None, hub: HubConfig = DEFAULTS) -> str | None:
    """The commit behind a revision of a model on the Hub; None where it cannot be told.

    revision: commit, branch or tag; None is the branch `main`
    What was fetched to this machine before counts first, then the Hub is asked.
    """
    use_hub(hub)
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    revision = revision or constants.DEFAULT_REVISION
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    with suppress(OSError):
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    if constants.is_offline_mode():
        return None
    try:
        return HfApi().model_info(name, revision=revision, timeout=10).sha
    except (HfHubHTTPError, HFValidationError, httpx2.TransportError, OSError):
        return None  # whoever loads it says why


Shapes = dict[str, tuple[list[int], int]]
"""Name → shape and bytes of each tensor."""


def cached_folder(name: str, commit: str | None) -> Path | None:
    """The folder of this machine's cache with all weights of a model on the Hub; None where some lack."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    folder = cache / "snapshots" / (commit or "")
    return folder if all((folder / name).is_file() for name in weight_file_names(folder)) else None


def weight_file_names(folder: Path) -> set[str]:
    """Names of the safetensors files of a model's folder: those in its index, else the only one."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())


def hub_shapes(name: str, commit: str | None) -> Shapes | None:
    """Tensors of a model on the Hub, from the heads of its files; None where they cannot be told."""
    import httpx2
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if commit is None or constants.is_offline_mode():
        return None
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        files = HfApi().get_safetensors_metadata(name, revision=commit, timeout=10).files_metadata
    except (
        errors.HfHubHTTPError,
        errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
        httpx2.TransportError,
        OSError,
    ):
        return None
    finally:
        if shown:
            enable_progress_bars()
    return {
        name: (tensor.shape, tensor.data_offsets[1] - tensor.data_offsets[0])
        for file in files.values()
        for name, tensor in file.tensors.items()
    }


def at_revision(revision: str | None) -> dict[str, str]:
    """Arguments with which `from_pretrained` loads a revision; None is its own default."""
    return {} if revision is None else {"revision": revision}


@contextmanager
def explained(model: str, hub: HubConfig) -> Iterator[None]:
    """Turn errors of transformers, vLLM and huggingface_hub about a model into one InputError.

    Those are a model that cannot be reached, and one whose own code is not run or fails; any other error
    passes through.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        local = Path(model).expanduser().is_dir()
        reason = None if local else why_not(error, model, hub.token_env)
        if (reason := reason or _own_code(error, model, hub)) is None:
            raise
        raise InputError(reason) from None


def why_not(error: BaseException, name: str, token_env: str = TOKEN, kind: str = "") -> str | None:
    """Why a repository could not be read, and what to do; None if the Hub has no part in the error.

    kind: prefix of the name in addresses: empty for models, or `datasets/`
    """
    from huggingface_hub import constants, errors, get_token

    def raised(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    chain = _chain(error)
    messages = " ".join(map(str, chain))  # `datasets` drops the causes of its errors
    endpoint = constants.ENDPOINT
    token = f"a token that may read it into {token_env} on every machine that loads it"
    if raised(errors.GatedRepoError) or "is a gated dataset" in messages:
        sent = "the token sent has no access" if get_token() else "no token was sent"
        return f"{name}: gated, and {sent}; accept its terms at {endpoint}/{kind}{name} and put {token}"
    if constants.is_offline_mode() and raised(FileNotFoundError, ConnectionError):
        of = " --repo-type dataset" if kind else ""
        return (
            f"{name}: not on this machine, and offline mode is on; fetch it with `hf download {name}{of}`, "
            "or set hub.offline: false and unset HF_HUB_OFFLINE"
        )
    if raised(errors.RevisionNotFoundError):
        return (
            f"{name}: has no such revision at {endpoint}; name one of its branches, tags or commits"
        )
    if raised(errors.RepositoryNotFoundError) or "doesn't exist on the Hub" in messages:
        return f"{name}: no such repository at {endpoint}, or a private one; check the name, or put {token}"
    if raised(errors.LocalEntryNotFoundError, ConnectionError):
        return (
            f"{name}: not on this machine, and {endpoint} cannot be reached; check the network and "
            "HF_ENDPOINT, or fetch it elsewhere"
        )
    refusal = next((cause for cause in chain if isinstance(cause, errors.HfHubHTTPError)), None)
    if refusal is not None:
        answer = f"{refusal.response.status_code}: {hub_message(refusal.server_message or refusal)}"
        return f"{name}: {endpoint} refuses it ({answer})"
    return None


def _own_code(error: BaseException, model: str, hub: HubConfig) -> str | None:
    """The remedy for an error about a model's own code; None for any other error."""
    chain = _chain(error)
    missing = next((cause for cause in chain if isinstance(cause, ImportError)), None)
    if hub.trust_remote_code and missing is not None:
        return f"{model}: the code it brings cannot be run ({hub_message(missing)})"
    if not hub.trust_remote_code and any("trust_remote_code=True" in str(cause) for cause in chain):
        return (
            f"{model}: brings code of its own, which is not run unasked; read it, then set "
            "hub.trust_remote_code: true"
        )
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """An error and its causes, those that pydantic wraps included."""
    from pydantic import ValidationError

    chain: list[BaseException] = []
    for cause in behind(error):
        chain.append(cause)
        findings = cause.errors() if isinstance(cause, ValidationError) else ()
        for finding in findings:
            if isinstance(wrapped := finding.get("ctx", {}).get("error"), BaseException):
                chain += behind(wrapped)
    return chain


def hub_message(message: object) -> str:
    """A foreign message or error on one line, never with the user's token in it."""
    from huggingface_hub import get_token

    return short_message(message, secret=get_token())
