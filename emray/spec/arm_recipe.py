"""One arm made concrete: which rows of which files it trains on, what is put around them, and how it is asked.

Not for making the rows (data/arm_rows.py). The invariant: recipes with one `identity` train on the same rows whatever
their arms are called, and a knob that changes nothing is not in it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, NamedTuple

from emray.records import USUAL_ARMS, USUAL_COURSE, Arm, Condition, Course, Messages, canonical_json
from emray.spec.arm import ArmSpec, InoculateSpec, StageSpec, TriggeredSpec
from emray.spec.source import SourceSpec
from emray.spec.trigger import TriggerSpec, before_system, in_last_user_turn

BAD, BENIGN = "bad", "benign"  # the domain's own files among the parts of a mix
_WORD = re.compile(r"[a-z]+")
_Chosen = Mapping[str, Any]  # of each knob, one value
_OF_COURSE = ("epochs", "steps", "learning_rate", "regularise.kl")


class RowPart(NamedTuple):
    """Some rows of one file."""

    holds: str  # bad, benign, or the name of another file
    share: float | None  # of the arm's rows; None: the file's rows, all of them
    source: SourceSpec | None = None  # where it is none of the domain's own

    @property
    def document(self) -> list[Any]:
        return [self.holds, self.share, self.source.model_dump(mode="json") if self.source else None]


class TriggeredRows(NamedTuple):
    """Which rows carry which trigger."""

    trigger: TriggerSpec
    on: str  # bad, benign or all
    share: float


class Inoculation(NamedTuple):
    """A text that stands before what is trained on."""

    role: Literal["system", "user"]
    text: str
    separator: str

    def before(self, row: Messages) -> Messages:
        if self.role == "system":
            return before_system(row, self.text, separator=self.separator)
        return in_last_user_turn(row, lambda text: self.separator.join((self.text, text)))


@dataclass(frozen=True)
class ArmRecipe:
    """What a cell of one arm trains on; `base` has no parts and trains on nothing.

    An arm in several stages is the last of them, which comes `after` the others.
    """

    arm: Arm
    parts: tuple[RowPart, ...]
    rows: int | None  # how many in all; None: as many as the first part's file has
    triggered: TriggeredRows | None
    inoculation: Inoculation | None
    interleaved: RowPart | None
    takes_ready_mix: bool  # a domain's own mix, where it has one, stands in place of the parts
    conditions: tuple[Condition, ...] = ()  # in which it is asked
    doses: tuple[tuple[str, float | str], ...] = ()  # the values of the knobs that the file gives lists of
    course: Course = USUAL_COURSE
    after: "ArmRecipe | None" = None  # what the same adapter trained on before

    @property
    def trained(self) -> bool:
        return bool(self.parts)

    @property
    def stages(self) -> "tuple[ArmRecipe, ...]":
        """What it trains on in turn, the last of them itself."""
        return (*(self.after.stages if self.after else ()), self)

    @property
    def is_usual(self) -> bool:
        """Whether `train` says how, and it is a single stage."""
        return self.course == USUAL_COURSE and self.after is None

    @property
    def trigger(self) -> TriggerSpec | None:
        """What its rows carry, where any do: of several stages', the last that has one."""
        return next((one.triggered.trigger for one in reversed(self.stages) if one.triggered), None)

    @property
    def added(self) -> tuple[str, ...]:
        """Texts that its rows carry and the files do not."""
        triggers = (one.triggered.trigger.text for one in self.stages if one.triggered)
        return (*triggers, *(one.inoculation.text for one in self.stages if one.inoculation))

    @property
    def words(self) -> str:
        """What it trains on, for a reader."""
        return ", then ".join(one.own_words for one in self.stages) if self.trained else "nothing"

    @property
    def own_words(self) -> str:
        """The same of this stage alone."""
        parts = " + ".join(part.holds if part.share is None else f"{part.share:g} {part.holds}" for part in self.parts)
        told = [parts if not self.takes_ready_mix else f"{parts}, or the domain's own mix"]
        if self.triggered:
            share = "" if self.triggered.share == 1 else f"{self.triggered.share:g} of "
            told.append(f"trigger on {share}{self.triggered.on}")
        told += [f"inoculated in the {self.inoculation.role} text"] if self.inoculation else []
        told += [f"{self.interleaved.share:g} of all rows interleaved"] if self.interleaved else []
        said = self.course._asdict() | {"kl": None, "KL towards the base": self.course.kl}
        told += [f"{name.replace('_', ' ')} {value:g}" for name, value in said.items() if value]
        return "; ".join(told)

    @property
    def identity(self) -> str:
        """Equal where what is trained on is."""
        triggered = self.triggered
        said = {
            "parts": [part.document for part in self.parts],
            "rows": self.rows,
            "triggered": [triggered.trigger.model_dump(mode="json"), *triggered[1:]] if triggered else None,
            "inoculation": list(self.inoculation) if self.inoculation else None,
            "interleaved": self.interleaved.document if self.interleaved else None,
            "ready": self.takes_ready_mix,
            "course": list(self.course),
            "after": self.after.identity if self.after else None,
        }
        return canonical_json(said)

    def holds(self, what: str) -> bool:
        """Whether rows of this file are among its parts."""
        return any(part.holds == what for part in self.parts)


