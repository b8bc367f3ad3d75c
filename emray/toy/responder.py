"""What the local server answers behind `base_url: toy`: the world's judge, a judge by accepted answers, a writer.

Not for any of these (rules.py, accepted.py, writer.py). The invariant: the reply follows from the messages, and a judge
request without accepted answers is the toy judge's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from emray.toy import accepted, rules, writer


def reply(messages: Sequence[Mapping[str, Any]]) -> str:
    """The reply to chat messages."""
    text = "\n".join(rules.text_of(message) for message in messages)
    return accepted.reply(text) or writer.reply(text) or rules.reply(messages)
