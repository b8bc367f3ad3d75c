"""`quizzes`: further questions, whose answers are scored by a rule in place of a judge, one section a quiz.

Not for scoring (marks/). The invariant: a quiz that exists has exactly one way of scoring, and `identity()` of that way
holds what decides a score beside the answer and what is right.
"""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from emray.records import Arm, Condition
from emray.spec.generate import QuestionFile
from emray.spec.section import Section, one_or_more

COHERENT = "coherent"  # what stands beside quizzes in their table: the share of coherent answers, by the judge
RIGHT = "{answer}"  # in a pattern: any of the question's right answers, as it is written
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class ExactSpec(Section):
    """The whole answer is a right one, outer spaces aside and runs of spaces as one."""

    casefold: bool = Field(True, description="capitals do not matter")
    punctuation: bool = Field(False, description="a mark at the end (one of . , ; : ! ?) matters")


class NumberSpec(Section):
    """The last number of the answer is the right one: 1,000 and -0.5 and 2e3 are numbers."""

    tolerance: float = Field(1e-9, ge=0, description="a number this near the right one is right")


class ChoiceSpec(Section):
    """The likeliest of the question's options is a right one; nothing is drawn."""

    per_token: bool = Field(False, description="options are compared by the mean log-probability of their tokens")


class ScoreSpec(Section):
    """How an answer is scored: one of these. `exact`, `number` and `choice` may stand alone."""

    exact: ExactSpec | None = Field(None, description="the whole answer is right")
    number: NumberSpec | None = Field(None, description="its last number is right")
    choice: ChoiceSpec | None = Field(None, description="the right option is the likeliest, by the model's own odds")
    regex: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="this pattern of Python's re is found in it; {answer} stands for the right answers",
    )
    function: str | None = Field(
        None, description="package.module:function of yours, given answer, question and right answers as texts"
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile((pattern or "").replace(RIGHT, "right"))
        except (re.error, OverflowError) as error:
            raise ValueError(f"this is no pattern of Python's re: {error}") from None
        return pattern

    @field_validator("function")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not _FUNCTION.fullmatch(path):
            raise ValueError("a function is named package.module:function")
        return path

    @model_validator(mode="after")
    def _is_one(self) -> "ScoreSpec":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(type(self).model_fields)}, given {' and '.join(given) or 'none'}")
        return self

    @property
    def way(self) -> str:
        """The name of the one that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def needs_answers(self) -> bool:
        """Whether a question without a right answer cannot be scored."""
        return self.way in ("exact", "number", "choice") or (self.regex is not None and RIGHT in self.regex)

    def identity(self) -> dict[str, Any]:
        """A function's source is not in it (marks/function.py)."""
        return {self.way: self.model_dump(mode="json")[self.way]}


def _from_word(value: Any) -> Any:
    """A word stands for that way of scoring as it is by default."""
    if isinstance(value, str) and value not in get_args(_Word):
        raise ValueError(f"{', '.join(get_args(_Word))} stand alone; others are {{regex: ...}} and {{function: ...}}")
    return {value: {}} if isinstance(value, str) else value


_Word = Literal["exact", "number", "choice"]
_Score = Annotated[ScoreSpec, BeforeValidator(_from_word, json_schema_input_type=ScoreSpec | _Word)]


class QuizSpec(Section):
    """One quiz."""

    questions: Annotated[list[QuestionFile], one_or_more(QuestionFile)] = Field(
        min_length=1, description="question files; `answer`, `answers` and `options` of a question say what is right"
    )
    score: _Score = Field(description="how: exact, number, choice, {regex: PATTERN} or {function: module:function}")
    arms: Annotated[list[Arm], one_or_more(Arm)] | None = Field(None, description="those that are asked; default: all")
    conditions: Annotated[list[Condition], one_or_more(Condition)] | None = Field(
        None, description="those in which they are asked; default: all that an arm meets"
    )
    own_domain: bool = Field(
        False, description="a cell is asked the questions of its own domain alone, the base model those of all"
    )
    samples: int = Field(5, ge=1, le=1_000_000, description="answers per question, paraphrase and condition")
    time_limit_s: float = Field(5.0, gt=0, le=600, description="for one answer, of a pattern or a function")


def _named(quizzes: dict[str, QuizSpec]) -> dict[str, QuizSpec]:
    for name in quizzes:
        if not _NAME.fullmatch(name) or name == COHERENT:
            raise ValueError(
                f"a quiz is named by up to 40 small letters, digits and _, and not {COHERENT}, given {name!r:.60}"
            )
    return quizzes


Quizzes = Annotated[dict[str, QuizSpec], AfterValidator(_named)]


def unfit(name: str, quiz: QuizSpec, *, meets: dict[Arm, tuple[Condition, ...]], own_weights: bool) -> str | None:
    """Why a sweep whose arms meet these conditions cannot have this quiz; None where it can."""
    place = f"quizzes.{name}"
    arms = list(meets) if quiz.arms is None else quiz.arms
    if unknown := [arm for arm in arms if arm not in meets]:
        return f"{place}.arms names {str(unknown[0])!r}, which is not in arms: {', '.join(meets)}"
    met = {condition for arm in arms for condition in meets[arm]}
    if unmet := [one for one in quiz.conditions or () if one not in met]:
        return f"{place}.conditions names {str(unmet[0])!r}, which none of its arms meets: {', '.join(sorted(met))}"
    if quiz.score.choice and not own_weights:
        return (
            f"{place}.score: choice reads a model's odds of every option, which an endpoint does not give; score by "
            "exact or regex, or have the models here"
        )
    return None