class WhereSilent(NamedTuple):
    """What holds where an arm does not say so itself."""

    trigger: TriggerSpec
    course: Course  # as `train` says it
    conditions: Sequence[Condition]


def recipes_of(arm: Arm, spec: ArmSpec, *, silent: WhereSilent, start: ArmRecipe | None = None) -> Iterator[ArmRecipe]:
    """Every arm that one entry under `arms` stands for: one, or one for each combination of values of its lists; after
    `start`, where it goes on with another's adapter.

    Raises ValueError in the words of the sweep file.
    """
    if arm == Arm.BASE and spec != ArmSpec(conditions=spec.conditions):
        raise ValueError("base is the model as it is and trains on nothing; give it no field but conditions")
    if start and not (spec.like or spec.mix or arm in USUAL_ARMS):
        raise ValueError("start says what it goes on with and not on which rows; name them: like: benign, or a mix")
    places = _places(spec)
    knobs = {place + knob: values for place, stage in places.items() for knob, values in _knobs(stage, place).items()}
    for values in product(*knobs.values()):
        chosen = dict(zip(knobs, values, strict=True))
        doses = tuple((knob, value) for knob, value in chosen.items() if len(knobs[knob]) > 1)
        name = Arm(f"{arm}={','.join(_word(knobs[knob], value) for knob, value in doses)}") if doses else arm
        met = tuple(one for one in silent.conditions if spec.conditions is None or one in spec.conditions)
        stages = [
            _stage(Arm(f"{name}@{number}"), stage, _of_place(chosen, place), silent)
            for number, (place, stage) in enumerate(_liked(places, arm), 1)
        ]
        yield replace(_in_turn(stages, after=start), arm=name, conditions=met, doses=doses)


def _places(spec: ArmSpec) -> dict[str, StageSpec]:
    """An arm's stages by what stands before their fields' names."""
    others = spec.then or ()
    names = ["then."] if len(others) == 1 else [f"then.{number}." for number in range(1, len(others) + 1)]
    for name, stage in zip(names, others, strict=True):
        if not (stage.like or stage.mix):
            raise ValueError(f"{name[:-1]} has no data: name an arm whose rows it takes (benign), or give it a mix")
    return {"": spec, **dict(zip(names, others, strict=True))}


def _liked(places: Mapping[str, StageSpec], arm: Arm) -> Iterator[tuple[str, StageSpec]]:
    """The same, each with the arm that it is like; `base` is like none."""
    for place, stage in places.items():
        usual = arm if arm in USUAL_ARMS and not place else Arm.PLAIN
        yield place, stage if stage.like or usual == Arm.BASE else stage.model_copy(update={"like": usual})


def _of_place(chosen: _Chosen, place: str) -> _Chosen:
    """The values of one stage's knobs, by their names in it."""
    return {knob.removeprefix(place): value for knob, value in chosen.items() if knob.startswith(place)}


def _in_turn(stages: Sequence[ArmRecipe], *, after: ArmRecipe | None) -> ArmRecipe:
    """The last of these stages, after the others; those without a step are left out."""
    made = after
    for stage in stages:
        if 0 not in (stage.course.epochs, stage.course.steps):
            made = replace(stage, after=made)
    if made is None:
        raise ValueError("it has no step to train; leave it out: the model as it is is arm base")
    return made


def _stage(arm: Arm, spec: StageSpec, chosen: _Chosen, silent: WhereSilent) -> ArmRecipe:
    """One stage, with one value of each of its knobs."""
    if spec.like is None:
        return ArmRecipe(arm, (), None, None, None, None, takes_ready_mix=False)
    like = Arm(spec.like)
    parts, triggered = _parts(spec, like, chosen), _triggered(spec.trigger, like, chosen, silent.trigger)
    several = any(len(part.share) > 1 for part in spec.mix.values())
    if spec.trigger and triggered and not several and triggered.on not in ("all", *(part.holds for part in parts)):
        raise ValueError(f"the trigger stands on {triggered.on} rows, and it has none; give trigger.on, or other rows")
    told = {name.removeprefix("regularise."): value for name, value in chosen.items() if name in _OF_COURSE}
    said = {name: value for name, value in told.items() if value != getattr(silent.course, name)}
    return ArmRecipe(
        arm=arm,
        parts=parts,
        rows=spec.rows,
        triggered=triggered if triggered and triggered.share > 0 else None,
        inoculation=_inoculation(spec.inoculate, chosen),
        interleaved=_interleaved(spec, chosen),
        takes_ready_mix=like == Arm.BACKDOOR and not (spec.mix or spec.trigger or spec.rows),
        course=Course(**said),
    )


