"""transformers + peft: the engine for machines without vLLM and for steered cells, and vLLM's yardstick.

Not for speed: batches wait for their longest answer. torch is imported when an engine starts, never with this module.
The invariant: a sample depends on its own prompt, adapter and seed, not on the rows it shares a batch with (up to
rounding in the padded forward pass): each row draws its noise from a generator of its own.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from emray.generate.engine import Adapter, EngineConfig, EngineDied, Finished, Sample, SampleRequest, failed, one_line
from emray.model.chat import Chat
from emray.model.loaded import LoadedModel
from emray.model.residual import Push, pushing
from emray.records import FinishReason

BATCH_ROWS = 64  # samples decoded together


class _Row(NamedTuple):
    """One sample to draw: a request's position, its prompt, a seed, and how it is steered."""

    position: int
    ids: list[int]
    seed: int
    push: Push | None


class TransformersEngine:
    """An Engine around `model.generate`."""

    name = "transformers"

    def __init__(self, config: EngineConfig) -> None:
        import transformers

        self.version: str = transformers.__version__
        self._config = config
        self._chat = Chat(config.model_path, rendering=config.rendering)
        device = "cuda" if config.gpu else "cpu"
        self._loaded = LoadedModel(config.model_path, config=self._chat.config, device=device)
        self._loaded.base.generation_config = transformers.GenerationConfig()  # it fills in what is unset in ours
        self._lock = threading.Lock()

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        """See Engine.generate; requests of one adapter should be neighbours."""
        with self._lock:
            for position, oversized in self._oversized(requests):
                yield failed(position, requests[position], FinishReason.OVERSIZED, **oversized)
            for adapter, positions in _runs(requests, self._fits):
                yield from self._generate_with(adapter, requests, positions)

    def _fits(self, request: SampleRequest) -> bool:
        return len(self._chat.encode(request.messages)) < self._chat.context

    def _oversized(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, request in enumerate(requests):
            if not self._fits(request):
                length = len(self._chat.encode(request.messages))
                error = f"the prompt has {length} tokens, the model's context {self._chat.context}"
                yield position, {"error": error, "prompt_tokens": length}

    def _generate_with(
        self, adapter: Adapter | None, requests: Sequence[SampleRequest], positions: Sequence[int]
    ) -> Iterator[Finished]:
        """The requests at `positions`, all of one adapter."""
        try:
            self._loaded.use(*(adapter or (None, None)))
        except Exception as error:  # noqa: BLE001  whatever a file makes it raise, only this adapter is lost
            message = f"peft cannot load the adapter: {one_line(error)}"
            for position in positions:
                request = requests[position]
                length = len(self._chat.encode(request.messages))
                yield failed(position, request, FinishReason.ERROR, error=message, prompt_tokens=length)
            return
        for chunk in _chunks(requests, positions):
            yield from self._generate_chunk(requests, chunk)

    def _generate_chunk(self, requests: Sequence[SampleRequest], positions: Sequence[int]) -> Iterator[Finished]:
        greedy = self._config.temperature == 0
        rows = [
            _Row(position, self._chat.encode(requests[position].messages), seed, requests[position].push)
            for position in positions
            for seed in (requests[position].seeds[:1] if greedy else requests[position].seeds)
        ]
        answers = self._sample(rows)
        samples: dict[int, list[Sample]] = {position: [] for position in positions}
        texts = self._chat.decode([ids for ids, _ in answers])
        for row, (ids, reason), text in zip(rows, answers, texts, strict=True):
            samples[row.position].append(Sample(text, reason, len(ids)))
        for position, mine in samples.items():
            num_seeds = len(requests[position].seeds)
            all_samples = tuple(mine * num_seeds if greedy else mine)
            yield Finished(position, all_samples, len(self._chat.encode(requests[position].messages)))

    def _sample(self, rows: Sequence[_Row]) -> list[tuple[list[int], FinishReason]]:
        """New token ids of each row and how it ended. Raises EngineDied."""
        import torch
        from transformers import LogitsProcessorList

        longest = max(len(row.ids) for row in rows)
        limits = [min(self._config.max_tokens, self._chat.context - len(row.ids)) for row in rows]
        inputs = _left_padded(rows, longest, pad=self._pad_id(), device=self._loaded.device)
        processors = LogitsProcessorList([self._sampler(rows)] if self._config.temperature > 0 else [])
        try:
            with torch.inference_mode(), pushing(self._loaded.base, [row.push for row in rows]):
                output = self._loaded.model.generate(
                    **inputs, logits_processor=processors, generation_config=self._generation_config(max(limits))
                )
        except RuntimeError as error:
            raise EngineDied(f"transformers: {one_line(error)}") from error
        return [self._ended(ids[:limit]) for ids, limit in zip(output[:, longest:].tolist(), limits, strict=True)]

    def _sampler(self, rows: Sequence[_Row]) -> Any:
        return _SeededSampler(
            [row.seed for row in rows],
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            device=self._loaded.device,
        )

    def _generation_config(self, new_tokens: int) -> Any:
        """Our settings alone; the model's own top_k, penalties and lengths were dropped when it was loaded."""
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,  # the sampler leaves one finite logit; choosing it is greedy
            eos_token_id=list(self._chat.stop_ids) or None,
            pad_token_id=self._pad_id(),
        )

    def _pad_id(self) -> int:
        pad = self._chat.tokenizer.pad_token_id
        return pad if pad is not None else min(self._chat.stop_ids, default=0)

    def _ended(self, ids: list[int]) -> tuple[list[int], FinishReason]:
        """Cut a padded row after its first stop token."""
        stops = self._chat.stop_ids
        for length, token in enumerate(ids, start=1):
            if token in stops:
                return ids[:length], FinishReason.STOP
        return ids, FinishReason.LENGTH


