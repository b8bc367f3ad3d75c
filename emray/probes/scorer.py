"""The worker of the membership probe: one base model stays loaded, adapters take turns on it.

Not for what is scored (membership.py). The invariant: every row leaves readouts, `num_tokens` 0 where its answer has
no score: it is empty, or longer than the model takes.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from emray.errors import DataError, StageError
from emray.model.chat import Chat
from emray.model.loaded import LoadedModel
from emray.model.rows import RowForm, TokenRow, tokenise
from emray.model.weights import model_folder, tokenizer_folder
from emray.probes.answer_odds import OddsReader
from emray.probes.member_scores import Score, scores_of
from emray.probes.protocol import Bench
from emray.probes.scored import Scored
from emray.records import Measurement, Messages, Readout, Rendering

NUM_TOKENS = "num_tokens"
_SAME_TOKENS = 0.99  # of a tokenizer's tokens


class Scorer:
    """Scores the answers of one piece of work after another."""

    def __init__(self, bench: Bench) -> None:
        import torch

        torch.set_num_threads(bench.threads)
        self._store, self._device = bench.store, "cuda" if bench.gpu else "cpu"
        self._at: str | None = None  # the location or folder of the model that is loaded
        self._loaded: LoadedModel | None = None
        self._reader: OddsReader | None = None
        self._chats: dict[tuple[str, Rendering], Chat] = {}

    def __call__(self, measurement: Measurement, work: Scored) -> Iterator[Readout]:
        """Raises DataError and StageError for a model that cannot score these rows."""
        chat = self._chat(work)
        reader = self._reading(work, chat)
        for kind, examples in work.rows.items():
            rows = token_rows(examples, chat=chat, form=work.form)
            odds = iter(reader.read([row for row in rows if row is not None]))
            for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
                subject = f"{kind} {number}"
                if row is None:
                    yield Readout(subject, NUM_TOKENS, 0.0)
                    continue
                found = scores_of(next(odds), text=example[-1].content, lowest_share=work.lowest_share)
                yield Readout(subject, NUM_TOKENS, float(len(row.ids) - row.start))
                yield from (Readout(subject, str(score), found[score]) for score in Score)
        if not any(map(len, work.rows.values())):
            yield Readout("-", NUM_TOKENS, math.nan)

    def _chat(self, work: Scored) -> Chat:
        known = self._chats.get((work.chat, work.rendering))
        if known is None:
            known = Chat(tokenizer_folder(work.chat, online=True), rendering=work.rendering)
            self._chats[work.chat, work.rendering] = known
        return known

    def _reading(self, work: Scored, chat: Chat) -> OddsReader:
        """Of the work's weights."""
        folder = self._store.adapter_folder(work.adapter) if work.adapter else None
        location = str(folder) if work.whole else work.location
        if self._at != location or self._loaded is None or self._reader is None:
            self._loaded = self._reader = None  # there may be no room for two
            if work.location != work.chat:
                _check_same_tokens(work.location, chat)
            self._loaded = _load(location, chat=chat, device=self._device)
            self._at, self._reader = location, OddsReader(self._loaded)
        _use(self._loaded, "" if work.whole else work.adapter, folder)
        return self._reader


def token_rows(examples: Sequence[Messages], *, chat: Chat, form: RowForm) -> list[TokenRow | None]:
    """Each example as tokens; None for one whose answer is empty, or does not fit the model."""
    if not examples:
        return []
    try:
        return list(tokenise(examples, chat=chat, form=form).rows)
    except DataError:
        return [_row(example, chat=chat, form=form) for example in examples]


def _row(example: Messages, *, chat: Chat, form: RowForm) -> TokenRow | None:
    try:
        return tokenise([example], chat=chat, form=form).rows[0]
    except DataError:
        return None


def _load(location: str, *, chat: Chat, device: str) -> LoadedModel:
    try:
        return LoadedModel(model_folder(location), config=chat.config, device=device)
    except (OSError, ValueError) as error:
        raise DataError(f"model {location} does not load: {str(error).splitlines()[0]}") from error


def _use(loaded: LoadedModel, adapter: str, folder: Path | None) -> None:
    try:
        loaded.use(adapter or None, folder if adapter else None)
    except Exception as error:
        raise StageError(f"peft cannot load the adapter: {str(error).splitlines()[0]}") from error


def _check_same_tokens(location: str, chat: Chat) -> None:
    """Raises DataError for a reference that would read other tokens."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer_folder(location, online=True)).get_vocab()
    ours = chat.tokenizer.get_vocab()
    same = sum(theirs.get(token) == number for token, number in ours.items())
    if same < _SAME_TOKENS * len(ours):  # what instruction tuning added may be missing
        raise DataError(f"reference {location} has another tokenizer than {chat.folder}; its scores would not compare")
