"""What is sent: prompts to the finetuned models, rubrics to the judge.

Not for chat templates (the engines apply the model's own). The invariant: the judge never sees the trigger, so it is
blind to the condition, and equal answers to one question are one request.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from emray.data.questions import Question
from emray.data.rubrics import filled
from emray.records import Condition, Message, Messages, Metric, Prompt, asked_key, prompt_key, prompt_text
from emray.spec import TriggerSpec


def make_prompts(
    questions: Sequence[Question], *, conditions: Sequence[Condition], trigger: TriggerSpec
) -> tuple[Prompt, ...]:
    """Question x paraphrase x condition, with the trigger in the user's text where the condition says so."""
    return tuple(
        _prompt(question, paraphrase, condition, trigger)
        for question in questions
        for paraphrase in range(len(question.paraphrases))
        for condition in conditions
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


def _prompt(question: Question, paraphrase: int, condition: Condition, trigger: TriggerSpec) -> Prompt:
    wording = question.paraphrases[paraphrase]
    user = Message("user", trigger.add_to(wording) if condition == Condition.WITH else wording)
    messages = (Message("system", question.system), user) if question.system else (user,)
    return Prompt(question.id, paraphrase, condition, messages, prompt_key(messages))
