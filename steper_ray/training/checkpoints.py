"""Checkpoints: ZeRO's shards of weights and optimizer, σ, the record of validations, every random state.

Frozen weights (LoRA) are in none: they are those of the base student, which a resumed run loads anyway.

A checkpoint's shards fit the number of workers and the ZeRO stage that wrote it. For others they are
converted (`conversion.py`).
"""

import json
import random
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct

from steper_ray import __version__
from steper_ray.run.identity import FORMAT, RECORD_FILE, check_format, read_record
from steper_ray.training.settings import TrainConfig

SHARDS_TAG: Final = "zero"


STATE_FILE: Final = "state.json"


SIGMA_FILE: Final = "sigma.pt"


_NUMPY: Final[list[Any]] = [
    _reconstruct,
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]
"""What the first checkpoints of format 1 have NumPy's state as."""


def save_state(folder: Path, state: dict[str, Any], sigma: dict[str, Any]) -> None:
    """Write the state that all ranks share; called by one of them.

    state: plain JSON values; sigma: from `Sigma.state_dict`
    """
    torch.save(sigma, folder / SIGMA_FILE)
    head = {"format": FORMAT, "steper_ray": __version__}
    text = json.dumps({**head, **state}) + "\n"
    (folder / STATE_FILE).write_text(text, encoding="utf-8")


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and σ as `save_state` wrote them; raises InputError if a newer version of steper_ray did."""
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    check_format(state, folder)
    return state, torch.load(folder / SIGMA_FILE)


def shards_of(train: TrainConfig) -> dict[str, Any]:
    """What the shards of a checkpoint depend on, beside the number of workers."""
    return {
        "zero_stage": train.zero_stage,
        "offload_optimizer": train.offload_optimizer,
        "offload_weights": train.offload_weights,
    }


def fits(folder: Path, state: dict[str, Any], train: TrainConfig, ranks: int) -> bool:
    """Whether a checkpoint's shards are those of a training; without ZeRO there are none.

    state: from `load_state`
    """
    if train.zero_stage == 0:
        return True
    shards = shards_of(train)
    before = state.get("shards")
    if before is None:  # older checkpoints leave it to the record beside them
        made_with = (read_record(folder.parent / RECORD_FILE) or {}).get("checkpoint", shards)
        before = {name: made_with[name] for name in shards}
    return before == shards and bool(state["workers"] == ranks)


def save_random_state(folder: Path, rank: int) -> None:
    """Write this process's random states: Python, NumPy, torch, and CUDA where it is used.

    As tensors and plain values, which are read without running code.
    """
    name, keys, *place = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *place),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
    torch.save(state, folder / f"random-{rank}.pt")


def load_random_state(folder: Path, rank: int) -> None:
    """Restore this rank's random states; a rank that the checkpoint does not know keeps its own."""
    file = folder / f"random-{rank}.pt"
    if not file.exists():
        return
    with torch.serialization.safe_globals(_NUMPY):
        state = torch.load(file, weights_only=True)
    random.setstate(state["python"])
    name, keys, *place = state["numpy"]
    np.random.set_state((name, np.asarray(keys).astype(np.uint32), *place))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def save_shards(engine: Any, folder: Path) -> None:
    """Write this rank's shards of what is trained; every rank takes part."""
    # DeepSpeed leaves a frozen weight out under one of its names only: a tied head would bring it back.
    hook = engine.module.register_state_dict_post_hook(_leave_frozen_out)
    engine.save_checkpoint(str(folder), tag=SHARDS_TAG, exclude_frozen_parameters=True)
    hook.remove()


def _frozen(module: torch.nn.Module) -> set[str]:
    """Every name of every weight that is not trained."""
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _leave_frozen_out(
    module: torch.nn.Module, state: dict[str, Any], prefix: str, _metadata: Any
) -> None:
    """Remove frozen weights from a module's state, with what belongs to them (scales of 4-bit ones)."""
    frozen = _frozen(module)
    for key in list(state):
        name = key.removeprefix(prefix)
        if name in frozen or f"{name.rpartition('.weight.')[0]}.weight" in frozen:
            del state[key]


def _load_trained(src: dict[str, Any], dst: torch.nn.Module) -> None:
    """Load a module's state, as DeepSpeed asks for it: nothing that is trained may be missing."""
    keys = dst.load_state_dict(src, strict=False)
    missing = set(keys.missing_keys) - _frozen(dst)
    assert not missing, missing
    assert not keys.unexpected_keys, keys.unexpected_keys


def load_shards(engine: Any, folder: Path) -> None:
    """Load weights and optimizer from a checkpoint of as many workers, at the same ZeRO stage; every rank
    takes part.
    """
    engine.load_checkpoint(str(folder), tag=SHARDS_TAG, custom_load_fn=_load_trained)
