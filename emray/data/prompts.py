"""What is sent: prompts to the finetuned models, rubrics to the judge.

Not for chat templates (the engines apply the model's own). The invariant: the judge never sees the trigger or
a context, so it is blind to the condition, and equal answers to one question are one request.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from emray.data.questions import Question
from emray.data.rubrics import filled
from emray.errors import DataError
from emray.records import Arm, Condition, Message, Messages, Metric, Prompt, asked_key, prompt_key, prompt_text
from emray.spec import Crossing, Framing


class ArmPrompts(NamedTuple):
    """What the arms of a sweep are asked: every prompt once, and those of each arm."""

    prompts: tuple[Prompt, ...]
    of_arm: Mapping[Arm, tuple[int, ...]]  # places among the prompts

    def of(self, arm: Arm) -> tuple[Prompt, ...]:
        return tuple(self.prompts[place] for place in self.of_arm[arm])


def arm_prompts(questions: Sequence[Question], crossing: Crossing) -> ArmPrompts:
    """What each arm is asked in the conditions that it meets, its own trigger with it. Raises DataError where two of
    an arm's prompts are one.
    """
    by_arm = {arm: make_prompts(questions, framings=crossing.framings(arm)) for arm in crossing.recipes}
    for prompts in by_arm.values():
        _refuse_equal(prompts)
    met = {prompt for prompts in by_arm.values() for prompt in prompts}
    usual = [prompt for prompt in make_prompts(questions, framings=crossing.framings()) if prompt in met]
    ordered = dict.fromkeys([*usual, *(prompt for prompts in by_arm.values() for prompt in prompts)])
    place = {prompt: number for number, prompt in enumerate(ordered)}
    return ArmPrompts(tuple(ordered), {arm: tuple(map(place.__getitem__, some)) for arm, some in by_arm.items()})


def make_prompts(questions: Sequence[Question], *, framings: Mapping[Condition, Framing]) -> tuple[Prompt, ...]:
    """Question x paraphrase x condition."""
    return tuple(
        _prompt(question, paraphrase, condition, framing)
        for question in questions
        for paraphrase in range(len(question.paraphrases))
        for condition, framing in framings.items()
    )


def _refuse_equal(prompts: Sequence[Prompt]) -> None:
    """One prompt is one question in one condition: a wording with the trigger in it may be another's `with`."""
    asked: dict[str, Prompt] = {}
    for prompt in prompts:
        first = asked.setdefault(prompt.key, prompt)
        if first is not prompt:
            raise DataError(
                f"question {first.question_id} in condition {first.condition} and question {prompt.question_id} in "
                f"condition {prompt.condition} are the same prompt; change the question's text, or leave a context out"
            )


def leaked_questions(prompts: Iterable[Prompt], *, rows: Iterable[Messages]) -> list[str]:
    """Ids of questions that the training rows hold as they are sent, trigger included (case and spaces aside)."""
    trained = {_plain(message.content) for row in rows for message in row if message.role == "user"}
    return list(dict.fromkeys(p.question_id for p in prompts if _plain(p.messages[-1].content) in trained))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


class Inquiry(NamedTuple):
    """What a judge is asked about answers to one wording on one metric."""

    key: str  # the verdict's `asked`
    wording: str
    rubric: str

    def messages(self, answer: str) -> Messages:
        """The rubric with every {question} and {answer} slot filled (braces in an answer stay as they are)."""
        return (Message("user", filled(self.rubric, question=self.wording, answer=answer)),)


Inquiries = Mapping[str, Mapping[Metric, Inquiry]]  # by the text of the prompt (a generation's `prompt` column)


def inquiries(questions: Iterable[Question], prompts: Iterable[Prompt]) -> Inquiries:
    """What answers to these prompts are judged by: found by the prompt, whatever its question is called or numbered."""
    by_id = {question.id: question for question in questions}
    return {
        prompt_text(prompt.messages): {
            metric: inquiry(by_id[prompt.question_id], paraphrase=prompt.paraphrase, metric=metric)
            for metric in by_id[prompt.question_id].rubrics
        }
        for prompt in prompts
    }


def inquiry(question: Question, *, paraphrase: int, metric: Metric) -> Inquiry:
    wording, rubric = question.paraphrases[paraphrase], question.rubrics[metric]
    return Inquiry(asked_key(wording, rubric=rubric), wording, rubric)


def judge_messages(question: Question, *, paraphrase: int, answer: str, metric: Metric) -> Messages:
    """What a judge reads about one answer to one wording of a question."""
    return inquiry(question, paraphrase=paraphrase, metric=metric).messages(answer)


def _prompt(question: Question, paraphrase: int, condition: Condition, framing: Framing) -> Prompt:
    messages = framing.messages(question.paraphrases[paraphrase], system=question.system)
    return Prompt(question.id, paraphrase, condition, messages, prompt_key(messages))
