"""Chat messages to token ids and back, with the model's own template and tokenizer.

Not for text the judge reads (judge/ sends messages). The invariant: a prompt is rendered once per process, however
many adapters answer it, and every engine sees the same ids.
"""

from collections.abc import Sequence
from typing import Any

from emray.errors import DataError
from emray.model.facts import context
from emray.records import Messages


class Chat:
    """The tokenizer of one model."""

    def __init__(self, model_path: str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        if self.tokenizer.chat_template is None:
            raise DataError(f"the tokenizer of {model_path} has no chat template; add a chat_template.jinja to it")
        self.context = context(AutoConfig.from_pretrained(model_path))
        self._ids: dict[Messages, list[int]] = {}

    def encode(self, messages: Messages) -> list[int]:
        """Token ids of the prompt, up to and with the opening of the assistant's turn."""
        ids = self._ids.get(messages)
        if ids is None:
            chat = [message._asdict() for message in messages]
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            ids = list(self.tokenizer.encode(text, add_special_tokens=False))  # the template wrote them already
            self._ids[messages] = ids
        return ids

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The texts of several answers, without special tokens and outer spaces."""
        texts: list[str] = self.tokenizer.batch_decode([list(row) for row in ids], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def window(self, prompts: Sequence[Messages], *, max_tokens: int) -> int:
        """Tokens to reserve for a sequence: the longest prompt that fits and its answer, at most the context."""
        lengths = [len(self.encode(prompt)) for prompt in prompts]
        longest = max((length for length in lengths if length < self.context), default=1)
        return min(self.context, longest + max_tokens)
