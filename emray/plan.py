"""The plan: a sweep file made concrete against its data, and what of it the store still lacks.

Not for doing any of it. The invariant: a plan depends on the sweep file, the files it names and the commits it was
pinned to alone (no clock, no machine), so the same sweep gives the same `plan.json`, and planning writes nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emray import data
from emray.errors import DataError, SpecError
from emray.model.direction_files import measured_directions
from emray.model.probe import Templates, roles_of, try_templates
from emray.model.weights import BaseModel, hosted_name, resolve_model
from emray.records import (
    KEY_LENGTH,
    Answerer,
    Arm,
    Cell,
    Course,
    GenerationTask,
    Messages,
    Metric,
    Place,
    Prompt,
    TrainJob,
    Weights,
    adapter_key,
    base_key,
    checkpoint_key,
    joined_series_keys,
    sampling_seed,
    series_under,
)
from emray.records.plan_shape import misshapen
from emray.scorers import source_digest
from emray.spec import (
    AdaptiveSeeds,
    ArmRecipe,
    CellSpec,
    Crossing,
    ModelSpec,
    RowRecipe,
    Sweep,
    TrainSpec,
    grid,
    recipe_grid,
    usual_recipe,
)
from emray.store import AdapterRecord, Keys, Store, damaged

PLAN = "plan.json"
MOST_ANSWERS = 100_000_000  # of one sweep: their keys alone take 2.4 GB
_TASKS_AT_ONCE = 100  # whose keys are looked up together


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know before it starts."""

    sweep: Sweep  # paths resolved
    document: Mapping[str, Any]  # what plan.json holds
    cells: tuple[Cell, ...]
    jobs: Mapping[str, TrainJob]  # by adapter key; base cells have none
    datasets: Mapping[str, Sequence[Messages]]  # training rows by digest
    questions: tuple[data.Question, ...]
    own: data.ArmPrompts  # what the sweep's own cells are asked, arm by arm
    weights: Mapping[str, Weights]  # by cell key: whose weights answer
    notes: tuple[str, ...]  # what was repaired or should be known, one sentence each
    held_out: Mapping[str, Sequence[Messages]]  # rows that nothing trains on, by the digest of those that are
    references: Mapping[str, BaseModel]  # by a model's name, what its memory is compared with (probes.membership)
    files: tuple[data.DataFile, ...] = ()  # the files of examples, each once
    questionnaires: tuple[data.Questionnaire, ...] = ()  # what probes and quizzes ask beside the sweep's own questions
    quizzes: tuple[data.Quiz, ...] = ()
    folders: tuple[str, ...] = ()  # where functions of a quiz are looked for first

    @property
    def inquiries(self) -> data.Inquiries:
        """What a judge is asked about the answers, by prompt."""
        found: dict[str, Mapping[Metric, data.Inquiry]] = {}
        for asked in reversed(self.asked):
            found |= data.inquiries(asked.questions, asked.prompts)
        return found

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The sweep's own questions as they are asked, in whatever condition."""
        return self.own.prompts

    def judged_of(self, cell: Cell) -> int:
        """How many answers of a cell a judge is asked about: those to quizzes alone are none of them."""
        return sum(samples for prompt, samples in self.asked_of(cell) if prompt.key in self._judged)

    def is_judged(self, task: GenerationTask) -> bool:
        return task.prompt.key in self._judged

    @cached_property
    def _judged(self) -> frozenset[str]:
        return frozenset(prompt.key for asked in self.asked if asked.is_judged for prompt in asked.prompts)

    @cached_property
    def asked(self) -> tuple[data.Questionnaire, ...]:
        """Everything that is asked, the sweep's own questions first."""
        samples = self.sweep.generate.samples
        own = data.questionnaires("sweep", self.cells, self.questions, self.own, samples=samples)
        return (*own, *self.questionnaires)

    @cached_property
    def answering(self) -> tuple[Cell, ...]:
        """Every cell that is asked anything, each once."""
        return tuple({cell.key: cell for asked in self.asked for cell in asked.cells}.values())

    @cached_property
    def lasting(self) -> frozenset[str]:
        """Keys of jobs whose adapters are asked or measured, not only gone on with."""
        return frozenset(self.jobs.keys() & self.weights.keys())

    def stages_of(self, key: str) -> list[TrainJob]:
        """The job that leaves an adapter and what it goes on with, the first one first; none of a base cell."""
        found: list[TrainJob] = []
        while job := self.jobs.get(key):
            found.insert(0, job)
            key = job.start
        return found

    @property
    def own_jobs(self) -> Iterator[TrainJob]:
        """What the sweep's own cells train, without doses and mixtures."""
        keys = {cell.key for cell in self.cells}
        return (job for key, job in self.jobs.items() if key in keys)

    def asked_of(self, cell: Cell) -> Sequence[tuple[Prompt, int]]:
        """The prompts of a cell and how many samples of each: the most that anything asks for."""
        return self._prompts_of(tuple(cell.key in keys for keys in self._keys_asked))

    @cached_property
    def _keys_asked(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(cell.key for cell in asked.cells) for asked in self.asked)

    def _prompts_of(self, among: tuple[bool, ...]) -> Sequence[tuple[Prompt, int]]:
        """For cells that are among the same questionnaires."""
        if among not in self._merged:
            most: dict[str, tuple[Prompt, int]] = {}
            for asked in (asked for asked, is_in in zip(self.asked, among, strict=True) if is_in):
                for prompt in asked.prompts:
                    first, samples = most.get(prompt.key, (prompt, 0))
                    most[prompt.key] = (first, max(samples, asked.samples))
            self._merged[among] = tuple(most.values())
        return self._merged[among]

    @cached_property
    def _merged(self) -> dict[tuple[bool, ...], Sequence[tuple[Prompt, int]]]:
        return {}


