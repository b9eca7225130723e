"""x"""

from typing import Any


def write_page(config: Any, trials: Any, best: Any) -> None:
    """x"""
