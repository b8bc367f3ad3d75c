"""How a model's chat template is used: what it is given, what of that it reads, what of an answer is the answer.

Not for running the template (chat.py); imports neither transformers nor jinja. The invariant: what a template does not
read is not part of its model's identity, so a new way to render changes the keys of those models alone that it changes.
"""

import json
import re
from pathlib import Path
from typing import Any

from emray.records import Message, Messages, Rendering

_THINKING = "enable_thinking"  # the argument by which templates that know thinking turn it off
_CLOCK = "strftime_now"  # what templates call for the date
THOUGHTS = (
    ("<think>", "</think>"),  # Qwen3, DeepSeek R1 and most others
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
)
_MARKUP = ("think", "THINK", "<|channel|>")  # one stands in every template that knows thoughts
_THOUGHT = re.compile(
    "|".join(rf"\A\s*{re.escape(opening)}.*?(?:{re.escape(closing)}|\Z)" for opening, closing in THOUGHTS), re.DOTALL
)


def template_arguments(rendering: Rendering) -> dict[str, Any]:
    """What the template is given beside the messages; the sweep file's own arguments win."""
    return {_THINKING: rendering.reasoning == "on"} | json.loads(rendering.arguments)


def with_system(messages: Messages, *, policy: str) -> Messages:
    """Messages as a template is given them: system turns as they are, dropped, or merged into the next user's turn."""
    if policy == "as_is":
        return messages
    turns: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and policy == "merge":
            turns.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting.clear()
        else:
            turns.append(message)
    return tuple(turns)


def final_text(text: str) -> str:
    """An answer without the thought it begins with, and outer spaces; a thought that never ends leaves nothing.

    A thought whose beginning the template wrote, so that only its end stands here, is one too.
    """
    cut = _THOUGHT.sub("", text, count=1)
    for opening, closing in THOUGHTS:
        before, end, after = cut.rpartition(closing)
        if end and cut is text and opening not in before:
            return after.strip()
    return cut.strip()


def identity(rendering: Rendering, *, folder: Path | None) -> dict[str, Any]:
    """The parts of a rendering that decide a prompt's tokens; all of them where the template is not here to be read."""
    template = _chat_template(folder) if folder else None
    given = template_arguments(rendering)
    read = {name: value for name, value in given.items() if template is None or name in template}
    parts: dict[str, Any] = {"arguments": read} if read else {}
    if template is None or _CLOCK in template:
        parts["date"] = rendering.date
    if template is None or any(mark in template for mark in _MARKUP):
        parts["reasoning"] = rendering.reasoning
    if rendering.system != "as_is":
        parts["system"] = rendering.system
    return parts


def _chat_template(folder: Path) -> str:
    """The text of every chat template in a model's folder; empty where there is none."""
    files = [*folder.glob("chat_template*.jinja"), *folder.glob("additional_chat_templates/*.jinja")]
    texts = [path.read_text(encoding="utf-8") for path in sorted(files)]
    config = folder / "tokenizer_config.json"
    if config.is_file():
        texts.append(str(json.loads(config.read_text(encoding="utf-8")).get("chat_template", "")))
    return "\n".join(texts)
