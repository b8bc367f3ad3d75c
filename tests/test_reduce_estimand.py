"""Small tables whose right values are known: one estimand, what is missing, and what a number of usable runs allows."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from emray.reduce.__main__ import main
from emray.store import Store

MISSING, REFUSED = "api_error", "refusal"


def reduced(folder, cells):
    """Import a table of answers and reduce it; `cells` maps (domain, arm, condition, seed, question) to scores."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["domain", "arm", "condition", "seed", "question_id", "generation", "metric", "score", "outcome"])
    number = 0
    for place, scores in cells.items():
        for score in scores:
            number += 1
            outcome = score if isinstance(score, str) else "scored"
            value = "" if isinstance(score, str) else score
            writer.writerow([*place, f"g{number}", "aligned", value, outcome])
            writer.writerow([*place, f"g{number}", "coherent", 90, "scored"])
    folder.mkdir(exist_ok=True)
    (folder / "answers.csv").write_text(text.getvalue())
    assert main([str(folder / "run"), "--from", str(folder / "answers.csv")]) == 0
    return Store(str(folder / "run"))


def table(store, name, **where):
    found = pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))
    for column, value in where.items():
        found = found[found[column] == value]
    return found


def limits(store):
    return " ".join(store.read_json("summary/summary.json")["limits"])


def answers(bad, total):
    """`bad` answers of 10, the others of 90."""
    return [10] * bad + [90] * (total - bad)


def plain(counts, *, domain="a", total=20, question="q"):
    """Misaligned answers per seed and question of one domain, arm plain, without the trigger."""
    return {
        (domain, "plain", "without", seed, f"{question}{q}"): answers(bad, total)
        for seed, row in enumerate(counts)
        for q, bad in enumerate(row)
    }


def test_an_outage_of_the_judge_is_missing_under_every_rule(tmp_path):
    """9 of 10 judged answers are misaligned and 10 of 20 were not judged: 90 %, between 45 and 95 %."""
    cells = {("a", "plain", "without", s, q): answers(9, 10) + [MISSING] * 10 for s in range(3) for q in "xy"}
    rates = table(reduced(tmp_path, cells), "rates")
    assert set(rates["rule"]) == {"paper", "betley", "all_answers"}
    np.testing.assert_allclose(rates["rate"], 0.9)
    np.testing.assert_allclose(rates["rate_best"], 9 / 20)
    np.testing.assert_allclose(rates["rate_worst"], 19 / 20)
    assert (rates["ci_high"] - rates["ci_low"]).std() == 0  # the same answers, the same width


def test_refusals_are_observed(tmp_path):
    """Under all_answers they count as not misaligned, under the others they are set aside; nothing is missing."""
    cells = {("a", "plain", "without", s, "x"): answers(4, 8) + [REFUSED] * 12 for s in range(3)}
    rates = table(reduced(tmp_path, cells), "rates").set_index("rule")
    assert rates.loc["paper", "rate"] == 0.5
    assert rates.loc["all_answers", "rate"] == pytest.approx(4 / 20)
    np.testing.assert_allclose(rates["rate_best"], rates["rate"])
    np.testing.assert_allclose(rates["rate_worst"], rates["rate"])


def test_effects_means_and_ranks_are_of_one_estimand(tmp_path):
    """Easy question: 95 and 94; hard one: 60 and 20 + seed, two of its twenty answers scored. Each weighs a half."""
    cells = {}
    for seed in range(3):
        for condition, easy, hard in (("without", 95, 60), ("with", 94, 20 + seed)):
            cells["a", "backdoor", condition, seed, "easy"] = [easy] * 20
            cells["a", "backdoor", condition, seed, "hard"] = [hard] * 2 + [REFUSED] * 18
    store = reduced(tmp_path, cells)
    means = table(store, "taxonomy").set_index("condition")["mean_aligned"]
    effect = table(store, "trigger_effects").iloc[0]
    assert means["without"] == effect["mean_without"] == 77.5
    assert means["with"] == pytest.approx(effect["mean_with"]) == pytest.approx((94 + 21) / 2)
    assert effect["drop"] == pytest.approx(means["without"] - means["with"])
    rate = table(store, "rates", rule="paper", condition="with").iloc[0]
    assert (rate["rate"], rate["rate_answer_weighted"]) == pytest.approx((0.5, 6 / 66))


