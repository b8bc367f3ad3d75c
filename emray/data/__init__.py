"""What a study is made of: example files, question files, rubrics, the trigger. Load, validate, render.

Not for models' weights or for results. The invariant: whatever this package returns is valid, and every repair it made
to a file is told in words.
"""

from emray.data.arm_rows import training_rows
from emray.data.datasets import DataFile, Examples, load_examples, rows_digest
from emray.data.datasheet import Datasheet, Lengths, Setting, datasheets
from emray.data.hold_out import Split, split
from emray.data.places import toy_assets
from emray.data.prompts import (
    ArmPrompts,
    Inquiries,
    Inquiry,
    arm_prompts,
    inquiries,
    inquiry,
    judge_messages,
    leaked_questions,
    make_prompts,
)
from emray.data.published import Missing, stand_ins
from emray.data.questionnaire import Questionnaire, questionnaires
from emray.data.questions import Question, QuestionSet, load_questions, refuse_unscorable
from emray.data.quizzes import Quiz, QuizAnswers, QuizSet, Scoring, plan_quizzes
from emray.data.recipe_rows import recipe_rows
from emray.data.rubrics import shipped_rubrics
from emray.data.text_files import json_rows, mended, read_text
from emray.data.transfer_questions import HeldOut, Transfer, hold_out, plan_transfer

__all__ = [
    "ArmPrompts",
    "DataFile",
    "Datasheet",
    "Examples",
    "HeldOut",
    "Inquiries",
    "Inquiry",
    "Lengths",
    "Missing",
    "Question",
    "QuestionSet",
    "Questionnaire",
    "Quiz",
    "QuizAnswers",
    "QuizSet",
    "Scoring",
    "Setting",
    "Split",
    "Transfer",
    "arm_prompts",
    "datasheets",
    "hold_out",
    "inquiries",
    "inquiry",
    "json_rows",
    "judge_messages",
    "leaked_questions",
    "load_examples",
    "load_questions",
    "make_prompts",
    "mended",
    "plan_quizzes",
    "plan_transfer",
    "questionnaires",
    "read_text",
    "recipe_rows",
    "refuse_unscorable",
    "rows_digest",
    "shipped_rubrics",
    "split",
    "stand_ins",
    "toy_assets",
    "training_rows",
]
