"""The residual stream of a loaded model: where it is read, and where it is pushed.

Not for what is read for (probes/) or for choosing pushes. torch is imported when a hook runs, never with this module.
The invariant: hooks sit on the decoder layers themselves, which peft leaves in place when it adds an adapter, so one
registration serves the base and every adapter on it, and nothing is merged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.records import Steer


class Push(NamedTuple):
    """What is done to the residual stream of one row after one layer, at every token of prompt and answer."""

    layer: int
    how: Steer
    scale: float  # of an added direction; what is projected out has none
    vector: bytes  # the direction, [H] float32 in this machine's byte order


def decoder_layers(model: Any) -> list[Any]:
    """The decoder's layers in order. Raises DataError for a model whose layers are not one list."""
    text = model.config.get_text_config()
    lists = (module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in _NAMES)
    found = next((module for module in lists if len(module) == text.num_hidden_layers), None)
    if found is None:
        raise DataError(f"no list of {text.num_hidden_layers} decoder layers in this {text.model_type} model")
    return list(found)


_NAMES = ("layers", "h", "blocks")  # what model families call the list


@contextmanager
def reading(model: Any, take: Callable[[int, Any], None]) -> Iterator[None]:
    """While it is open, `take(layer, states)` gets the output [B, T, H] of every layer of every forward pass."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda module, arguments, output: take(layer, _states(output))

    handles = [module.register_forward_hook(hook(layer)) for layer, module in enumerate(decoder_layers(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def pushing(model: Any, pushes: Sequence[Push | None]) -> Iterator[None]:
    """While it is open, row b of every forward pass has its residual stream pushed as `pushes[b]` says.

    Rows may differ in layer, direction and scale. Raises DataError for a layer the model does not have, or a direction
    of another width.
    """
    layers = decoder_layers(model)
    handles = []
    for layer in sorted({push.layer for push in pushes if push}):
        if layer >= len(layers):
            raise DataError(f"steering at layer {layer}, but this model has layers 0 to {len(layers) - 1}")
        handles.append(layers[layer].register_forward_hook(_shift_at(layer, pushes, model)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Shift(NamedTuple):
    """What a layer does to its rows: `added` [B, 1, H], and the unit vectors [B, 1, H] that are projected out.

    A row that is not meant has zeros in both, and comes out with the bits that went in.
    """

    added: Any
    removed: Any

    def __call__(self, module: Any, arguments: Any, output: Any) -> Any:
        states = _states(output)
        wide = states.float()
        if self.removed.any():
            wide = wide - (wide * self.removed).sum(-1, keepdim=True) * self.removed
        pushed = (wide + self.added).to(states.dtype)
        return (pushed, *output[1:]) if isinstance(output, tuple) else pushed


def _shift_at(layer: int, pushes: Sequence[Push | None], model: Any) -> _Shift:
    import torch

    width = model.config.get_text_config().hidden_size
    added = torch.zeros(len(pushes), 1, width)
    removed = torch.zeros(len(pushes), 1, width)
    for row, push in enumerate(pushes):
        if push is None or push.layer != layer:
            continue
        vector = torch.frombuffer(bytearray(push.vector), dtype=torch.float32)
        if len(vector) != width:
            raise DataError(f"a direction of width {len(vector)}, but this model has width {width}")
        if push.how == Steer.ADD:
            added[row] = push.scale * vector
        else:
            removed[row] = vector / vector.norm().clamp_min(1e-30)
    return _Shift(added.to(model.device), removed.to(model.device))


def _states(output: Any) -> Any:
    """A layer's output is its states, or a tuple that begins with them."""
    return output[0] if isinstance(output, tuple) else output
