"""`analysis.compare` made concrete: which arm in which condition is held against which, family by family.

Not for testing anything (reduce/). The invariant: both sides of a pair are asked in the sweep and differ in their arm
or in their condition, never in both; no arm here is `base`, which is one model and no sample of runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from emray.records import USUAL_ARMS, Arm, Condition
from emray.spec.analysis import AnalysisSpec, CompareSpec, Contrast
from emray.spec.arm import ArmSpec
from emray.spec.crossing import Crossing


class Side(NamedTuple):
    """An arm in a condition."""

    arm: Arm
    condition: Condition


class Pair(NamedTuple):
    """First minus second."""

    first: Side
    second: Side

    @property
    def test(self) -> Contrast:
        return Contrast.CONDITIONS if self.first.arm == self.second.arm else Contrast.ARMS

    @property
    def against(self) -> str:
        """What the second side has in the first one's place."""
        return self.second.condition if self.test == Contrast.CONDITIONS else self.second.arm


class PairFamily(NamedTuple):
    """Pairs that one adjustment is over."""

    name: str
    pairs: tuple[Pair, ...]


def pair_families(
    analysis: AnalysisSpec | None, arms: Mapping[Arm, ArmSpec], crossing: Crossing
) -> tuple[PairFamily, ...]:
    """What the analysis plan compares, or what a sweep's own arms and contexts are compared with by default.

    Raises ValueError (in the sweep file's words) for what is not there to be compared.
    """
    said = analysis.compare if analysis else []
    for number, one in enumerate(said):
        _refuse_unknown(one, crossing, where=f"analysis.compare.{number}")
    found = [_family(one, crossing) for one in said or _usual(arms, crossing)]
    for number, family in enumerate(found if said else ()):
        if not family.pairs:
            raise ValueError(f"analysis.compare.{number}: {family.name} are asked together nowhere; see `conditions`")
    return tuple(family for family in found if family.pairs)


def _usual(arms: Mapping[Arm, ArmSpec], crossing: Crossing) -> Iterator[CompareSpec]:
    """Every arm of the sweep's own against the arm it is like, on questions as they stand; every context against
    `without`.
    """
    for arm, spec in arms.items():
        like = Arm(spec.like or Arm.PLAIN)
        if arm not in USUAL_ARMS and like in crossing.recipes:
            yield CompareSpec(arms=[arm, like], only=[Condition.WITHOUT])
    for context in crossing.prompt_rules.contexts:
        yield CompareSpec(conditions=[context, Condition.WITHOUT])


def _family(one: CompareSpec, crossing: Crossing) -> PairFamily:
    if one.arms:
        kept = [pair for pair in _arm_pairs(one, crossing) if not one.only or pair.first.condition in one.only]
    else:
        kept = [pair for pair in _condition_pairs(one, crossing) if not one.only or pair.first.arm in one.only]
    return PairFamily(" against ".join(one.arms or one.conditions or ()), tuple(kept))


def _arm_pairs(one: CompareSpec, crossing: Crossing) -> Iterator[Pair]:
    assert one.arms
    firsts, seconds = (_members(name, crossing) for name in one.arms)
    for first in firsts:
        for second in seconds:
            if first == second:
                continue
            for condition in crossing.recipes[first].conditions:
                if condition in crossing.recipes[second].conditions:
                    yield Pair(Side(first, condition), Side(second, condition))


def _condition_pairs(one: CompareSpec, crossing: Crossing) -> Iterator[Pair]:
    assert one.conditions
    first, second = one.conditions
    for arm in crossing.trained:
        if {first, second} <= set(crossing.recipes[arm].conditions):
            yield Pair(Side(arm, first), Side(arm, second))


def _members(name: Arm, crossing: Crossing) -> Sequence[Arm]:
    """An arm, or each of those that an entry with a list of values stands for."""
    return [name] if name in crossing.recipes else _dosed(name, crossing)


def _dosed(name: Arm, crossing: Crossing) -> list[Arm]:
    return list(dict.fromkeys(point.arm for point in crossing.dose_points if point.family == name))


def _refuse_unknown(one: CompareSpec, crossing: Crossing, *, where: str) -> None:
    arms = [*crossing.trained, *dict.fromkeys(point.family for point in crossing.dose_points)]
    conditions = crossing.prompt_rules.conditions
    of_arms = [*(one.arms or ()), *(one.only if one.conditions else ())]
    of_conditions = [*(one.conditions or ()), *(one.only if one.arms else ())]
    for names, known, what in ((of_arms, arms, "arm"), (of_conditions, conditions, "condition")):
        unknown = [str(name) for name in names if name not in known]
        if unknown:
            raise ValueError(f"{where} names {what} {unknown[0]!r}, which is none of {', '.join(known)}")
    pair = one.arms or one.conditions or []
    if pair[0] == pair[1]:
        raise ValueError(f"{where} compares {str(pair[0])!r} with itself")
