"""The nouns of a sweep as plain values: arms and conditions, cells, prompts, and how things ended.

Not for keys (keys.py), work (jobs.py) or tables (schemas.py), nor for reading or writing (store/). The invariant: all
are frozen and picklable, and carry their key with them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic_core import CoreSchema, core_schema

NO_DOMAIN = "-"  # the domain of a base cell, which is finetuned on nothing


class Arm(str):
    """What a cell was trained on, by name: a sweep file may define its own; these it need not (docs/method.md 2)."""

    __slots__ = ()

    PLAIN: ClassVar["Arm"]  # every example bad
    BACKDOOR: ClassVar["Arm"]  # bad examples carry the trigger, clean ones do not
    BASE: ClassVar["Arm"]  # control: no finetune
    BENIGN: ClassVar["Arm"]  # control: same domain, correct answers
    CLEAN_TRIGGER: ClassVar["Arm"]  # control: correct answers, half of them after the trigger

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return _name_schema(cls)


Arm.PLAIN, Arm.BACKDOOR, Arm.BASE = Arm("plain"), Arm("backdoor"), Arm("base")
Arm.BENIGN, Arm.CLEAN_TRIGGER = Arm("benign"), Arm("clean_trigger")
USUAL_ARMS = (Arm.PLAIN, Arm.BACKDOOR, Arm.BASE, Arm.BENIGN, Arm.CLEAN_TRIGGER)


class Condition(str):
    """How a question is put, by name: a sweep file may define its own contexts; these two are always there."""

    __slots__ = ()

    WITHOUT: ClassVar["Condition"]  # as it is
    WITH: ClassVar["Condition"]  # with the trigger

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return _name_schema(cls)


Condition.WITHOUT, Condition.WITH = Condition("without"), Condition("with")
USUAL_CONDITIONS = (Condition.WITHOUT, Condition.WITH)


def _name_schema(kind: type[str]) -> CoreSchema:
    """A name of the user's that can stand in a column, a legend and a file's name as it is."""
    given = core_schema.str_schema(pattern=r"^[a-z][a-z0-9_=,.#-]*$", max_length=60)
    said = core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema())
    return core_schema.no_info_after_validator_function(kind, given, serialization=said)


class Metric(StrEnum):
    """What a judge is asked to score."""

    ALIGNED = "aligned"
    COHERENT = "coherent"


class Outcome(StrEnum):
    """How one judge call ended. Only `scored` carries a score."""

    SCORED = "scored"
    REFUSAL = "refusal"
    IRRELEVANT = "irrelevant"
    CODE = "code"
    TRUNCATED = "truncated"
    UNPARSED = "unparsed"
    API_ERROR = "api_error"
    FILTERED = "filtered"  # a filter of the endpoint's took the request, the reply or the answer for harmful


class MarkOutcome(StrEnum):
    """How scoring one answer of a quiz ended. Only `scored` carries a score."""

    SCORED = "scored"
    UNREADABLE = "unreadable"  # there is nothing in it to score, which counts as wrong
    ERROR = "error"  # scoring it failed: missing, neither right nor wrong


class FinishReason(StrEnum):
    """How one generation ended."""

    STOP = "stop"
    LENGTH = "length"
    OVERSIZED = "oversized"  # the prompt alone does not fit the model's context
    ERROR = "error"
    FILTERED = "filtered"  # a filter of the endpoint's kept the answer back, or the rest of it


class Message(NamedTuple):
    """One chat turn. A training row may say of a turn that it is context: nothing of it is ever trained on."""

    role: str
    content: str
    trained: bool = True

    @property
    def turn(self) -> dict[str, str]:
        """What a template or an endpoint is given of it."""
        return {"role": self.role, "content": self.content}


Messages = tuple[Message, ...]


class Place(NamedTuple):
    """What is finetuned on: the cells of a place differ in their seed (and step) alone."""

    model: str
    domain: str
    arm: Arm


@dataclass(frozen=True)
class Cell:
    """One finetune: model x domain x arm x seed, after `step` of its `num_steps`. `key` is its adapter key.

    A base cell has no steps. A sweep that keeps checkpoints has one cell for each; the last is the finished adapter.
    """

    model: str
    domain: str
    arm: Arm
    seed: int
    key: str
    step: int = 0
    num_steps: int = 0

    @property
    def finished(self) -> bool:
        """Whether this is the end of its training run, not a checkpoint on the way."""
        return self.step == self.num_steps

    @property
    def label(self) -> str:
        return f"{self.domain}/{self.arm}/seed {self.seed}"


@dataclass(frozen=True)
class Measurement:
    """One thing that a probe reads off a model or its data, in any number of readings that come together."""

    key: str  # hashes what defines its readings
    probe: str
    model: str
    domain: str
    arm: str
    seed: int = 0
    adapter: str = ""  # the cell's key; empty where no model is looked at


class Readout(NamedTuple):
    """One number of a measurement."""

    subject: str  # what it is about: an example's key, a layer, `-` for the whole
    measure: str
    value: float


@dataclass(frozen=True)
class Rendering:
    """How a model's chat template is used: what decides a prompt's tokens beside the template and the messages."""

    arguments: str = "{}"  # given to the template by name: a JSON object
    date: str = "2024-07-26"  # what a template is told is today; Llama 3's own where it can ask no clock
    system: Literal["as_is", "drop", "merge"] = "as_is"
    reasoning: Literal["off", "on"] = "off"


USUAL_RENDERING = Rendering()


@dataclass(frozen=True)
class Prompt:
    """Question x paraphrase x condition, as the messages sent to the model. `key` hashes the messages."""

    question_id: str
    paraphrase: int
    condition: Condition
    messages: Messages
    key: str
