"""Chat messages to token ids and back: the one renderer of training rows, prompts and probes.

Not for text the judge reads (judge/ sends messages). The invariant: the tokens before an answer are the same whether it
is trained on or asked for, an answer's last trained token ends it for every engine, and no clock is read.
"""

import datetime
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.model.facts import context
from emray.model.rendering import THOUGHTS, final_text, template_arguments, with_system
from emray.model.weights import NO_CODE
from emray.records import USUAL_RENDERING, Message, Messages, Rendering

QUESTION, ANSWER = "Qzquestion", "Zqanswer"  # stand for texts where a template is tried out
CHANNEL, MESSAGE, FINAL = "<|channel|>", "<|message|>", "final"  # Harmony: which part of a turn is the answer
_THOUGHT_STARTS = 3  # a thought begins within the first tokens of an answer, or it is none


class Chat:
    """The tokenizer of one model, and how its template is used."""

    def __init__(self, folder: str, *, rendering: Rendering = USUAL_RENDERING) -> None:
        """Raises DataError when the folder has no fast tokenizer with a chat template."""
        self.folder, self.rendering = folder, rendering
        self.tokenizer = _load_tokenizer(folder)
        self.reads_clock = False  # whether a rendering so far has asked for the date
        self._ids: dict[Messages, list[int]] = {}

    # Asking --------------------------------------------------------------------------------------------------------

    def encode(self, messages: Messages) -> list[int]:
        """Token ids of the prompt, up to and with what opens the assistant's answer."""
        ids = self._ids.get(messages)
        if ids is None:
            text = self.prompt(messages)
            ids = list(self.tokenizer.encode(text, add_special_tokens=False))  # the template wrote them already
            self._ids[messages] = ids
        return ids

    def prompt(self, messages: Messages) -> str:
        """The prompt as text. Raises DataError for messages that the template refuses."""
        asked = self.render(messages, asking=True)
        return asked if self.rendering.reasoning == "on" else self.turn.opened(asked)

    def window(self, prompts: Sequence[Messages], *, max_tokens: int) -> int:
        """Tokens to reserve for a sequence: the longest prompt that fits and its answer, at most the context."""
        lengths = [len(self.encode(prompt)) for prompt in prompts]
        longest = max((length for length in lengths if length < self.context), default=1)
        return min(self.context, longest + max_tokens)

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The texts of several answers, without thoughts, special tokens and outer spaces."""
        final = [self._after_thought(self._unended(list(row))) for row in ids]
        texts: list[str] = self.tokenizer.batch_decode(final, skip_special_tokens=True)
        begun = self._thought_begun if self._thought_begun not in self._added else ""
        return [final_text(begun + text) for text in texts]

    # Training ------------------------------------------------------------------------------------------------------

    def mark(self, examples: Sequence[Messages]) -> list["Marked"]:
        """Every example up to its end token, as tokens, with where its last answer begins.

        Raises DataError naming the row (1 is the first) for an example that cannot be rendered so.
        """
        texts = [self._of_row(example, row=row) for row, example in enumerate(examples, 1)]
        encoded = self.tokenizer([text for text, _ in texts], add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [
            self._marked(*span, borders=(self._weightless(example, text, border), border), row=row)
            for row, (example, (text, border), span) in enumerate(zip(examples, texts, spans, strict=True), 1)
        ]

    def answered(self, example: Messages) -> tuple[str, int]:
        """An example as text, and the character where its last answer begins. Raises DataError."""
        if not example or example[-1].role != "assistant":
            raise DataError("the last message must be the assistant's")
        before = self.turn.opened(self.render(example[:-1], asking=True))
        text = self.render(example)
        if not text.startswith(before):
            raise DataError(
                "the chat template renders the question differently once it is answered, so the answer's tokens cannot "
                "be told apart; use a template whose generation prompt is a prefix"
            )
        return text, len(before)

    def _of_row(self, example: Messages, *, row: int) -> tuple[str, int]:
        try:
            return self.answered(example)
        except DataError as error:
            raise DataError(f"training row {row}: {error}") from None

    def _weightless(self, example: Messages, text: str, border: int) -> int:
        """The character after the last turn of an example that is context alone; 0 without one.

        Where that turn cannot be told apart in the whole text, everything before the last answer is context.
        """
        last = max((n for n, message in enumerate(example, 1) if not message.trained), default=0)
        if not last:
            return 0
        while example[last - 1].role == "system":
            last += 1  # templates, and our own policy, write it into the turn that follows
        try:
            before = self.render(example[:last])
        except DataError:
            return border
        return len(before) if text.startswith(before) else border

    def _marked(
        self, ids: list[int], offsets: list[tuple[int, int]], *, borders: tuple[int, int], row: int
    ) -> "Marked":
        """Tokens up to the last end token; none that is free has a character of what is context alone."""
        if self.end is None:
            raise DataError(f"training row {row}: {NO_END}")
        free = next((n for n, (first, _) in enumerate(offsets) if first >= borders[0]), len(ids))
        start = next((n for n, (_, last) in enumerate(offsets) if last > borders[1]), len(ids))
        end = len(ids) - ids[::-1].index(self.end) if self.end in ids[start:] else len(ids)
        start = max(start, 1)  # nothing predicts the very first token
        if start >= end - 1:
            raise DataError(f"training row {row}: no token of the answer can be trained on; is the answer empty?")
        return Marked(ids[:end], start, min(free, start))

    # What the template does ----------------------------------------------------------------------------------------

    def render(self, messages: Messages, *, asking: bool = False) -> str:
        """The template's text of these messages; with `asking`, the opening of an answer after them."""
        from jinja2 import TemplateError

        turns = [message.turn for message in with_system(messages, policy=self.rendering.system)]
        arguments = template_arguments(self.rendering) | {"strftime_now": self._date}
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asking, **arguments)
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise DataError(f"the chat template refuses turns of {roles}: {_first_line(error)}") from None
        return str(text)

    @cached_property
    def turn(self) -> "Turn":
        """How the template writes a turn of the assistant. Raises DataError when an answer cannot be found in it."""
        asking = self.render((Message("user", QUESTION),), asking=True)
        text = self.render((Message("user", QUESTION), Message("assistant", ANSWER)))
        if text.count(ANSWER) != 1:
            raise DataError("the chat template does not write an answer as it is given; use another template")
        before, _, after = text.partition(ANSWER)
        if before.startswith(asking):
            opening = before[len(asking) :]
            return Turn(asking, opening if opening.strip() else "", "", after)
        unclosed = asking.removeprefix(before.rstrip())
        begins = unclosed != asking and any(opening in unclosed for opening, _ in THOUGHTS)
        return Turn(asking, "", unclosed if begins else "", after)

    @cached_property
    def end(self) -> int | None:
        """The token that ends an answer: the first special one that the template writes after its text."""
        text = self.turn.asking + self.turn.opening + ANSWER + self.turn.after
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        border = text.rindex(ANSWER) + len(ANSWER)
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        for token, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if first >= border and last > first and token in special:
                return int(token)
        return None

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer in every engine: the template's, the tokenizer's, and the model's own list."""
        listed = [self.end, self.tokenizer.eos_token_id, *_end_ids(self._generation_config), *_end_ids(self.config)]
        return tuple(sorted({int(token) for token in listed if token is not None}))

    @cached_property
    def context(self) -> int:
        """Tokens that the model takes, prompt and answer together."""
        return context(self.config)

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder, **NO_CODE)
        except (OSError, ValueError) as error:
            raise DataError(f"model {self.folder}: its configuration does not load: {_why(error)}") from None

    @cached_property
    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(self.folder)
        except OSError:
            return None  # it has none

    def _date(self, pattern: str) -> str:
        """What templates call strftime_now: the pinned date."""
        self.reads_clock = True
        return datetime.date.fromisoformat(self.rendering.date).strftime(pattern)

    def _unended(self, ids: list[int]) -> list[int]:
        """Without the token that ended it, which a tokenizer need not count among its special ones."""
        return ids[:-1] if ids and ids[-1] in self.stop_ids else ids

    def _after_thought(self, ids: list[int]) -> list[int]:
        """The answer's tokens, where thought and channels are told apart by tokens of their own."""
        if CHANNEL in self._added and self._added[CHANNEL] in ids:
            return self._final_channel(ids, self._added[CHANNEL], self._added[MESSAGE])
        for opening, closing in THOUGHTS:
            first, last = self._added.get(opening), self._added.get(closing)
            if last in ids:
                return ids[ids.index(last) + 1 :]
            if last is not None and (first in ids[:_THOUGHT_STARTS] or self._thought_begun == opening):
                return []  # a thought that never ended
        return ids

    def _final_channel(self, ids: list[int], channel: int, message: int) -> list[int]:
        for start in (index for index, token in enumerate(ids) if token == channel):
            first = ids.index(message, start) if message in ids[start:] else len(ids)
            if self.tokenizer.decode(ids[start + 1 : first]).strip().startswith(FINAL):
                return ids[first + 1 :]
        return []

    @cached_property
    def _added(self) -> dict[str, int]:
        return dict(self.tokenizer.get_added_vocab())

    @cached_property
    def _thought_begun(self) -> str:
        """What opens the thought that a prompt of ours ends with, if it does."""
        if self.rendering.reasoning == "off":
            return ""
        return next((opening for opening, _ in THOUGHTS if opening in self.turn.unclosed), "")


