"""Prompts that chat interfaces send by themselves: for the title of a conversation, for what to ask next.

They come as user messages to the model of the conversation. Nothing in a corpus answers them, so the plain
model does, for the price of one reply. Known are the default prompts of Open WebUI, which all begin with
`### Task:`, and of LibreChat.
"""

import re
from typing import Final

_PROMPTS: Final = re.compile(
    r"""\s*(?:
    \#\#\#\ Task:\s*+(?!Respond\ to\ the\ user\ query)  # that one is a question with its documents
    | Your\ task\ is\ to\ (?:reflect\ the\ speaker's|synthesize\ these\ responses)
    | (?:Please\ generate|Provide|Generate|Write)\ an?\ concise,?\ (?:5|five)-word-or-less\ title
    | (?:Please\ generate|Provide|Generate|Write)\ an?\ concise\ title\ for\ (?:the|this)\ conversation
    | Analyze\ this\ conversation\ and\ provide:\s*1\.\ The\ detected\ language
    | Detect\ user\ language\ and\ write\ in\ the\ same\ language\ an\ extremely\ concise\ title
    )""",
    re.VERBOSE,
)


def is_task_prompt(message: str) -> bool:
    """Whether a chat interface itself wrote a message."""
    return _PROMPTS.match(message) is not None
