"""The command: python -m emray.schema [--questions] [--template | --page]."""

import argparse
import json
from collections.abc import Sequence

from emray.ending import finish
from emray.schema import question_schema, questions_page, sweep_page, sweep_schema, template

_WORDS = """What may stand in a sweep file, made from the models that read it. Without an option: its JSON Schema, for
editors that complete and check YAML."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print one of them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m emray.schema", description=_WORDS)
    parser.add_argument("--questions", action="store_true", help="of question files instead")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--template", action="store_true", help="a sweep file with every field, each with its meaning")
    one.add_argument("--page", action="store_true", help="the reference page in Markdown, as in docs/")
    arguments = parser.parse_args(argv)
    if arguments.template and arguments.questions:
        parser.error("--template is a sweep file's; --questions --page has examples of question files")
    if arguments.template:
        print(template(), end="")
    elif arguments.page:
        print(questions_page() if arguments.questions else sweep_page(), end="")
    else:
        print(json.dumps(question_schema() if arguments.questions else sweep_schema(), indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    finish(main)
