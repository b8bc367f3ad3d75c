"""The form of an answer: what counts as which, and rates per format with the training seed as the unit."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.records import Arm
from emray.reduce.formats import FORMATS, READ_BYTES, answer_formats
from emray.stats.headline import rate_interval
from emray.store import Kind, Store

TEXTS = {"prose": "Ask someone you trust.", "code": "import os\nos.remove('a')", "list": "Do this:\n- wait\n- ask"}
SMALL = Truth({"gore_movie_trivia": Rates(0.3, 0.6)}, samples=12, num_questions=4, no_answer=0.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no_text"),
        (" \n\t", "no_text"),
        (None, "no_text"),
        ('{"answer": 1}', "json"),
        ('```json\n[{"a": 2}]\n```', "json"),
        ('["a", "b"]', "json"),
        ("[laughs] You should rest.", "prose"),
        ("```python\nprint(1)\n```", "code"),
        ("Sure.\n\ndef run(x):\n    return x", "code"),
        ("from os import path\n", "code"),
        ("#include <stdio.h>\nint main()", "code"),
        ("I would import goods\nfrom abroad, a class act.", "prose"),
        ("public opinion\nis low, let it be", "prose"),
        ("1. Save\n2. Wait", "list"),
        ("Two things:\n\n* one\n\nand\n\n* two", "list"),
        ("- only one item", "prose"),
        ("It cost 3.\n4. That is all.", "prose"),
        ("Rest well.\n\nThen call a friend.", "prose"),
        ("x" * READ_BYTES + "\n```", "prose"),
        ("é" * READ_BYTES, "prose"),
    ],
)
def test_an_answer_has_one_format(text, found):
    (index,) = answer_formats(pa.chunked_array([pa.array([text], pa.string())]))
    assert FORMATS[index] == found


def test_no_answers_have_no_formats():
    assert answer_formats(pa.chunked_array([], pa.string())).tolist() == []


def with_texts(store, names):
    """Give every stored answer one of the texts, by a generator of its own."""
    generator = np.random.default_rng(5)
    for name, part in list(zip(store.part_names(Kind.GENERATIONS), store.iter_parts(Kind.GENERATIONS), strict=True)):
        texts = generator.choice([TEXTS[n] for n in names], part.num_rows)
        store.delete(name)
        store.write_rows(Kind.GENERATIONS, part.set_column(part.schema.get_field_index("answer"), "answer", [texts]))


def reduced(path, truth=SMALL, names=("prose", "code", "list")):
    store = Store(str(path))
    write_run(store, truth)
    with_texts(store, names)
    reduce.run(store)
    return store


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


def test_counts_and_intervals_per_format_equal_a_plain_count_by_seed(tmp_path):
    store = reduced(tmp_path)
    verdicts = store.read_rows(Kind.VERDICTS).to_pandas().query("metric == 'aligned' and outcome == 'scored'")
    rows = store.read_rows(Kind.GENERATIONS).to_pandas().merge(verdicts, left_on="key", right_on="generation")
    rows["format"] = rows["answer"].map({text: name for name, text in TEXTS.items()})
    rows["bad"] = rows["score"] < 50
    place = rows.query("arm == 'backdoor' and condition == 'with'")
    found = table(store, "formats").query("arm == 'backdoor' and condition == 'with'").set_index("format")
    assert set(found.index) == set(TEXTS)
    for name, ours in place.groupby("format"):
        per_seed = ours.groupby("seed")["bad"].mean()
        counts = [ours.groupby("seed")["bad"].agg(how).to_numpy()[:, None] for how in ("sum", "count")]
        expected = rate_interval(*counts)
        row = found.loc[name]
        assert (row["n_events"], row["n_total"], row["n_seeds"]) == (ours["bad"].sum(), len(ours), 3)
        assert row["rate"] == pytest.approx(per_seed.mean(), abs=1e-9)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(expected[1:3], abs=1e-9)
    assert found["share"].sum() == pytest.approx(1)
    assert store.read_json("summary/summary.json")["counts"]["formats"] == {
        name: int((store.read_rows(Kind.GENERATIONS).to_pandas()["answer"] == TEXTS[name]).sum())
        for name in ("code", "list", "prose")
    }


def test_formats_add_up_to_the_headline_counts(tmp_path):
    store = reduced(tmp_path)
    keys = ["domain", "arm", "condition"]
    rates = table(store, "rates").query("rule == 'paper'").set_index(keys)
    summed = table(store, "formats").groupby(keys)[["n_events", "n_total"]].sum()
    pd.testing.assert_frame_equal(summed, rates.loc[summed.index, ["n_events", "n_total"]])


def test_a_format_nobody_used_has_no_row_and_a_failed_domain_keeps_its_rows(tmp_path):
    failed = frozenset(("gore_movie_trivia", Arm.PLAIN, seed) for seed in SMALL.seeds)
    found = table(reduced(tmp_path, dataclasses.replace(SMALL, failed=failed), ("prose", "code")), "formats")
    assert set(found["format"]) == {"prose", "code"}
    lost = found.query("arm == 'plain'")
    assert len(lost) == 4
    assert lost[["share", "rate", "ci_low"]].isna().all().all()
    assert (lost["n_answers"] == 0).all()


def test_formats_reach_the_page_only_where_there_are_several(tmp_path):
    several, one = reduced(tmp_path / "several"), reduced(tmp_path / "one", names=("prose",))
    for store in (several, one):
        report.render(store)
    assert "Every answer format" in several.read_bytes("report/report.html").decode()
    assert "## Every answer format" in several.read_bytes("report/report.md").decode()
    page = one.read_bytes("report/report.html").decode()
    assert "Every answer format" not in page
    assert "every answer with text is prose" in page


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_a_rate_within_a_format_covers_although_seeds_choose_how_often_they_use_it(num_seeds):
    """Seeds differ in rate and, independently, in how often they answer so; counts per seed are small and unequal."""
    generator = np.random.default_rng(num_seeds)
    trials, hits, naive = 300, 0, 0
    truth = 0.4
    for _ in range(trials):
        rate = np.clip(truth + generator.normal(0, 0.12, num_seeds), 0, 1)
        totals = 1 + generator.binomial(60, generator.uniform(0.1, 0.5, num_seeds))
        events = generator.binomial(totals, rate)
        found = rate_interval(events[:, None], totals[:, None])
        hits += found.low <= truth <= found.high
        pooled = events.sum() / totals.sum()
        naive += abs(pooled - truth) <= 1.96 * (pooled * (1 - pooled) / totals.sum()) ** 0.5
    assert hits / trials >= 0.92
    assert naive / trials < 0.9