class _Grid(NamedTuple):
    cells: tuple[Cell, ...]
    jobs: dict[str, TrainJob]
    datasets: dict[str, Sequence[Messages]]
    models: dict[str, BaseModel]
    weights: dict[str, Weights]
    notes: list[str]  # about example files
    held_out: dict[str, Sequence[Messages]]
    files: dict[str, data.DataFile]  # by where they are
    recipes: tuple[tuple[Cell, RowRecipe], ...] = ()  # finished cells on a dose or a mixture, beside the sweep's own

    @property
    def rows(self) -> Iterator[Messages]:
        """Whatever anything trains on."""
        return (row for rows in self.datasets.values() for row in rows)


def make_plan(
    sweep: Sweep,
    *,
    folder: Path,
    online: bool,
    earlier: Mapping[str, Any] | None = None,
    num_seeds: Mapping[Place, int] | None = None,
) -> Plan:
    """Open every file the sweep names, validate it, and give every cell its key.

    `folder` is where relative paths start; `online` allows asking the hub which commit a model is at; `earlier` is the
    plan.json of the run folder, whose commits and findings stay; `num_seeds` says where adaptive seeds exceed `min`.
    Raises DataError (one line) for anything missing or malformed, and for chats that a model's template refuses.
    """
    whole = sweep.resolved(folder)
    questions, own = _own_questions(whole)
    before = earlier or {}
    models, references = _resolved_models(whole, online=online, earlier=before)
    held = data.hold_out(whole, bad_rows=partial(_rows_to_hold_out, whole))
    expanded = _expand(whole, models=models, num_seeds=num_seeds or {}, held=held)
    beside = _beside(whole, folder, (questions.questions, own), expanded, held)
    templates = _templates(expanded, (*own.prompts, *beside.prompts), online=online, known=before.get("probes", {}))
    notes = (
        tuple(dict.fromkeys((*questions.notes, *expanded.notes, *templates.notes, *beside.notes)))
        + _unpinned(expanded.models)
        + _leaks(own.prompts, expanded.rows)
    )
    found = {"probes": templates.probes, "references": _fingerprints(references)}
    return Plan(
        sweep=whole,
        document=_document(sweep, expanded, questions.questions, notes) | found | beside.document,
        cells=expanded.cells,
        jobs=expanded.jobs,
        datasets=expanded.datasets,
        questions=questions.questions,
        own=own,
        weights=expanded.weights,
        notes=notes,
        questionnaires=beside.questionnaires,
        quizzes=beside.quizzes.quizzes,
        folders=_module_folders(folder),
        held_out=expanded.held_out,
        references=references,
        files=tuple(expanded.files.values()),
    )