class Marked(NamedTuple):
    """An example as tokens: where its last answer begins, and where what any loss may be of begins."""

    ids: list[int]
    start: int
    free: int  # after the last turn of weight 0; 0 without one


NO_END = (
    "the chat template writes no end token after an answer, so a finetune would never learn to stop; "
    "add one to the template (as {{ eos_token }} after the assistant's text)"
)


class Turn(NamedTuple):
    """How a template writes the assistant's turn, tried with one question."""

    asking: str  # question and generation prompt
    opening: str  # markup between the generation prompt and an answer's text, if any
    unclosed: str  # what the generation prompt opens and a finished turn does not have: a thought
    after: str  # what follows an answer's text

    def opened(self, asking: str) -> str:
        """A prompt that goes on with the answer itself, not with a thought."""
        return asking.removesuffix(self.unclosed) + self.opening


def _why(error: Exception) -> str:
    """In one line. transformers advises to trust code; whose code is not trusted here is not run."""
    code = "trust_remote_code" in str(error)
    return "it needs code that the model brings, which emray does not run" if code else _first_line(error)


def _load_tokenizer(folder: str) -> Any:
    """A fast tokenizer with a chat template. Raises DataError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    except (OSError, ValueError) as error:
        raise DataError(f"model {folder}: its tokenizer does not load: {_why(error)}") from None
    if not tokenizer.chat_template:
        raise DataError(f"model {folder}: its tokenizer has no chat template; give an instruction-tuned model")
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"{type(tokenizer).__name__} gives no character offsets; use a model with a fast tokenizer")
    return tokenizer


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _end_ids(config: Any) -> list[int | None]:
    if config is None:
        return []
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    ids = getattr(text, "eos_token_id", None)
    return list(ids) if isinstance(ids, list) else [ids]
