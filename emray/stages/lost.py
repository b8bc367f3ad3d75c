"""Adapters whose weights are gone: which of them are needed again.

Not for training them, nor for weights that a service keeps. The invariant: a cell whose answers and measurements are
all there is done, with or without its weights; weights that something still asks for are trained again.
"""

from collections.abc import Iterator, Set

from emray import plan as planning
from emray import probes
from emray.plan import Plan
from emray.records import Cell
from emray.store import Kind, Store


def lost_cells(plan: Plan, store: Store) -> frozenset[str]:
    """Keys of cells that were trained, whose weights are not there, and of which something is still wanted."""
    here = {key for key, record in store.adapter_records().items() if record.trained and record.served_as is None}
    trained = here & set(trained_keys(plan))
    gone = trained - store.adapters_with_weights() if trained else trained
    lost = needed_cells(plan, store, among=gone)
    return lost | _gone_on_with(plan, store, gone, lost=lost)


def _gone_on_with(plan: Plan, store: Store, gone: Set[str], *, lost: Set[str]) -> frozenset[str]:
    """Those that a cell which is still to be trained goes on with."""
    if not gone:
        return frozenset()
    records = {key: record for key, record in store.adapter_records().items() if key not in lost}
    missing = (job.cell.key for job in planning.missing_jobs(plan, records))
    return frozenset(stage.cell.key for key in missing for stage in plan.stages_of(key)[:-1]) & frozenset(gone)


def needed_cells(plan: Plan, store: Store, *, among: Set[str]) -> frozenset[str]:
    """Those of some cells that train, of which an answer or a measurement is not there yet."""
    if not among:
        return frozenset()
    cells = [cell for cell in plan.answering if _trained_for(cell, plan) in among]
    tasks = planning.missing_tasks(planning.generation_tasks(plan, cells), store.keys(Kind.GENERATIONS))
    asked = {_trained_for(task.cell, plan) for task in tasks}
    return frozenset(among & (asked | set(_to_measure(plan, store))))


def trained_keys(plan: Plan) -> Iterator[str]:
    """Keys of everything that the plan trains, checkpoints on the way included."""
    for key, job in plan.jobs.items():
        yield key
        yield from (checkpoint for _, checkpoint in job.checkpoints)


def _trained_for(cell: Cell, plan: Plan) -> str:
    """The key of the adapter that answers for a cell."""
    steering = plan.weights[cell.key].steering
    return steering.of if steering else cell.key


def _to_measure(plan: Plan, store: Store) -> Iterator[str]:
    """Adapters that probes have yet to look at."""
    wanted = [one for probe in probes.of_plan(plan) for one in probe.measurements() if one.adapter]
    there = store.keys(Kind.MEASUREMENTS) if wanted else frozenset[str]()
    return (one.adapter for one in wanted if one.key not in there)
