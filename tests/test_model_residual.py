"""The residual stream is read where transformers says it is, and pushed in the rows that are meant and no others."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from emray.errors import DataError, StoreError
from emray.model.direction_files import Directions, read_directions, write_directions
from emray.model.residual import Push, decoder_layers, pushing, reading
from emray.records import Difference, Steer
from emray.store import Store
from tests.generate_world import MODEL

IDS = torch.arange(2, 14).reshape(3, 4)  # three rows of four tokens
WIDTH = 128


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL).eval()


def states(model, pushes=()) -> list[torch.Tensor]:
    """The output [3, 4, H] of each layer."""
    found: dict[int, torch.Tensor] = {}
    with torch.inference_mode(), pushing(model, pushes), reading(model, lambda layer, out: found.update({layer: out})):
        model(IDS)
    return [found[layer] for layer in sorted(found)]


def push(layer: int, vector: np.ndarray, *, how: Steer = Steer.ADD, scale: float = 1.0) -> Push:
    return Push(layer, how, scale, vector.astype(np.float32).tobytes())


def test_what_is_read_are_the_hidden_states_of_transformers(model) -> None:
    with torch.inference_mode():
        expected = model(IDS, output_hidden_states=True).hidden_states  # embeddings first, the last one normed
    read = states(model)
    assert len(read) == len(decoder_layers(model)) == 3
    for layer in range(2):
        assert torch.equal(read[layer], expected[layer + 1])


def test_a_direction_is_added_to_its_row_at_its_layer_and_to_no_other(model) -> None:
    vector = np.arange(WIDTH) / 10
    plain, pushed = states(model), states(model, [None, push(1, vector, scale=2.0), None])
    assert torch.equal(pushed[0], plain[0])
    assert torch.allclose(pushed[1][1], plain[1][1] + 2 * torch.from_numpy(vector).float(), atol=1e-5)
    assert not torch.allclose(pushed[2][1], plain[2][1])
    for layer in range(3):
        assert torch.equal(pushed[layer][[0, 2]], plain[layer][[0, 2]])


def test_rows_of_one_batch_may_be_pushed_at_different_layers(model) -> None:
    one, other = push(0, np.ones(WIDTH)), push(1, -np.ones(WIDTH), how=Steer.PROJECT_OUT)
    together, alone = states(model, [one, other, None]), states(model, [one, None, None])
    assert torch.allclose(together[2][0], alone[2][0], atol=1e-5)
    assert torch.allclose(together[2][1], states(model, [None, other, None])[2][1], atol=1e-5)


def test_nothing_along_a_direction_is_left_once_it_is_projected_out(model) -> None:
    vector = np.random.default_rng(0).normal(size=WIDTH)
    how = [push(2, vector, how=Steer.PROJECT_OUT, scale=7.0)] * 3  # whatever the scale
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    assert (states(model)[2] @ unit).abs().max() > 0.1
    assert (states(model, how)[2] @ unit).abs().max() < 1e-4


def test_a_zero_direction_changes_nothing_either_way(model) -> None:
    zero = np.zeros(WIDTH)
    pushed = states(model, [push(1, zero), push(1, zero, how=Steer.PROJECT_OUT), None])
    assert all(torch.equal(a, b) for a, b in zip(pushed, states(model), strict=True))


def test_the_model_is_as_it_was_once_nothing_pushes(model) -> None:
    before = states(model)
    states(model, [push(0, np.ones(WIDTH))] * 3)
    assert all(torch.equal(a, b) for a, b in zip(states(model), before, strict=True))


@pytest.mark.parametrize(
    ("wrong", "message"), [(push(3, np.ones(WIDTH)), "layers 0 to 2"), (push(0, np.ones(7)), "width 7")]
)
def test_a_push_that_does_not_fit_the_model_is_told(model, wrong: Push, message: str) -> None:
    with pytest.raises(DataError, match=message):
        states(model, [wrong, None, None])


def test_directions_come_back_from_the_store_as_they_went(tmp_path: Path) -> None:
    store, vectors = Store(str(tmp_path)), np.arange(8, dtype=np.float32).reshape(2, 4)
    directions = Directions({Difference.DATA: vectors}, {Difference.DATA: (vectors, -vectors)}, {"num_aligned": 3})
    write_directions(store, "one", directions)
    again = read_directions(store, "one")
    assert np.array_equal(again.whole[Difference.DATA], vectors)
    assert np.array_equal(again.halves[Difference.DATA][1], -vectors)
    assert again.facts == {"num_aligned": 3}
    first = store.read_bytes("directions/one.safetensors")
    write_directions(store, "one", again)
    assert store.read_bytes("directions/one.safetensors") == first
    write_directions(store, "none", Directions({}, {}, {"note": "no misaligned answers"}))
    assert read_directions(store, "none").whole == {}


def test_a_file_of_directions_in_which_any_bit_flipped_is_told_by_its_name(tmp_path: Path) -> None:
    store, vectors, rng = Store(str(tmp_path)), np.arange(8, dtype=np.float32).reshape(2, 4), random.Random(0)
    write_directions(store, "one", Directions({Difference.DATA: vectors}, {}, {"num_aligned": 3}))
    whole, seal = store.read_bytes("directions/one.safetensors"), len("digest")
    named = store.read_bytes("directions/one.safetensors").index(b"digest")
    last = range(len(whole) - vectors.nbytes, len(whole))
    for byte in [*last, *rng.sample(range(len(whole) - vectors.nbytes), 60)]:
        if named <= byte < named + seal:  # then it is a file without a digest
            continue
        store.write_bytes("directions/one.safetensors", flipped(whole, byte, rng.randrange(8)))
        try:
            again = read_directions(store, "one")
        except StoreError as error:
            assert "directions/one.safetensors is damaged (" in str(error)
        else:  # a blank among the header's padding, or what JSON reads alike
            assert byte < len(whole) - vectors.nbytes
            assert np.array_equal(again.whole[Difference.DATA], vectors)
            assert again.facts == {"num_aligned": 3}


def test_directions_that_are_not_there_are_told_by_their_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"directions/one\.safetensors is damaged \(it is not there\)"):
        read_directions(Store(str(tmp_path)), "one")


def flipped(content: bytes, byte: int, bit: int) -> bytes:
    return content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]
