"""Keys: content in, identity out; unstable values raise."""

import math
import pickle
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emray import errors
from emray.records import (
    KEY_LENGTH,
    Arm,
    Cell,
    Message,
    adapter_key,
    canonical_json,
    generation_keys,
    joined_series_keys,
    key_of,
    prompt_key,
    sampling_seed,
    series_under,
)
from emray.records.keys import series_keys

stable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(stable)
def test_a_key_is_a_function_of_the_content(value: object) -> None:
    assert key_of("x", value) == key_of("x", pickle.loads(pickle.dumps(value)))
    assert len(key_of("x", value)) == KEY_LENGTH


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_a_mapping_does_not_matter(value: dict[str, int]) -> None:
    assert key_of("x", value) == key_of("x", dict(reversed(value.items())))


@given(st.text(), st.text(), st.dictionaries(st.text(), stable))
def test_keys_that_are_put_together_are_those_of_the_whole(
    adapter: str, prompt: str, sampling: dict[str, object]
) -> None:
    assert series_under(sampling)(adapter, prompt) == key_of("generation", [adapter, prompt, sampling])
    joined = joined_series_keys([(adapter, 2), (prompt, 0), (prompt, 3)])
    assert joined == "".join(series_keys(adapter, samples=range(2)) + series_keys(prompt, samples=range(3)))
    assert sampling_seed(adapter, prompt=prompt) == int(key_of("sampling-seed", [adapter, prompt])[:7], 16)


@given(stable, stable)
def test_different_content_has_different_keys(a: object, b: object) -> None:
    if canonical_json(a) != canonical_json(b):
        assert key_of("x", a) != key_of("x", b)


def test_kinds_keep_keys_apart() -> None:
    assert key_of("adapter", "a") != key_of("prompt", "a")


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object(), b"x", {1: 2}, [print]])
def test_unstable_values_raise(value: object) -> None:
    with pytest.raises(TypeError, match="cannot key"):
        key_of("x", value)


def test_a_known_key_never_changes() -> None:
    # Stored results of users hang on these: a change here throws away their adapters. Values: sha256sum of
    # 'x\n{"a":"é","b":[1,2.5,null]}', first 20 digits; the second likewise.
    assert key_of("x", {"b": [1, 2.5, None], "a": "é"}) == "2e281edc91b432990f47"
    assert (
        adapter_key("folder:abc", rows_digest="d", hyperparameters={"lora_rank": 8}, seed=1) == "7acf67b75b372e0d9369"
    )


def test_an_arm_keys_as_its_text() -> None:
    assert key_of("x", Arm.PLAIN) == key_of("x", "plain")


def test_samples_keep_their_keys_when_more_are_asked_for() -> None:
    few = generation_keys("a", prompt="p", sampling={"temperature": 0.7}, samples=range(3))
    many = generation_keys("a", prompt="p", sampling={"temperature": 0.7}, samples=range(5))
    assert many[:3] == few
    assert len(set(many)) == 5


def test_sampling_seeds_differ_by_prompt_and_leave_room_for_samples() -> None:
    one = sampling_seed("a", prompt=prompt_key((Message("user", "x"),)))
    two = sampling_seed("a", prompt=prompt_key((Message("user", "y"),)))
    assert one != two
    assert 0 <= max(one, two) + 1_000_000 < 2**31


@pytest.mark.parametrize("error", [e for e in vars(errors).values() if isinstance(e, type)])
def test_errors_survive_pickling(error: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(error("what was wrong")))
    assert type(again) is error
    assert str(again) == "what was wrong"


def test_records_survive_pickling() -> None:
    cell = Cell("m", "d", Arm.PLAIN, 0, "k")
    assert pickle.loads(pickle.dumps(cell)) == cell


@dataclass
class _NotARecord:
    x: int = 0


def test_objects_of_unknown_kind_do_not_slip_into_a_key() -> None:
    with pytest.raises(TypeError):
        key_of("x", {"field": _NotARecord()})
