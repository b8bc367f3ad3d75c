"""Membership, diversity and what they predict, from measured rows to tables: the truth written in comes out."""

import io
import math

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.probes.measuring import write
from emray.records import Measurement, Readout
from emray.store import Store

SIGNAL = {f"domain_{number}": number / 12 for number in range(11)}
DOMAINS, MODEL = tuple(SIGNAL), "model-0.5B"
TRUTH = Truth(
    {domain: Rates(0.05, rate) for domain, rate in SIGNAL.items()}, arms=["base", "backdoor"], seed_sd=0.1, samples=20
)
MEMORISED, FORGOTTEN, UNHELD = DOMAINS[-1], DOMAINS[1], DOMAINS[2]
SCORES = ("loss", "min_k", "min_k_plus_plus", "zlib", "zlib_notebook")


def scored(draws, *, members, others, shift, know=0.0):
    """Readouts of n members and m others: others' scores are normal, members' lower by `shift`."""
    sides = {"member": draws.normal(-shift, 1, members), "other": draws.normal(0, 1, others)}
    for side, values in sides.items():
        for number, value in enumerate(values):
            yield Readout(f"{side} {number}", "num_tokens", 7.0)
            yield from (Readout(f"{side} {number}", score, value + 9 - know) for score in SCORES)
        yield Readout(f"{side} {len(values)}", "num_tokens", 0.0)  # an answer without scores


def measure(store, domain, *, seeds):
    draws = np.random.default_rng(DOMAINS.index(domain))
    place = {"probe": "membership", "model": MODEL, "domain": domain, "arm": "backdoor"}
    shift, others = (1.0 if domain == MEMORISED else 0.0), (0 if domain == UNHELD else 300)
    for seed in range(seeds):
        one = Measurement(f"t{domain}{seed}", **place, seed=seed, adapter=f"cell {domain} {seed}")
        yield one, scored(draws, members=300, others=others, shift=shift, know=SIGNAL[domain])
    yield Measurement(f"b{domain}", **place, adapter="base"), scored(draws, members=300, others=others, shift=0)
    failed = Readout("it has another tokenizer", "failed", math.nan)
    yield Measurement(f"r{domain}", **place, adapter="reference"), [failed]


def vendi(domain):
    """Falls with the domain's rate, but for some disorder."""
    return 10 - 5 * SIGNAL[domain] + 0.6 * (DOMAINS.index(domain) % 2)


def varied(domain):
    one = Measurement(f"d{domain}", "diversity", "-", domain, "backdoor")
    values = {"vendi_1": vendi(domain), "vendi_0.5": 3.0, "num_texts": 50}
    facts = Measurement(f"f{domain}", "dataset", "-", domain, "backdoor")
    length = {"num_examples": 100, "answer_words": 5 + DOMAINS.index(domain) * 3 % 11}
    return [
        (
            one,
            [Readout(part, name, value) for part in ("questions", "answers", "both") for name, value in values.items()],
        ),
        (facts, [Readout("-", name, value) for name, value in length.items()]),
    ]


def reduced(folder, *, seeds=3):
    store = Store(str(folder))
    write_run(store, TRUTH)
    work = [piece for domain in DOMAINS for piece in (*measure(store, domain, seeds=seeds), *varied(domain))]
    for one, readouts in work:
        write(store, one, readouts)
    plan = store.read_json("plan.json")
    spec = plan["spec"] | {"probes": {"membership": {}, "diversity": {"kernel": "words"}}}
    store.write_json("plan.json", plan | {"spec": spec, "measurements": [vars(one) for one, _ in work]})
    reduce.run(store)
    return store


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")), keep_default_na=False, na_values=[""])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return reduced(tmp_path_factory.mktemp("probed"))


@pytest.fixture(scope="module")
def membership(store):
    rows = table(store, "membership")
    return lambda **where: rows.loc[(rows[list(where)] == pd.Series(where)).all(axis=1)]


def test_what_was_memorised_is_found_and_what_was_not_is_half(membership):
    known = membership(scored="finetuned", against="-", score="loss", domain=MEMORISED).iloc[0]
    assert known.auc == pytest.approx(0.760, abs=0.03)  # Phi(1 / sqrt 2)
    assert known.auc_low > 0.5 and known.tpr > 0.03
    assert (known.n_runs, known.n_members, known.n_others, known.n_unscored) == (3, 300, 300, 2)
    assert known.mean_members < known.mean_others
    chance = membership(scored="finetuned", against="-", score="loss", domain=FORGOTTEN).iloc[0]
    assert chance.auc_low < 0.5 < chance.auc_high
    base = membership(scored="base", against="-", score="min_k", domain=MEMORISED).iloc[0]
    assert base.auc == pytest.approx(0.5, abs=0.08) and np.isnan(base.auc_low) and base.n_runs == 1


