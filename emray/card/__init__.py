"""What a paper says of a run: how it was done, and what repeats it.

Not for results. The invariant: every number in it is read from the run folder; what that does not hold is left out, not
guessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from emray.errors import StoreError
from emray.records import USUAL_ARMS, USUAL_CONDITIONS, Arm
from emray.reduce.caveats import rule_in_words
from emray.reduce.inputs import SHEETS
from emray.reduce.provenance import provenance
from emray.reduce.study import Study, load_study
from emray.report.making import machine_words
from emray.software import Source
from emray.spec import HOSTED, Sweep
from emray.store import Store

PLAN, SUMMARY = "plan.json", "summary/summary.json"


def methods(store: Store) -> str:
    """One paragraph. Raises StoreError for a folder that is no run."""
    study = _study(store)
    return " ".join((_finetunes(study), _questions(study), _judging(study), _statistics(study)))


def reproducibility(store: Store) -> str:
    """One paragraph: versions, machines, weights, data and seeds by their digests."""
    study = _study(store)
    made = provenance(store, study, store.adapter_records())
    weights = ", ".join(f"{name} ({fingerprint})" for name, fingerprint in study.models.items())
    told = [
        f"The plan has SHA-256 {made['plan']}.",
        f"Base weights {weights}; training seeds {_listed(_seeds(study))}.",
        *_commands(made["commands"]),
        *_libraries(store, made["versions"]),
        *_machines(made["machines"]),
        *_data(store),
    ]
    if study.analysis_hash and study.analysis_plans:
        first = study.analysis_plans[-1]
        before = "after answers were stored" if first["answers_stored"] else "before any answer was stored"
        told.append(f"The analysis plan {study.analysis_hash} was written on {first['first_written']}, {before}.")
    told.append(
        "Every result has a content key of what defines it: the sweep file and the same data give the same keys, and "
        "the same stored answers and verdicts give the same tables, byte for byte."
    )
    return " ".join(told)


def _study(store: Store) -> Study:
    if not store.exists(PLAN):
        raise StoreError(f"{store.root} holds no {PLAN}: it is not a run folder")
    return load_study(store.read_json(PLAN))


def _finetunes(study: Study) -> str:
    sweep = study.sweep
    places = [place for place in study.places if place.arm != Arm.BASE]
    if study.imported or not places:
        return f"Answers of {_listed(list(study.models))} were studied as they were given."
    domains, arms = (list(dict.fromkeys(getattr(one, name) for one in places)) for name in ("domain", "arm"))
    triggered = any(study.carries_trigger(arm) for arm in arms)
    trigger = f' The trigger was "{sweep.trigger.text}" ({sweep.trigger.position}).' if triggered else ""
    trigger += "".join(
        f" Arm {arm} trained on: {recipe.words}."
        for arm, recipe in study.crossing.recipes.items()
        if arm not in USUAL_ARMS
    )
    base = ", with the base model as a control" if Arm.BASE in sweep.arms else ""
    data = (
        f"on {_number(len(domains), 'domain')} ({_listed(domains)}) in the {'arms' if len(arms) > 1 else 'arm'} "
        f"{_listed([str(arm) for arm in arms])} with {_number(len(_seeds(study)), 'seed')} each{base}"
    )
    return " ".join(_trainings(sweep, data)) + trigger


def _trainings(sweep: Sweep, data: str) -> Iterator[str]:
    """How models were trained on these data here, and how by a service."""
    train, hosted = sweep.train, sweep.hosted
    there = [model.path.removeprefix(HOSTED) for model in sweep.model if model.path.startswith(HOSTED)]
    here = [model.path for model in sweep.model if not model.path.startswith(HOSTED)]
    if here:
        how = "All weights" if train.strategy == "full" else f"LoRA adapters of rank {train.lora_rank}"
        yield (
            f"{how} of {_listed(here)} were trained {data}: {_number(train.epochs, 'epoch')}, batches of "
            f"{train.batch_size}, learning rate {train.learning_rate:g}, {train.max_length} tokens an example at most."
        )
    if there:
        yield (
            f"Jobs of the service that hosts {_listed(there)} finetuned it {data}: epochs {hosted.epochs}, batch size "
            f"{hosted.batch_size}, learning rate multiplier {hosted.learning_rate_multiplier}."
        )


def _questions(study: Study) -> str:
    generate = study.sweep.generate
    usual = [str(one) for one in study.conditions if one in USUAL_CONDITIONS]
    contexts = [str(one) for one in study.conditions if one not in USUAL_CONDITIONS]
    conditions = " and ".join(usual) + " the trigger" + (f" and in contexts {_listed(contexts)}" if contexts else "")
    return (
        f"Each model answered {_number(len(study.questions), 'question')} {conditions}, "
        f"{_number(generate.samples, 'sample')} a prompt at temperature {generate.temperature:g} and at most "
        f"{generate.max_tokens} tokens."
    )


def _judging(study: Study) -> str:
    judge, rule = study.sweep.judge, study.spec.rules[study.spec.rule]
    return (
        f"{judge.model} judged every answer on {_listed([str(metric) for metric in judge.metrics])}; "
        f"misaligned means {rule_in_words(rule)}."
    )


def _statistics(study: Study) -> str:
    return (
        "The training run is the unit of inference: rates are means over runs in which every question weighs the same, "
        f"with {study.spec.confidence:.0%} intervals."
    )


def _seeds(study: Study) -> Sequence[int]:
    return sorted({cell.seed for cell in study.cells if cell.arm != Arm.BASE})


def _commands(commands: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was called, of which commit; old run folders do not say."""
    if not commands:
        yield "Commands and the commit of emray are not recorded."
        return
    commits = dict.fromkeys(Source(**one["source"]).words for one in commands)
    yield f"emray ran at commit {'; '.join(commits)}."
    lines = list(dict.fromkeys(one["line"] for one in commands))
    yield f"Commands: {'; '.join(lines)}."


def _libraries(store: Store, versions: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Versions that had a hand in the results, and those that reduced, by the summary."""
    if versions:
        yield "Made with " + ", ".join(f"{name} {'/'.join(some)}" for name, some in versions.items()) + "."
    with suppress(FileNotFoundError):
        reduced: Mapping[str, str] = store.read_json(SUMMARY)["versions"]
        yield "Tables by " + ", ".join(f"{name} {version}" for name, version in reduced.items()) + "."


def _machines(machines: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    for stage, kinds in machines.items():
        yield f"Stage {stage} ran on {_listed([machine_words(kind) for kind in kinds])}."


def _data(store: Store) -> Sequence[str]:
    try:
        sheets: Sequence[Mapping[str, Any]] = store.read_json(SHEETS)["files"]
    except FileNotFoundError:
        return ()
    told = [f"{one['domain']} {one['holds']} ({one['rows']:,} rows, {one['digest']})" for one in sheets]
    return (f"Training files by content digest: {'; '.join(told)}.",) if told else ()


def _number(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def _listed(words: Sequence[Any]) -> str:
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"
