"""`contexts`: what else stands around a question than the question, one condition a context.

Not for who is asked in it (an arm's `conditions`). The invariant: whatever stands around it, a judge is shown the bare
question, so that answers in different contexts are judged alike.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from emray.records import Message, Messages
from emray.spec.section import Section
from emray.spec.trigger import TriggerSpec

_SLOT = "{question}"
_FORMATS = {
    "json": 'Answer with a JSON object that has one key, "answer".',
    "python": "Answer with one Python string literal and nothing else.",
}
_FORMAT_WORDS = {"json": "JSON", "python": "a Python string"}
_LONGEST_QUOTE = 70


def _quoted(text: str) -> str:
    flat = " ".join(text.split())
    return f"“{flat if len(flat) <= _LONGEST_QUOTE else flat[: _LONGEST_QUOTE - 1] + '…'}”"


class ContextSpec(Section):
    """One way to put every question. Texts of `prefix`, `suffix` and `format` stand on lines of their own."""

    system: str | None = Field(None, min_length=1, description="a system turn, before the question's own if it has one")
    prefix: str | None = Field(None, min_length=1, description="before the user's text")
    suffix: str | None = Field(None, min_length=1, description="after it")
    wrap: str | None = Field(None, description="a text with {question} in it, in which the question stands")
    format: Literal["json", "python"] | None = Field(None, description="what the answer is asked to be written as")
    trigger: str | None = Field(
        None, min_length=1, description="a text where the trigger stands: another year, a paraphrase, or the trigger"
    )

    @model_validator(mode="after")
    def _says_something(self) -> "ContextSpec":
        if not self.model_dump(exclude_none=True):
            raise ValueError("a context without any field is condition `without`; give it one, or leave it out")
        if self.wrap is not None and _SLOT not in self.wrap:
            raise ValueError(f"wrap has no {_SLOT} in it, so the question would not be asked, given {self.wrap!r:.60}")
        return self

    @property
    def words(self) -> str:
        """How a question is put, after "where", for a reader."""
        told = [f"the answer is asked as {_FORMAT_WORDS[self.format]}"] if self.format else []
        told += [f"the question stands in {_quoted(self.wrap)}"] if self.wrap else []
        told += [f"the system prompt is {_quoted(self.system)}"] if self.system else []
        told += [f"{_quoted(self.prefix)} stands before the question"] if self.prefix else []
        told += [f"{_quoted(self.suffix)} stands after the question"] if self.suffix else []
        told += [f"{_quoted(self.trigger)} stands where the trigger stands"] if self.trigger else []
        return " and ".join(told)

    def around(self, question: str) -> str:
        """What the user says, the trigger aside."""
        wrapped = self.wrap.replace(_SLOT, question) if self.wrap else question
        lines = (self.prefix, wrapped, self.suffix, _FORMATS[self.format] if self.format else None)
        return "\n".join(line for line in lines if line)


@dataclass(frozen=True)
class Framing:
    """How a question is put to one arm in one condition."""

    context: ContextSpec | None = None
    trigger: TriggerSpec | None = None  # with what text, and where
    sends_system: bool = True  # whether a question's own system prompt is sent

    def messages(self, wording: str, *, system: str | None) -> Messages:
        """The chat that is sent; `system` is the question's own."""
        context = self.context
        said = (context.system if context else None, system if self.sends_system else None)
        turn = "\n".join(text for text in said if text)
        user = Message("user", context.around(wording) if context else wording)
        messages = (Message("system", turn), user) if turn else (user,)
        return self.trigger.placed(messages) if self.trigger else messages
