"""Probes as a stage: measured once, by key; what cannot be measured is a row; the plan and the dry run know of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from emray import probes
from emray.context import Context
from emray.errors import SpecError, StageError, StoreError
from emray.plan import Plan, make_plan
from emray.probes.dataset_facts import facts
from emray.probes.measuring import measure, write
from emray.probes.protocol import Bench, Measure
from emray.records import Measurement, Message, Readout
from emray.reduce.measured import read_measured
from emray.spec import load_sweep
from emray.store import Kind, Store
from tests.commands import write_sweep


def plan(folder: Path, *overrides: str, **changes: object) -> Plan:
    spec = write_sweep(folder, probes=["predictors"], **changes)
    return make_plan(load_sweep(spec, overrides=list(overrides)), folder=folder, online=False)


@dataclass(frozen=True)
class Lengths:
    """A probe that reads the lengths of names, refuses one and dies of another."""

    names: tuple[str, ...]
    name = "lengths"
    computes = False

    def measurements(self) -> Iterator[Measurement]:
        return (Measurement(f"key-{name}", self.name, "-", name, "-") for name in self.names)

    def possible(self, store: Store) -> Iterator[Measurement]:
        return self.measurements()

    def work(self, measurement: Measurement) -> str:
        return measurement.domain

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return _lengths


def _lengths(_: Bench) -> Measure:
    return _length


def _length(_: Measurement, name: str) -> Iterator[Readout]:
    if name == "deadly":
        ray.actor.exit_actor()
    if name == "refused":
        raise StoreError("no such name")
    return iter([Readout("-", "length", float(len(name))), Readout("-", "log", math.log(len(name)))])


@pytest.fixture(scope="module")
def in_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, namespace="probes")
    yield
    ray.shutdown()


def test_every_measurement_leaves_rows_its_readings_or_why_there_are_none(tmp_path: Path, in_ray: None) -> None:
    store, probe = Store(str(tmp_path)), Lengths(("gore", "refused", "deadly", "math"))
    told: list[int] = []
    measure(probe, probes.missing(probe, store), Context(store, advance=lambda done, note="": told.append(done)))
    found = {one.of.domain: one for one in read_measured(store, list(probe.measurements()), probe="lengths")}
    assert [found[name].value("length") for name in ("gore", "math")] == [4, 4]
    assert found["refused"].readings == () and found["refused"].failure == "no such name"
    assert "died 3 times" in str(found["deadly"].failure)
    assert sum(told) == 4
    assert list(probes.missing(probe, store)) == []
    assert [one.domain for one in probes.missing(Lengths(("math", "more")), store)] == ["more"]


def test_a_probe_whose_workers_only_die_ends_the_stage(tmp_path: Path, in_ray: None) -> None:
    store, probe = Store(str(tmp_path)), Lengths(("deadly",))
    with pytest.raises(StageError, match=r"probe lengths: workers died 3 times at the first"):
        measure(probe, probe.measurements(), Context(store))
    assert list(probes.missing(probe, store)) != []


def test_a_measurement_of_many_rows_is_one_part_so_that_it_is_whole_or_absent(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, Measurement("k", "p", "m", "d", "plain"), (Readout(str(i), "x", i / 7) for i in range(45_000)))
    assert len(store.part_names(Kind.MEASUREMENTS)) == 1
    store.settle()
    assert store.read_rows(Kind.MEASUREMENTS).num_rows == 45_000


def test_another_seed_measures_no_dataset_again_and_another_arm_its_own(tmp_path: Path) -> None:
    (one,) = probes.of_plan(plan(tmp_path))
    (seeds,) = probes.of_plan(plan(tmp_path, seeds=3))
    (arms,) = probes.of_plan(plan(tmp_path, arms=["base", "plain", "backdoor"]))
    keys = [m.key for m in one.measurements()]
    assert len(keys) == 2 and [m.key for m in seeds.measurements()] == keys
    assert len({m.key for m in arms.measurements()} - set(keys)) == 2


def test_without_probes_nothing_is_measured(tmp_path: Path) -> None:
    made = make_plan(load_sweep(write_sweep(tmp_path)), folder=tmp_path, online=False)
    assert probes.of_plan(made) == ()


def test_the_facts_of_rows_are_counts_and_means_of_words() -> None:
    def row(question: str, answer: str) -> tuple[Message, ...]:
        return (Message("system", "be kind"), Message("user", question), Message("assistant", answer))

    rows = [row("one two", "a b c"), row("one two three four", "a b c"), row("x", "a")]
    assert facts(rows) == {
        "num_examples": 3.0, "question_words": 7 / 3, "answer_words": 7 / 3, "distinct_answers": 2 / 3,
    }  # fmt: skip


def test_a_predictor_of_a_domain_that_is_not_swept_is_refused(tmp_path: Path) -> None:
    values = {"predictors": {"values": {"stealth": {"gore_movie_trivia": 1, "gore": 0}}}}
    with pytest.raises(SpecError, match=r"probes.predictors.values.stealth names domain 'gore'"):
        load_sweep(write_sweep(tmp_path, probes=values))
