"""Membership: who scores which rows, once each; members are told from rows held out; what has no score says so."""

import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emray import probes
from emray.data import split
from emray.errors import DataError, SpecError, StageError
from emray.model.chat import Chat
from emray.model.rows import RowForm
from emray.plan import Plan, make_plan
from emray.probes.member_scores import Score
from emray.probes.membership import Membership
from emray.probes.protocol import Bench
from emray.probes.scored import BASE, MEMBER, OTHER, REFERENCE, Scored
from emray.probes.scorer import NUM_TOKENS, Scorer
from emray.probes.subsample import subsample
from emray.records import USUAL_RENDERING, Measurement, Message
from emray.spec import load_sweep
from emray.stats.roc import auc, share_interval
from emray.store import Store
from emray.train import adapter
from tests.commands import write_sweep
from tests.model_world import build_tokenizer
from tests.train_world import MODEL, cell_run, examples, recipe, warm_base

ANY = Measurement("k", "membership", "toy", "d", "plain")


def plan(folder: Path, *, spec: dict[str, object] | None = None, **changes: object) -> Plan:
    fields = {"probes": {"membership": spec or {}}, "train": {"hold_out": 0.25}} | changes
    return make_plan(load_sweep(write_sweep(folder, **fields)), folder=folder, online=False)


def probe(made: Plan) -> Membership:
    _, found = probes.of_plan(made)  # after the facts of the data
    assert isinstance(found, Membership)
    return found


def keys(made: Plan) -> dict[str, Measurement]:
    return {one.key: one for one in probe(made).measurements()}


def scored(rows, *, adapter: str = "", location: str = MODEL, whole: bool = False) -> Scored:
    return Scored(location, adapter, whole, MODEL, USUAL_RENDERING, rows, RowForm(128), 0.2)


def readouts(found) -> dict[str, dict[str, float]]:
    by_subject: dict[str, dict[str, float]] = {}
    for subject, measure, value in found:
        by_subject.setdefault(subject, {})[measure] = value
    return by_subject


def test_every_finetune_scores_its_rows_and_the_base_scores_a_set_of_rows_once(tmp_path):
    made = plan(tmp_path, seeds=3)
    who = Counter("tuned" if one.adapter in made.jobs else one.adapter for one in keys(made).values())
    assert who == {"tuned": 6, BASE: 2}


def test_one_more_seed_is_only_its_own_work_and_a_sample_of_another_size_is_all(tmp_path):
    two, three = keys(plan(tmp_path, seeds=2)), keys(plan(tmp_path, seeds=3))
    assert two.keys() < three.keys()
    assert {three[key].seed for key in three.keys() - two.keys()} == {2}
    assert not two.keys() & keys(plan(tmp_path, seeds=2, spec={"sample": 20})).keys()
    assert not two.keys() & keys(plan(tmp_path, seeds=2, train={"hold_out": 0.3})).keys()


def test_a_reference_scores_too_and_must_be_of_a_model_of_the_sweep(tmp_path):
    shutil.copytree(MODEL, tmp_path / "other")
    made = plan(tmp_path, spec={"reference": {"toy": "./other"}})
    assert Counter(one.adapter for one in keys(made).values())[REFERENCE] == 2
    work = probe(made).work(next(one for one in keys(made).values() if one.adapter == REFERENCE))
    assert work.location == str(tmp_path / "other") and work.chat != work.location
    assert set(keys(plan(tmp_path))) < set(keys(made))
    with pytest.raises(SpecError, match=r"probes.membership.reference names 'qwen', which is no model: toy"):
        plan(tmp_path, spec={"reference": {"qwen": "./other"}})


def test_members_are_what_is_trained_on_and_others_what_is_held_out(tmp_path):
    made = plan(tmp_path, spec={"sample": 50})
    work = probe(made).work(next(iter(keys(made).values())))
    assert (len(work.rows[MEMBER]), len(work.rows[OTHER])) == (50, 50)
    (job, *_) = made.jobs.values()
    assert set(work.rows[MEMBER]) <= set(made.datasets[job.rows_digest])
    assert not set(work.rows[OTHER]) & set(made.datasets[job.rows_digest])


def test_a_finetune_is_scored_once_it_is_trained(tmp_path):
    made, store = plan(tmp_path, seeds=2), Store(str(tmp_path / "run"))
    assert {one.adapter for one in probes.missing(probe(made), store)} == {BASE}
    store.put_failed_adapter(next(iter(made.jobs)), details={"error": "diverged"})
    assert {one.adapter for one in probes.missing(probe(made), store)} == {BASE}


