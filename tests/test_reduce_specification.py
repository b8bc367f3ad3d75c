"""The specification curve: its headline row is the headline, and leaving a question out is what it says."""

import io

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce
from emray.reduce.estimates import RateCells
from emray.reduce.specification import _pooled, _standardised
from emray.store import Store

TRUTH = Truth({"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)}, samples=4, num_questions=3)
PLACE = ["model", "domain", "arm", "condition"]


def cells(events, totals):
    events, totals = np.array(events), np.array(totals)
    return RateCells(events, totals, np.zeros_like(totals))


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("specification")))
    write_run(store, TRUTH)
    reduce.run(store)
    return store


def test_leaving_a_question_out_gives_the_mean_of_the_others():
    # seed 0: 1/2, 0/2, 4/4; seed 1: 2/2, 0/2, 2/4. Means of questions: 3/4, 0, 3/4
    found = _standardised(cells([[1, 0, 4], [2, 0, 2]], [[2, 2, 4], [2, 2, 4]]))
    assert found.whole == pytest.approx(0.5)
    assert found.without == pytest.approx([0.375, 0.75, 0.375])


def test_answers_weigh_by_their_number_where_that_is_the_weighting():
    found = _pooled(cells([[1, 0, 4], [2, 0, 2]], [[2, 2, 4], [2, 2, 4]]))
    assert found.whole == pytest.approx(9 / 16)
    assert found.without == pytest.approx([6 / 12, 9 / 12, 3 / 8])


def test_a_question_without_answers_changes_nothing_and_the_only_one_leaves_nothing():
    found = _standardised(cells([[1, 0], [2, 0]], [[2, 0], [2, 0]]))
    assert found.whole == pytest.approx(0.75)
    assert np.isnan(found.without[0])
    assert found.without[1] == pytest.approx(0.75)
    nothing = cells([[0, 0]], [[0, 0]])
    for rate in (_standardised(nothing), _pooled(nothing)):
        assert np.isnan([rate.whole, *rate.without]).all()


def test_a_run_that_lacks_a_question_weighs_no_less():
    # runs differ by .25 on the first question, so the second run's gap is .5 - .25: means .375 and .125
    found = _standardised(cells([[1, 2], [0, 0]], [[4, 4], [4, 0]]))
    assert found.whole == pytest.approx(0.25)
    assert found.without == pytest.approx([0.375, 0.125])


def test_the_headline_is_one_of_the_specifications(store):
    rows = table(store, "specification").query("rule == 'paper' and weighting == 'questions' and left_out == '-'")
    joined = rows.merge(table(store, "taxonomy"), on=PLACE)
    assert len(joined) == len(table(store, "taxonomy"))
    assert joined["rate"].to_numpy() == pytest.approx(joined["misaligned_rate"].to_numpy())
    by_answers = table(store, "specification").query("weighting == 'answers' and left_out == '-'")
    joined = by_answers.merge(table(store, "rates"), on=[*PLACE, "rule"])
    assert joined["rate_x"].to_numpy() == pytest.approx(joined["rate_answer_weighted"].to_numpy())


def test_every_rule_weighting_and_question_has_its_row(store):
    counts = table(store, "specification").groupby(PLACE).size()
    assert set(counts) == {3 * 2 * (1 + 3)}
