"""The limit on what a chat writes, among vLLM's arguments."""

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("given", "limit"),
    [({}, 100), ({"max_new_tokens": 50}, 50), ({"max_new_tokens": 500, "top_k": 3}, 100)],
)
def test_a_chat_ends_at_the_lower_limit(given: dict[str, Any], limit: int) -> None:
    from steper_ray.serving.deployments.llm import ending_chats

    arguments = {"dtype": "float32", "override_generation_config": given}
    assert ending_chats(arguments, 100) == {
        "dtype": "float32",
        "override_generation_config": {**given, "max_new_tokens": limit},
    }
    assert ending_chats({}, 100) == {"override_generation_config": {"max_new_tokens": 100}}
