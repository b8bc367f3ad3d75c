"""What may stand in the files that people write: JSON Schema for editors, a template with every field, a page.

Not for checking a sweep file (spec/ does, and knows more: what fits together). The invariant: everything here is made
from the models that read the files, so a new field is in all three at once.
"""

from emray.schema.json_schema import question_schema, sweep_schema
from emray.schema.page import sweep_page
from emray.schema.questions_page import questions_page
from emray.schema.template import template

__all__ = ["question_schema", "questions_page", "sweep_page", "sweep_schema", "template"]
