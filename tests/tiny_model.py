"""A model so small that a test trains or exports it in a second."""

from pathlib import Path

from steper_ray.toy.tokenizer import make_tokenizer


def save_tiny_model(folder: Path, *, hidden_size: int) -> Path:
    """Write a random Qwen3 of two layers, fp32, with the toy tokenizer; returns the folder."""
    import torch

    from steper_ray.toy.pretrain import Recipe, make_model

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    recipe = Recipe(hidden_size=hidden_size, layers=2, steps=0, tokens=0, max_hops=0, lr=0.0)
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