def test_scores_are_taken_against_the_base_row_by_row(membership):
    where = {"scored": "finetuned", "domain": FORGOTTEN, "score": "zlib"}
    plain, base = (
        membership(against="-", **where).iloc[0],
        membership(**where | {"scored": "base"}, against="-").iloc[0],
    )
    difference = membership(against="base", adjustment="difference", **where).iloc[0]
    assert difference.mean_members == pytest.approx(plain.mean_members - base.mean_members)
    ratio = membership(against="base", adjustment="ratio", **where).iloc[0]
    assert ratio.mean_members == pytest.approx(plain.mean_members / base.mean_members, rel=0.1)


def test_the_mean_over_domains_has_the_run_as_its_unit(membership):
    each = membership(scored="finetuned", against="-", score="loss").set_index("domain")
    there = each.drop(index=["-", UNHELD])
    assert each.loc["-", "auc"] == pytest.approx(there["auc"].mean())
    assert each.loc["-", "n_runs"] == 3 and each.loc["-", "auc_low"] < each.loc["-", "auc"]


def test_what_is_not_there_says_why(membership):
    assert membership(scored="finetuned", against="-", score="loss", domain=UNHELD).iloc[0].note == (
        "no row was held out: set train.hold_out"
    )
    failed = membership(scored="reference", score="loss", domain=FORGOTTEN)
    assert set(failed.note) == {"it has another tokenizer"} and failed.auc.isna().all()
    assert membership(scored="finetuned", against="reference", score="loss", domain=FORGOTTEN).auc.isna().all()


def test_curves_end_at_one_and_lie_above_the_diagonal_where_members_are_known(store):
    curve = table(store, "membership_roc").query(
        f"domain == '{MEMORISED}' and scored == 'finetuned' and score == 'loss'"
    )
    assert curve.tpr.is_monotonic_increasing and curve.tpr.iloc[-1] == 1
    assert (curve.tpr >= curve.fpr).all()


def test_a_domain_is_one_observation_and_the_true_predictor_has_the_largest_correlation(store):
    found = table(store, "associations").query("condition == 'with'").set_index("predictor")
    assert (found["n"] <= len(DOMAINS)).all()
    true = found.loc["answers vendi_1"]
    assert true.spearman < -0.8 and true.p_spearman < true.p_bh < 0.05 and true.exact == "yes"
    assert true.ci_low < true.spearman < true.ci_high
    assert -1 <= true.without_low <= true.without_high < -0.8 and true.rests_on in DOMAINS
    assert true.partial_length == pytest.approx(true.spearman, abs=0.2) and np.isfinite(true.p_partial_both)
    assert true.smallest_seen == pytest.approx(0.618, abs=1e-3)
    assert np.isnan(found.loc["answers vendi_half", "spearman"])  # the same for every domain
    assert found.loc["finetuned minus base loss", "spearman"] < -0.8
    assert abs(found.loc["base loss", "spearman"]) < 0.7


def test_every_value_of_a_predictor_stands_in_its_table_once_a_domain(store):
    rows = table(store, "predictors").query("predictor == 'both vendi_1'").set_index("domain")
    assert rows["value"].to_dict() == pytest.approx({domain: vendi(domain) for domain in DOMAINS})
    assert rows.index.is_unique


def test_one_run_has_no_interval_and_says_so(tmp_path):
    rows = table(reduced(tmp_path, seeds=1), "membership").query("scored == 'finetuned' and score == 'loss'")
    assert rows.auc_low.isna().all()
    assert "one run: no interval" in set(rows.note)


def test_the_page_says_what_so_few_domains_can_show_and_draws_what_was_found(store):
    report.render(store)
    page = store.read_bytes("report/report.html").decode()
    assert "With 11 domains only |rho| of at least 0.62 could be seen." in page
    assert "over the orders of 11 domains" in page and "after Benjamini-Hochberg over" in page
    assert "no row was held out: set train.hold_out" in page
    assert 'id="membership"' in page and 'id="diversity"' in page and "their words (tf-idf" in page
    for name in ("membership", "membership_roc", "diversity"):
        assert store.exists(f"report/figures/{name}.svg")