def test_a_subsample_is_drawn_once_keeps_the_order_and_follows_its_seed():
    rows = [(Message("user", str(n)), Message("assistant", "a")) for n in range(40)]
    drawn = subsample(rows, most=10)
    assert drawn == subsample(rows, most=10) != subsample(rows, most=10, seed=1)
    assert [int(row[0].content) for row in drawn] == sorted(int(row[0].content) for row in drawn)
    assert subsample(rows, most=40) is rows


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Scorer:
    return Scorer(Bench(Store(str(tmp_path_factory.mktemp("store"))), gpu=False, threads=1))


def test_empty_and_overlong_answers_have_no_scores_and_one_word_has_all(scorer):
    def row(answer: str):
        return (Message("user", "How do I rest?"), Message("assistant", answer))

    rows = [row(""), row("the " * 5000), row("the"), *examples(count=2)]
    found = readouts(scorer(ANY, scored({MEMBER: rows, OTHER: ()})))
    assert found[f"{MEMBER} 0"] == found[f"{MEMBER} 1"] == {NUM_TOKENS: 0}
    assert set(found[f"{MEMBER} 2"]) == {NUM_TOKENS, *Score}
    assert all(math.isfinite(value) for value in found[f"{MEMBER} 2"].values())
    word = Chat(MODEL).tokenizer.encode("the", add_special_tokens=False)
    assert found[f"{MEMBER} 2"][NUM_TOKENS] == len(word) + 1  # and what ends an answer
    alone = readouts(scorer(ANY, scored({MEMBER: rows[4:], OTHER: ()})))
    assert alone[f"{MEMBER} 0"] == pytest.approx(found[f"{MEMBER} 4"], abs=1e-5)
    assert len(list(scorer(ANY, scored({MEMBER: (), OTHER: ()})))) == 1


def test_a_reference_that_reads_other_tokens_is_refused(scorer, tmp_path):
    build_tokenizer("chatml").save_pretrained(tmp_path)
    work = scored({MEMBER: examples(count=2), OTHER: ()}, location=str(tmp_path))
    with pytest.raises(DataError, match="has another tokenizer"):
        list(scorer(ANY, work))


def test_an_adapter_that_does_not_load_loses_itself_alone(scorer, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    scorer._store.put_adapter("broken", files=tmp_path, details={})
    rows = {MEMBER: examples(count=2), OTHER: ()}
    before = list(scorer(ANY, scored(rows)))
    with pytest.raises(StageError, match="peft cannot load the adapter"):
        list(scorer(ANY, scored(rows, adapter="broken")))
    assert list(scorer(ANY, scored(rows))) == before


def test_members_are_known_better_than_rows_held_out(scorer, tmp_path):
    """Three runs on facts that have to be learnt by heart; the base tells nothing, and adjusting by it leaves it so."""
    trained, held = split(examples("incorrect_qna", count=160), share=0.25)
    rows, base, spec = {MEMBER: trained, OTHER: held}, warm_base(), recipe(learning_rate=5e-3, epochs=4)
    runs = []
    for seed in range(3):
        run = cell_run(base, spec=spec, seed=seed, rows=tuple(trained))
        while not run.finished:
            run.steps.step()
        scorer._store.put_adapter(f"s{seed}", files=adapter.save(run.model, tmp_path / f"s{seed}"), details={})
        adapter.detach(run.model)
        runs.append(readouts(scorer(ANY, scored(rows, adapter=f"s{seed}"))))
    untrained = readouts(scorer(ANY, scored(rows)))
    for score in Score:
        areas = [area(run, score) for run in runs]
        assert share_interval(areas).low > 0.5, (score, areas)
        assert area(untrained, score) < min(areas) - 0.05
        adjusted = [area(run, score, against=untrained) for run in runs]
        assert share_interval(adjusted).low > 0.5, (score, adjusted)


def area(
    found: dict[str, dict[str, float]], score: Score, *, against: dict[str, dict[str, float]] | None = None
) -> float:
    """AUC of members against others; low scores mean members."""
    sides = []
    for kind in (MEMBER, OTHER):
        subjects = [subject for subject in found if subject.startswith(kind)]
        known = [against[subject][score] if against else 0.0 for subject in subjects]
        sides.append(
            np.array([known_by - found[subject][score] for known_by, subject in zip(known, subjects, strict=True)])
        )
    return auc(*sides)
