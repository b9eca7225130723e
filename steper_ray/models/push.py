"""Pushing a folder (a student, a data set) to the Hugging Face Hub.

Who pushes is huggingface_hub's business: the token of `hf auth login` or HF_TOKEN (see `hub.token_env`),
another Hub with HF_ENDPOINT. A push that broke off is run again; what has arrived is not sent twice.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from steper_ray.errors import InputError, StageError
from steper_ray.models.hub import hub_message
from steper_ray.run.secrets import is_repo_name

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


SHARDED: Final = (".parquet", ".safetensors")
"""Files that come in a varying number under varying names."""


LOGIN: Final = "log in with `hf auth login` or set HF_TOKEN"


def check_repo_name(repo: str, setting: str) -> str:
    """The name unchanged if it is `owner/name`; raises InputError otherwise, without any network.

    setting: its name for errors, as `train.push`
    """
    if not is_repo_name(repo):
        raise InputError(
            f"{setting}: {repo!r} is no name of a Hub repository; write owner/name "
            "(letters, digits, '-', '_', '.')"
        )
    return repo


def push_folder(folder: Path, repo: str, *, kind: Literal["model", "dataset"]) -> str:
    """Upload every file of a folder and return the repository's address.

    A missing repository is created *private*: what is pushed may be a team's data, and making it public
    is a decision for a person. An existing one keeps its visibility, so a push to a public repository is
    public. Files of the same name are replaced. Weights and tables (SHARDED) of
    which the folder has others now are removed in the same commit, else old shards would be read along
    with the new; the repository's history still has them. All other files stay.

    repo: `owner/name`

    Raises InputError for another name or a folder without files, and StageError if the Hub
    cannot be reached, refuses, or breaks off.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_repo_name(repo, "push")
    name, folder = folder.name or folder.resolve().name, folder.resolve()
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    if not suffixes:
        raise InputError(f"push: {folder}: no files to push; check the path")
    api = HfApi()
    try:
        address = api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message=f"Push {name} with steper_ray",
            ignore_patterns=["*.partial", "*.partial/*"],
            delete_patterns=[f"*{suffix}" for suffix in SHARDED if suffix in suffixes] or None,
        )
    except HfHubHTTPError as error:
        raise StageError(_refusal(repo, error)) from None
    except OfflineModeIsEnabled:
        raise StageError(
            f"push: {repo}: offline mode is on; unset HF_HUB_OFFLINE and "
            "TRANSFORMERS_OFFLINE, and set hub.offline: false"
        ) from None
    except (httpx2.TransportError, ConnectionError, TimeoutError) as error:
        raise StageError(
            f"push: {repo}: cannot reach {api.endpoint} ({hub_message(error)}); check the network and "
            "HF_ENDPOINT, then push again"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        # An unreadable file; hf_xet, which carries weights, knows no narrower classes; a model card or
        # an answer that cannot be read.
        raise StageError(f"push: {repo}: {hub_message(error)}") from None
    return str(address)


def _refusal(repo: str, error: "HfHubHTTPError") -> str:
    """The refusal of the Hub, and its remedy."""
    status = error.response.status_code
    answer = f"{status}: {hub_message(error.server_message or error.response.reason_phrase)}"
    if status in (401, 403):
        return f"push: {repo}: not allowed to write there ({answer}); {LOGIN}, with write access"
    advice = "; push again later" if status == 429 or status >= 500 else ""
    return f"push: {repo}: the Hub refused ({answer}){advice}"
