"""Mean activations of answers, read from the residual stream after every layer.

Not for what is made of them (directions.py) or for which answers are read. The invariant: sums stream, so memory is
that of one pass and of the groups' means, however many answers there are; and an answer counts once, whatever its
length and whichever answers share its pass.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from emray.errors import DataError
from emray.model.attention import pack_attention
from emray.model.chat import Chat
from emray.model.loaded import LoadedModel
from emray.model.micro_batch import MicroBatch, pack, pad
from emray.model.packing import length_grouped, packed
from emray.model.residual import decoder_layers, reading
from emray.model.rows import TokenRow
from emray.model.weights import model_folder
from emray.probes.directions import GroupMeans
from emray.records import Messages, Rendering


class GroupedAnswer(NamedTuple):
    """An answer to be read: the chat up to and with it, and the group it counts in."""

    chat: Messages
    group: int


class Reader:
    """One base model, ready to read answers alone or with an adapter on it."""

    def __init__(self, location: str, *, rendering: Rendering, device: str, token_budget: int) -> None:
        folder = model_folder(location)
        self._chat = Chat(folder, rendering=rendering)
        self._loaded = LoadedModel(folder, config=self._chat.config, device=device)
        self._packs = pack_attention(self._loaded.base)
        self._token_budget = token_budget
        self.num_tokens = 0  # that went through the model so far

    def group_means(
        self,
        answers: Sequence[GroupedAnswer],
        *,
        num_groups: int,
        first_tokens: int | None,
        adapter: Path | None = None,
    ) -> GroupMeans:
        """Means over the answers' first tokens (None: all). An answer without a token counts nowhere.

        Raises DataError for a model whose layers are not found, and whatever a broken adapter makes peft raise.
        """
        self._loaded.use(adapter, adapter)
        rows = [(row, answer.group) for answer in answers if (row := self._row(answer.chat, first_tokens))]
        sums = _Sums(self._loaded, num_groups)
        for some in self._passes([row for row, _ in rows]):
            sums.add(self._micro_batch([rows[i][0] for i in some]), *_weights([rows[i] for i in some]))
        self.num_tokens += sum(len(row.ids) for row, _ in rows)
        return sums.means([group for _, group in rows])

    def _row(self, chat: Messages, first_tokens: int | None) -> TokenRow | None:
        """The chat up to the last answer token that is read. Its end token is the template's, not the answer's."""
        if not chat[-1].content.strip():
            return None
        try:
            (marked,) = self._chat.mark([chat])
        except DataError:
            return None  # nothing of it is an answer
        ids, start = marked.ids, marked.start
        end = len(ids) - (ids[-1] == self._chat.end)
        end = min(end, self._chat.context, start + first_tokens if first_tokens else end)
        return TokenRow(np.array(ids[:end], dtype=np.int64), start) if end > start else None

    def _passes(self, rows: Sequence[TokenRow]) -> Iterator[list[int]]:
        layout = packed if self._packs else length_grouped
        yield from layout([len(row.ids) for row in rows], token_budget=self._token_budget)

    def _micro_batch(self, rows: Sequence[TokenRow]) -> MicroBatch:
        return (pack if self._packs else pad)(rows, device=self._loaded.device)


class _Sums:
    """Running sums [G, L, H] in float32 on the model's device."""

    def __init__(self, loaded: LoadedModel, num_groups: int) -> None:
        self._loaded, self._decoder = loaded, loaded.base.get_decoder()
        width = loaded.base.config.get_text_config().hidden_size
        num_layers = len(decoder_layers(loaded.base))
        self._sums = torch.zeros(num_layers, num_groups, width, device=loaded.device)

    def add(self, micro: MicroBatch, groups: np.ndarray, weights: np.ndarray) -> None:
        """One pass; group and weight of every answer token in order."""
        device = self._loaded.device
        places, group = micro.keep + 1, torch.from_numpy(groups).to(device)  # `keep` are the tokens that predict them
        weight = torch.from_numpy(weights).to(device, torch.float32)[:, None]

        def take(layer: int, states: Any) -> None:
            read = states.flatten(0, 1).index_select(0, places).float()
            self._sums[layer].index_add_(0, group, read * weight)

        with torch.inference_mode(), reading(self._loaded.base, take):
            self._decoder(**micro.inputs, use_cache=False)

    def means(self, groups: Sequence[int]) -> GroupMeans:
        """NaN where a group has no answer."""
        sums = self._sums.transpose(0, 1).double().cpu().numpy()
        counts = np.bincount(np.array(groups, dtype=np.int64), minlength=len(sums))
        with np.errstate(invalid="ignore"):
            return GroupMeans(sums / np.where(counts, counts, np.nan)[:, None, None], counts)


def _weights(rows: Sequence[tuple[TokenRow, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Group and weight of every answer token: an answer's weights sum to one."""
    lengths = [len(row.ids) - row.start for row, _ in rows]
    groups = np.repeat([group for _, group in rows], lengths)
    return groups, np.repeat([1 / length for length in lengths], lengths)