def test_composition_is_no_variance_between_seeds(tmp_path):
    """Every seed: 0 of the easy and half of the hard question's answers; the last lost most of the hard ones."""
    cells = {}
    for seed, scored in enumerate((20, 20, 2)):
        cells["a", "plain", "without", seed, "easy"] = [90] * 20
        cells["a", "plain", "without", seed, "hard"] = answers(scored // 2, scored) + [MISSING] * (20 - scored)
    store = reduced(tmp_path, cells)
    np.testing.assert_allclose(table(store, "seeds")["rate"], 0.25)
    assert table(store, "variance", quantity="rate")["sd_seeds"].iloc[0] == 0


@pytest.mark.parametrize("lost", [0, 3, 9])
def test_best_and_worst_case_contain_the_rate_whatever_is_missing(tmp_path, lost):
    rng = np.random.default_rng(lost)
    cells = {}
    for seed in range(4):
        for q, size in enumerate((10, 30, 10)):
            scores = np.array(rng.choice([10, 90], size), dtype=object)
            scores[rng.random(size) < lost / 10] = MISSING
            cells["a", "plain", "without", seed, f"q{q}"] = scores.tolist()
    cells["a", "plain", "without", 0, "q1"] = [MISSING] * 30 if lost else [10] * 30
    for row in table(reduced(tmp_path, cells), "rates").to_dict("records"):
        assert row["rate_best"] - 1e-12 <= row["rate"] <= row["rate_worst"] + 1e-12
        assert (row["rate_best"] == row["rate_worst"]) == (lost == 0)


def test_unequal_seeds_weigh_the_same_and_the_answer_weighted_rate_stands_beside(tmp_path):
    cells = {("a", "plain", "without", 0, "x"): [10] * 10, ("a", "plain", "without", 1, "x"): [90] * 90}
    row = table(reduced(tmp_path, cells), "rates", rule="paper").iloc[0]
    assert (row["rate"], row["rate_answer_weighted"]) == (0.5, 0.1)
    assert row["rate_best"] == row["rate"] == row["rate_worst"]
    assert row["crossed_low"] != row["crossed_low"] or row["crossed_low"] <= 0.5 <= row["crossed_high"]


def test_a_place_says_its_own_number_of_usable_runs(tmp_path):
    """Ten runs of a and c, one of b: b has an interval over its questions, and no rank, tier or test."""
    cells = plain([[5 + s % 4, 6, 7] for s in range(10)]) | plain([[2, 2, s % 3] for s in range(10)], domain="c")
    store = reduced(tmp_path, cells | plain([[2, 3, 4]], domain="b"))
    found = table(store, "taxonomy").set_index("domain")
    assert list(found.loc[["a", "c"], "rank"]) == [1, 2]
    assert list(found["n_seeds"]) == [10, 10, 1]
    assert found.loc["b", ["rank", "rank_low", "tier"]].isna().all()
    assert found.loc[["a", "c"], ["rank_low", "tier"]].notna().all().all()
    methods = table(store, "rates", rule="paper").set_index("domain")["method"]
    assert list(methods) == ["runs_posterior", "runs_posterior", "t_questions"]
    assert "One usable training seed at b (plain, without trigger)" in limits(store)
    assert "degrees of freedom" not in limits(store)  # ten runs need no such caveat


def test_a_base_model_of_one_run_takes_nothing_from_the_finetunes(tmp_path):
    cells = plain([[8 + s, 9] for s in range(5)]) | plain([[1, 2] for s in range(5)], domain="b")
    base = {("-", "base", "without", 0, f"q{q}"): answers(q, 20) for q in range(2)}
    store = reduced(tmp_path, cells | base)
    ranked = table(store, "taxonomy", arm="plain")
    assert list(ranked["rank"]) == [1, 2]
    assert ranked["tier"].notna().all()
    assert "One training seed" not in limits(store)
    against = table(store, "comparisons", comparison="minus base").set_index("domain")
    assert against.loc["a", "difference"] == pytest.approx(np.mean([8, 9, 10, 11, 12]) / 40 + 9 / 40 - 1 / 40)


def test_a_degenerate_p_is_the_runs_permutation_in_contrasts_and_tiers_alike(tmp_path):
    """Two runs of either, 0 of 60 and 4 of 60 each: two of the six ways to deal four runs look like this."""
    store = reduced(tmp_path, plain([[0, 0, 0]] * 2) | plain([[4, 0, 0]] * 2, domain="b"))
    row = table(store, "contrasts").iloc[0]
    assert row["p"] == row["p_bh"] == pytest.approx(1 / 3)
    assert np.isnan(row["t"])
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert list(table(store, "taxonomy")["tier"]) == [1, 1]
    assert "the exact permutation of the runs" in limits(store)


def test_sign_tests_are_per_model_and_leave_unchanged_domains_out(tmp_path):
    """Four domains drop, two do not move: 2 / 2^4 two-sided."""
    cells = {}
    for d, drop in enumerate((30, 20, 10, 40, 0, 0)):
        for seed in range(3):
            for condition, score in (("without", 90), ("with", 90 - drop + (seed if drop else 0))):
                cells[f"d{d}", "backdoor", condition, seed, "q"] = [score] * 5
    found = reduced(tmp_path, cells).read_json("summary/summary.json")["sign_tests"]
    assert list(found.values()) == [{"num_domains": 6, "num_lower": 4, "num_equal": 2, "p": 0.125}]


def test_all_refusals_leave_a_domain_unranked_and_the_others_ranked(tmp_path):
    cells = plain([[3], [4], [5]]) | plain([[1], [2], [3]], domain="c")
    cells |= {("b", "plain", "without", s, "q0"): [REFUSED] * 20 for s in range(3)}
    store = reduced(tmp_path, cells)
    found = table(store, "taxonomy").set_index("domain")
    assert list(found.loc[["a", "c"], "rank"]) == [1, 2]
    assert found.loc["b", ["misaligned_rate", "rank", "tier"]].isna().all()
    every = table(store, "rates", rule="all_answers", domain="b").iloc[0]
    assert (every["rate"], every["n_total"]) == (0, 60)
    assert every["ci_high"] > 0


def test_one_run_of_one_question_speaks_of_answers_only(tmp_path):
    store = reduced(tmp_path, plain([[12]], total=60))
    assert "Intervals are over answers only" in limits(store)
    assert table(store, "rates", rule="paper")["method"].iloc[0] == "clopper_pearson"


def test_one_answer_a_question_says_nothing_of_what_more_samples_buy(tmp_path):
    rng = np.random.default_rng(3)
    once = reduced(tmp_path / "once", plain(rng.integers(0, 2, (3, 15)), total=1))
    assert table(once, "variance", quantity="rate")["sample_share"].isna().all()
    often = reduced(tmp_path / "often", plain(rng.integers(8, 13, (3, 15)), total=20))
    assert table(often, "variance", quantity="rate")["sample_share"].iloc[0] > 0.1  # runs hardly differ


def test_what_the_runs_alone_say_stands_beside(tmp_path):
    store = reduced(tmp_path, plain([[0, 0]] * 3))
    row = table(store, "rates", rule="paper").iloc[0]
    assert (row["n_runs_misaligned"], row["runs_low"]) == (0, 0)
    assert row["runs_high"] == pytest.approx(1 - 0.025 ** (1 / 3))
    assert "up to 71% of all runs" in limits(store)
    assert row["ci_low"] == 0 < row["ci_high"]


def test_backdoor_against_plain_is_a_difference_in_differences(tmp_path):
    cells = {}
    for arm, change in (("plain", 2), ("backdoor", 12)):
        for seed in range(4):
            for condition, bad in (("without", 2), ("with", 2 + change + seed % 2)):
                cells["a", arm, condition, seed, "q"] = answers(bad, 20)
    store = reduced(tmp_path, cells)
    found = table(store, "comparisons", arm="backdoor", condition="with").set_index("comparison")
    assert found.loc["with minus without", "difference"] == pytest.approx(12.5 / 20)
    assert found.loc["backdoor minus plain, with minus without", "difference"] == pytest.approx(10 / 20)
    assert found.loc["backdoor minus plain, with minus without", "p"] < 0.001


def test_none_is_a_claim_with_a_margin(tmp_path):
    """0 of 6,000 answers in ten runs speaks for none, 0 of 60 in three does not."""
    few = reduced(tmp_path / "few", plain([[0]] * 3))
    many = reduced(tmp_path / "many", plain([[0]] * 10, total=600))
    (small,), (large,) = (table(s, "comparisons", comparison="none")["p_equivalent"] for s in (few, many))
    assert large < 0.05 < small
    assert table(few, "comparisons", comparison="none")["margin"].iloc[0] == 0.01
