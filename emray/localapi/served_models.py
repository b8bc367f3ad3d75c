"""Who answers for a model's name: the server's responder, a base model that can be finetuned, or what a job made of it.

Not for jobs (finetuning_desk.py). The invariant: a tuned model answers its own account alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from emray.localapi.completions import Answerer, BadRequest, ChatCall, check_chat_body, understand
from emray.localapi.config import Responder, ServerConfig

Tell = Callable[[int, int, float], None]  # step, steps in all, loss; raises what ends the training


class TuningOrder(NamedTuple):
    """What a model is to be made of."""

    model: str
    examples: Sequence[Sequence[Mapping[str, Any]]]  # chats; answers of weight 0 are context
    epochs: int | None  # None: as the tuner likes
    batch_size: int | None
    rate: float  # of the tuner's own learning rate
    seed: int


class Tuner(Protocol):
    """Makes models of examples. Its methods are called in threads."""

    @property
    def bases(self) -> Mapping[str, Answerer]:
        """The models it can tune, and how they answer as they are."""
        ...

    def tune(self, order: TuningOrder, tell: Tell) -> Answerer:
        """Train; `tell` is told of every step."""
        ...


class ServedModels:
    """Every model of one server by name."""

    def __init__(self, config: ServerConfig, *, responder: Responder, tuner: Tuner | None) -> None:
        self._served, self._responder = config.models, responder
        self._bases = dict(tuner.bases) if tuner else {}
        self._tuned: dict[tuple[str, str], Answerer] = {}

    def serves(self, name: str, *, api_key: str) -> bool:
        """Whether the account may ask it."""
        try:
            self._answerer(name, api_key=api_key)
        except BadRequest:
            return False
        return True

    async def understand(self, body: Any, *, api_key: str) -> ChatCall:
        """A request and its reply; who computes it has a thread of its own for that. Raises BadRequest."""
        checked = check_chat_body(body)
        name = checked["model"]
        call = partial(understand, checked, api_key=api_key, answer=self._answerer(name, api_key=api_key))
        computed = (api_key, name) in self._tuned or name in self._bases
        return await asyncio.to_thread(call) if computed else call()

    def add(self, name: str, answerer: Answerer, *, api_key: str) -> None:
        self._tuned[(api_key, name)] = answerer

    def names(self, *, api_key: str) -> list[str]:
        """What the account may ask."""
        own = [name for key, name in self._tuned if key == api_key]
        return [*(self._served or (() if self._bases else ("local",))), *self._bases, *own]

    def _answerer(self, name: str, *, api_key: str) -> Answerer:
        """Raises BadRequest for a model that is not served."""
        own = self._tuned.get((api_key, name)) or self._bases.get(name)
        if own:
            return own
        if (self._served and name not in self._served) or name.startswith("ft:"):
            raise BadRequest(f"The model `{name}` does not exist.", status=404, code="model_not_found")
        return lambda body: self._responder(body["messages"])