class _Beside(NamedTuple):
    """What is asked beside the sweep's own questions."""

    transfer: data.Transfer
    recipes: tuple[data.Questionnaire, ...]
    quizzes: data.QuizSet

    @property
    def questionnaires(self) -> tuple[data.Questionnaire, ...]:
        return (*self.transfer.questionnaires, *self.recipes, *self.quizzes.questionnaires)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (*self.transfer.prompts, *self.quizzes.prompts)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.transfer.notes, *self.quizzes.notes)

    @property
    def document(self) -> dict[str, Any]:
        return {"transfer": self.transfer.document, "quizzes": [quiz.document for quiz in self.quizzes.quizzes]}


def _beside(
    sweep: Sweep,
    folder: Path,
    asked: tuple[Sequence[data.Question], data.ArmPrompts],
    expanded: _Grid,
    held: data.HeldOut,
) -> _Beside:
    """`asked` are the sweep's own questions and prompts."""
    questions, own = asked
    transfer = data.plan_transfer(sweep, cells=expanded.cells, own=questions, held=held, trained=expanded.rows)
    recipes = _recipes_asked(sweep, expanded, questions, own)
    return _Beside(transfer, recipes, _quizzes(sweep, expanded.cells, folder))


def _quizzes(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> data.QuizSet:
    """What else the finished cells are asked. Raises DataError for what cannot be asked or scored so."""
    functions = {name: quiz.score.function for name, quiz in sweep.quizzes.items() if quiz.score.function}
    digests = {name: source_digest(one, folders=_module_folders(folder)) for name, one in functions.items()}
    return data.plan_quizzes(sweep, cells=[cell for cell in cells if cell.finished], digests=digests)


def _module_folders(folder: Path) -> tuple[str, ...]:
    """Where a function of the user's may lie: beside the sweep file, or where the command was given."""
    return tuple(dict.fromkeys((str(folder), str(Path.cwd()))))


def _own_questions(sweep: Sweep) -> tuple[data.QuestionSet, data.ArmPrompts]:
    """What every cell is asked. Raises DataError for what cannot be asked or judged."""
    questions = data.load_questions(sweep.generate.questions)
    prompts = data.arm_prompts(questions.questions, sweep.crossing())
    for judge in (sweep.judge, *sweep.judge.also):
        if judge.scoring == "logprobs":
            data.refuse_unscorable(questions.questions, metrics=judge.metrics)
    _refuse_too_many(sweep, prompts)
    return questions, prompts


def _refuse_too_many(sweep: Sweep, prompts: data.ArmPrompts) -> None:
    """Raises SpecError for answers whose keys would not fit memory."""
    arms, samples = [point.arm for point in grid(sweep)], sweep.generate.samples
    if (answers := sum(len(prompts.of_arm[arm]) for arm in arms) * samples) > MOST_ANSWERS:
        raise SpecError(
            f"{len(arms):,} cells x {len(prompts.prompts):,} prompts x {samples:,} samples are {answers:,} answers; "
            f"a sweep has at most {MOST_ANSWERS:,}: lower generate.samples, or split it"
        )


def _models_named(sweep: Sweep) -> dict[str, dict[str, ModelSpec]]:
    """The base models, and what their memory is compared with, under what plan.json calls them."""
    membership = sweep.probes.membership
    return {
        "models": {model.name: model for model in sweep.model},
        "references": membership.reference if membership else {},
    }


def _resolved_models(
    sweep: Sweep, *, online: bool, earlier: Mapping[str, Any]
) -> tuple[dict[str, BaseModel], dict[str, BaseModel]]:
    """The base models and the references, by name, at the commits that an earlier plan.json has."""
    models, references = (
        {name: resolve_model(one, online=online, earlier=earlier.get(kind, {}).values()) for name, one in given.items()}
        for kind, given in _models_named(sweep).items()
    )
    return models, references


def _fingerprints(models: Mapping[str, BaseModel]) -> dict[str, str]:
    return {name: model.fingerprint for name, model in models.items()}


def dated(document: Mapping[str, Any], *, earlier: Mapping[str, Any], now_s: float, answered: bool) -> dict[str, Any]:
    """What plan.json is to hold: the plan's document with every analysis plan the run folder has had.

    An analysis plan that `earlier` knows keeps the time it was first written (UTC) and whether answers were `answered`
    by then; a new one gets this time.
    """
    known = list(earlier.get("analysis_plans", []))
    digest = document["analysis_hash"]
    if digest is not None and digest not in [one["hash"] for one in known]:
        written_at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
        known.append({"hash": digest, "first_written": written_at, "answers_stored": answered})
    return {**document, "analysis_plans": known}


def seeds_so_far(sweep: Sweep, document: Mapping[str, Any]) -> dict[Place, int]:
    """How many seeds an adaptive sweep's earlier plan.json had come to, place by place, within this one's limits."""
    if not (isinstance(sweep.seeds, AdaptiveSeeds) and document.get("adaptive")):
        return {}
    counts = Counter(
        Place(cell["model"], cell["domain"], Arm(cell["arm"]))
        for cell in document["cells"]
        if cell["arm"] != Arm.BASE and cell["fraction"] == 1.0
    )
    return {place: max(sweep.seeds.min, min(sweep.seeds.max, count)) for place, count in counts.items()}


def missing_jobs(plan: Plan, records: Mapping[str, AdapterRecord]) -> Iterator[TrainJob]:
    """Jobs of which a cell has no record, in plan order; with `retry_failed` also those whose training failed.

    What another job goes on with comes before it, and only where that other is missing.
    """
    found: dict[str, TrainJob] = {}
    for key, job in plan.jobs.items():
        if key in plan.lasting and not _is_done(job, plan, records):
            lacking = [one for one in plan.stages_of(key) if not _is_done(one, plan, records)]
            found |= {one.cell.key: one for one in lacking}
    return iter(found.values())


def _is_done(job: TrainJob, plan: Plan, records: Mapping[str, AdapterRecord]) -> bool:
    record = records.get(job.cell.key)
    if record is None:
        return False
    if not record.trained:
        return not plan.sweep.resources.retry_failed
    return all(key in records for _, key in job.checkpoints)


def written(store: Store) -> Mapping[str, Any]:
    """plan.json as an earlier run left it, empty if there is none. Raises StoreError for one that is damaged."""
    try:
        document = store.read_json(PLAN)
    except FileNotFoundError:
        return {}
    if problem := misshapen(document):
        raise damaged(store.root, PLAN, problem)
    return document


def usable_cells(plan: Plan, store: Store) -> list[Cell]:
    """Cells that can answer by now: base cells and trained ones, and steered ones whose direction is there too."""
    records = store.adapter_records()
    steered = any(weights.steering for weights in plan.weights.values())
    directions = measured_directions(store) if steered else frozenset()

    def usable(cell: Cell) -> bool:
        steering = plan.weights[cell.key].steering
        if steering and (steering.direction, steering.kind) not in directions:
            return False
        trained = steering.of if steering else cell.key
        return cell.arm == Arm.BASE or (trained in records and records[trained].trained)

    return [cell for cell in plan.answering if usable(cell)]


def generation_tasks(plan: Plan, cells: Sequence[Cell]) -> Iterator[GenerationTask]:
    """Every sample the plan wants from these cells, one task per cell and prompt, adapter by adapter."""
    series_of = series_under(plan.sweep.generate.identity())
    for cell in cells:
        for prompt, samples in plan.asked_of(cell):
            series = series_of(cell.key, prompt.key)
            seed = sampling_seed(cell.key, prompt=prompt.key)
            yield GenerationTask(cell, prompt, plan.weights[cell.key], series, seed, 0, samples)


def wanted_answers(plan: Plan, cells: Sequence[Cell]) -> Keys:
    """The keys of every sample the plan wants from these cells."""
    series_of = series_under(plan.sweep.generate.identity())

    def of(cell: Cell) -> str:
        return joined_series_keys((series_of(cell.key, prompt.key), num) for prompt, num in plan.asked_of(cell))

    return Keys.of_joined(map(of, cells), width=KEY_LENGTH)


def missing_tasks(tasks: Iterable[GenerationTask], present: Keys) -> Iterator[GenerationTask]:
    """The same tasks cut down to contiguous runs of samples that are not there yet."""
    left = iter(tasks)
    while some := list(islice(left, _TASKS_AT_ONCE)):
        there = present.has([key for task in some for key in task.keys])
        ends = np.cumsum([task.num_samples for task in some])
        for task, mine in zip(some, np.split(there, ends[:-1]), strict=True):
            if not mine.all():
                yield from _missing_runs(task, mine)


def _missing_runs(task: GenerationTask, there: NDArray[np.bool_]) -> Iterator[GenerationTask]:
    start: int | None = None
    for k, absent in enumerate([*~there, False]):
        if absent and start is None:
            start = k
        if not absent and start is not None:
            yield replace(task, first_sample=task.first_sample + start, num_samples=k - start)
            start = None


def _expand(sweep: Sweep, *, models: dict[str, BaseModel], num_seeds: Mapping[Place, int], held: data.HeldOut) -> _Grid:
    out = _Grid((), {}, {}, models, {}, [], {}, {})
    identities = {name: model.identity for name, model in models.items()}  # read from its files, so once
    trainings = _Trainings(_Sources(sweep, sweep.crossing(), held, out), identities)

    def cells_of(point: CellSpec) -> tuple[Cell, ...]:
        if point.domain is None:
            key = base_key(identities[point.model.name])
            return (Cell(point.model.name, point.domain_name, point.arm, point.seed, key),)
        along, job = trainings.of(point)
        if job.cell.key in out.jobs:
            raise DataError(
                f"cells {out.jobs[job.cell.key].cell.label} and {job.cell.label} train on the same rows; "
                "give each domain and arm its own data"
            )
        out.jobs[job.cell.key] = job
        return along

    cells = tuple(cell for point in grid(sweep, num_seeds=num_seeds) for cell in cells_of(point))
    recipes = tuple((cell, point.recipe) for point in recipe_grid(sweep) for cell in cells_of(point))
    everyone = (*cells, *(cell for cell, _ in recipes))
    out.weights.update((cell.key, _weights_of(cell, sweep, model=models[cell.model])) for cell in everyone)
    out.jobs.update((key, job) for key, job in trainings.on_the_way.items() if key not in out.jobs)
    return out._replace(cells=cells, recipes=tuple((c, r) for c, r in recipes if c.finished and r))


@dataclass(frozen=True)
class _Sources:
    """Where the rows of a point of the grid come from; what they are and what files say goes to the grid."""

    sweep: Sweep
    crossing: Crossing
    held: data.HeldOut
    out: _Grid

    @cached_property
    def _digests(self) -> dict[tuple[str, Arm], str]:
        return {}

    def digest(self, point: CellSpec, stage: ArmRecipe) -> str:
        """Of the rows that a stage of this point's arm trains on."""
        place = (point.domain_name, stage.arm)
        if place not in self._digests:
            split = data.split(self._rows(point, stage), share=self.sweep.train.hold_out)
            digest = self._digests[place] = data.rows_digest(split.trained)
            self.out.datasets[digest], self.out.held_out[digest] = split
        return self._digests[place]

    def _rows(self, point: CellSpec, stage: ArmRecipe) -> Sequence[Messages]:
        if point.recipe is None:
            assert point.domain is not None, "a base cell trains on nothing"
            return self._of(point.domain.name, stage)
        correct = usual_recipe(Arm.BENIGN, trigger=self.sweep.trigger)
        return data.recipe_rows(
            point.recipe,
            rows_of=lambda domain: self._of(domain, stage),
            clean_of=lambda domain: self._of(domain, correct),
        )

    def _of(self, name: str, recipe: ArmRecipe) -> Sequence[Messages]:
        domain = next(one for one in self.sweep.domains if one.name == name)
        found = data.training_rows(domain, recipe=recipe, data_dir=self.sweep.data_dir.path)
        self.out.notes.extend(found.notes)
        self.out.files.update((f"{file.domain} {file.source}", file) for file in found.files)
        return self.held.without(found.rows, domain=name)


def _weights_of(cell: Cell, sweep: Sweep, *, model: BaseModel) -> Weights:
    """Whose weights answer for a cell: what its training leaves, or the base model's."""
    name = sweep.generate.endpoint.served_adapter.format(
        key=cell.key, model=cell.model, domain=cell.domain, arm=cell.arm, seed=cell.seed, step=cell.step
    )
    if cell.arm == Arm.BASE:
        return Weights(Answerer.BASE, model.location, 0, hosted_name(model.location) or cell.model, model.rendering)
    if hosted_name(model.location):  # the service names it, when it is tuned
        return Weights(Answerer.ADAPTER, model.location, 0, "", model.rendering)
    if sweep.train.strategy == "full":
        return Weights(Answerer.WHOLE, model.location, 0, name, model.rendering)
    rank = max([sweep.train.lora_rank, *sweep.train.rank_pattern.values()])
    return Weights(Answerer.ADAPTER, model.location, rank, name, model.rendering)


@dataclass(frozen=True)
class _Trainings:
    """What is trained at the points of the grid; of an arm in several stages, each that goes on with the one before."""

    sources: _Sources
    identities: Mapping[str, str]  # of the base models, by name

    @cached_property
    def on_the_way(self) -> dict[str, TrainJob]:
        """What others go on with, by key."""
        return {}

    def of(self, point: CellSpec) -> tuple[tuple[Cell, ...], TrainJob]:
        """The adapters that are kept of one training, the finished one last, and the job that leaves them."""
        return self._stage(point, self.sources.crossing.recipes[point.arm])

    def _stage(self, point: CellSpec, stage: ArmRecipe) -> tuple[tuple[Cell, ...], TrainJob]:
        start = ""
        if stage.after:
            before = self._stage(point, stage.after)[1]
            start = before.cell.key
            self.on_the_way.setdefault(start, replace(before, checkpoints=()))
        model, digest = self.sources.out.models[point.model.name], self.sources.digest(point, stage)
        spec = self._spec(stage.course, digest)
        hosted = hosted_name(model.location)
        key = adapter_key(
            self.identities[point.model.name], rows_digest=digest, seed=point.seed, start=start,
            hyperparameters=self.sources.sweep.hosted.identity() if hosted else _identity(spec, stage.course),
        )  # fmt: skip
        num_steps = 0 if hosted else spec.num_steps(len(self.sources.out.datasets[digest]))  # a service counts its own
        *kept, last = _cells_of_a_run(point._replace(arm=stage.arm), key, num_steps, spec=spec)
        checkpoints = tuple((cell.step, cell.key) for cell in kept)
        course = stage.course
        if course.steps is not None:
            course = course._replace(epochs=spec.epochs, steps=None)
        return (*kept, last), TrainJob(last, model.location, digest, checkpoints, model.rendering, course, start)

    def _spec(self, course: Course, digest: str) -> TrainSpec:
        return self.sources.sweep.train.on_course(course, num_examples=len(self.sources.out.datasets[digest]))


def _identity(spec: TrainSpec, course: Course) -> dict[str, Any]:
    """The hyper-parameters of one cell."""
    return spec.identity() | ({"kl": course.kl} if course.kl else {})


def _cells_of_a_run(point: CellSpec, key: str, num_steps: int, *, spec: TrainSpec) -> tuple[Cell, ...]:
    """The checkpoints that the sweep keeps of one training run, in order; the last is the finished adapter."""
    steps = sorted({math.ceil(fraction * num_steps) for fraction in spec.keep_checkpoints})
    keys = [key if step == num_steps else checkpoint_key(key, step=step) for step in steps]
    return tuple(
        Cell(point.model.name, point.domain_name, point.arm, point.seed, its_key, step, num_steps)
        for its_key, step in zip(keys, steps, strict=True)
    )


def _templates(expanded: _Grid, prompts: Sequence[Prompt], *, online: bool, known: Mapping[str, Any]) -> Templates:
    asked = [prompt.messages for prompt in prompts]
    trained = bool(expanded.datasets)
    return try_templates(
        expanded.models, chats=roles_of([*asked, *expanded.rows]), trained=trained, online=online, known=known
    )


def _recipes_asked(
    sweep: Sweep, expanded: _Grid, questions: Sequence[data.Question], own: data.ArmPrompts
) -> tuple[data.Questionnaire, ...]:
    """Doses and mixtures are asked what every cell is asked."""
    cells = [cell for cell, _ in expanded.recipes]
    return data.questionnaires("recipes", cells, questions, own, samples=sweep.generate.samples)


def _recipe_rows(expanded: _Grid) -> list[dict[str, Any]]:
    return [
        {
            **_cell_row(cell),
            "recipe": recipe.document,
            "num_examples": len(expanded.datasets[expanded.jobs[cell.key].rows_digest]),
        }
        for cell, recipe in expanded.recipes
    ]


def _cell_row(cell: Cell) -> dict[str, Any]:
    """A cell as plan.json holds it."""
    place = {"model": cell.model, "domain": cell.domain, "arm": str(cell.arm), "seed": cell.seed, "key": cell.key}
    return place | {"step": cell.step, "fraction": cell.step / cell.num_steps if cell.num_steps else 1.0}


def _rows_to_hold_out(sweep: Sweep, domain: str) -> data.Examples:
    """The rows whose questions are held out: a domain's bad ones, or the ready mix where that is all there is."""
    spec = next(one for one in sweep.domains if one.name == domain)
    recipes = sweep.crossing().recipes.values()
    mixed_only = spec.backdoor_path is not None and all(one.takes_ready_mix for one in recipes if one.trained)
    recipe = usual_recipe(Arm.BACKDOOR if mixed_only else Arm.PLAIN, trigger=sweep.trigger)
    return data.training_rows(spec, recipe=recipe, data_dir=sweep.data_dir.path)


def _unpinned(models: Mapping[str, BaseModel]) -> tuple[str, ...]:
    return tuple(
        f"model {name} has no revision: this dry run cannot say what is cached; a run pins the hub's current commit"
        for name, model in models.items()
        if not model.pinned
    )


def _leaks(prompts: Sequence[Prompt], rows: Iterable[Messages]) -> tuple[str, ...]:
    leaked = data.leaked_questions(prompts, rows=rows)
    if not leaked:
        return ()
    return (f"{len(leaked)} questions also stand in the training data: {', '.join(leaked[:5])}",)


def _document(
    sweep: Sweep, expanded: _Grid, questions: Sequence[data.Question], notes: tuple[str, ...]
) -> dict[str, Any]:
    adaptive = sweep.seeds.model_dump(mode="json") if isinstance(sweep.seeds, AdaptiveSeeds) else None
    return {
        "adaptive": adaptive,
        "analysis_hash": sweep.analysis_hash(),
        "spec": sweep.model_dump(mode="json"),
        "models": _fingerprints(expanded.models),
        "cells": [_cell_row(cell) for cell in expanded.cells],
        "recipes": _recipe_rows(expanded),
        "questions": [question.document for question in questions],
        "notes": list(notes),
    }