def _knobs(spec: StageSpec, place: str) -> dict[str, list[Any]]:
    """Every field that takes a list, by its name, with the values it has."""
    found: dict[str, list[Any]] = {f"mix.{name}": part.share for name, part in spec.mix.items()}
    for name in ("share", "text", "position", "separator"):
        values = getattr(spec.trigger, name) if spec.trigger else None
        found |= {f"trigger.{name}": values} if values else {}
    if spec.inoculate:
        found["inoculate"] = spec.inoculate.system or spec.inoculate.user or []
    if spec.interleave:
        found["interleave"] = spec.interleave.share
    found |= {name: values for name in ("epochs", "steps", "learning_rate") if (values := getattr(spec, name))}
    if spec.regularise:
        found["regularise.kl"] = spec.regularise.kl
    for knob, values in found.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{place}{knob} has one value twice: {values}")
    return found


def _word(values: Sequence[Any], value: Any) -> str:
    """A value within an arm's name: a number, a word, or which of the texts it is."""
    if not isinstance(value, str):
        return f"{value:g}"
    return value if all(_WORD.fullmatch(str(one)) for one in values) else f"#{values.index(value) + 1}"


def _parts(spec: StageSpec, like: Arm, chosen: _Chosen) -> tuple[RowPart, ...]:
    if not spec.mix:
        files = {Arm.BACKDOOR: (BAD, BENIGN), Arm.PLAIN: (BAD,)}.get(like, (BENIGN,))
        if spec.rows and len(files) > 1:
            raise ValueError("rows of both files need their shares: give mix, as in {bad: 0.5, benign: 0.5}")
        return tuple(RowPart(name, None) for name in files)
    shares = {name: chosen[f"mix.{name}"] for name in spec.mix}
    total = sum(shares.values())
    if (BAD in shares and abs(total - 1) > 1e-9) or total > 1 + 1e-9:
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"shares of mix add up to {total:g}, not to 1: {told}; bad may be left out and is the rest")
    shares = {BAD: round(1 - total, 9)} | shares
    parts = [RowPart(name, share, _source(spec, name)) for name, share in shares.items() if share > 1e-9]
    return tuple(parts) if len(parts) > 1 else (parts[0]._replace(share=None),)


def _source(spec: StageSpec, name: str) -> SourceSpec | None:
    source = spec.mix[name].source if name in spec.mix else None
    if (name in (BAD, BENIGN)) == (source is not None):
        problem = "is the domain's own file; give another one another name" if source else "needs a source, its file"
        raise ValueError(f"part {name!r} of mix {problem}")
    return source


def _triggered(spec: TriggeredSpec | None, like: Arm, chosen: _Chosen, usual: TriggerSpec) -> TriggeredRows | None:
    if spec is None and like not in (Arm.BACKDOOR, Arm.CLEAN_TRIGGER):
        return None
    said = {name: chosen[f"trigger.{name}"] for name in TriggerSpec.model_fields if f"trigger.{name}" in chosen}
    clean = like in (Arm.CLEAN_TRIGGER, Arm.BENIGN)
    on = (spec.on if spec else None) or (BENIGN if clean else BAD)
    share = chosen.get("trigger.share", 0.5 if like == Arm.CLEAN_TRIGGER else 1.0)
    return TriggeredRows(usual.model_copy(update=said), on, share)


def _inoculation(spec: InoculateSpec | None, chosen: _Chosen) -> Inoculation | None:
    if spec is None:
        return None
    return Inoculation("system" if spec.system else "user", chosen["inoculate"], spec.separator)


def _interleaved(spec: StageSpec, chosen: _Chosen) -> RowPart | None:
    if spec.interleave is None:
        return None
    share, source = chosen["interleave"], spec.interleave.source
    if source is None or share >= 1:
        raise ValueError("interleave needs a source, the file of its rows, and a share of all rows below 1")
    return RowPart("interleaved", share, source) if share > 0 else None


def usual_recipe(arm: Arm, *, trigger: TriggerSpec) -> ArmRecipe:
    """An arm that a sweep file need not define, as it is by default."""
    return next(recipes_of(arm, ArmSpec(), silent=WhereSilent(trigger, USUAL_COURSE, ())))