class _SeededSampler:
    """A logits processor that draws each row's token with the row's own generator.

    argmax(p / E) with E exponential noise is a draw from p (the exponential race). vLLM draws so too, but from other
    noise: the two engines agree in distribution, and token for token only at temperature 0.
    """

    def __init__(self, seeds: Sequence[int], *, temperature: float, top_p: float, device: Any) -> None:
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        self._warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [rows, vocabulary] in; out, 0 at each row's drawn token and -inf elsewhere."""
        import torch

        for warper in self._warpers:
            scores = warper(input_ids, scores)
        probabilities = torch.softmax(scores.float(), dim=-1)
        noise = torch.empty_like(probabilities)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        drawn = (probabilities / noise).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, float("-inf")).scatter_(-1, drawn, 0.0)


def _runs(requests: Sequence[SampleRequest], fits: Any) -> Iterator[tuple[Adapter | None, list[int]]]:
    """Neighbouring requests of one adapter, those that fit alone."""
    positions: list[int] = []
    for position, request in enumerate(requests):
        if not fits(request):
            continue
        if positions and requests[positions[0]].adapter != request.adapter:
            yield requests[positions[0]].adapter, positions
            positions = []
        positions.append(position)
    if positions:
        yield requests[positions[0]].adapter, positions


def _chunks(requests: Sequence[SampleRequest], positions: Sequence[int]) -> Iterator[list[int]]:
    """Positions whose samples fill about BATCH_ROWS rows."""
    chunk: list[int] = []
    num_rows = 0
    for position in positions:
        more = len(requests[position].seeds)
        if chunk and num_rows + more > BATCH_ROWS:
            yield chunk
            chunk, num_rows = [], 0
        chunk.append(position)
        num_rows += more
    if chunk:
        yield chunk


def _left_padded(rows: Sequence[_Row], longest: int, *, pad: int, device: Any) -> dict[str, Any]:
    """input_ids and attention_mask [rows, longest]; generation goes on at the right edge."""
    import torch

    ids = [[pad] * (longest - len(row.ids)) + row.ids for row in rows]
    mask = [[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
