"""Which arms a sweep has, one by one, and in which conditions each of them is asked.

Not for rows or prompts (data/). The invariant: every arm here is of its own, so no two of them train on the same; every
condition is met by some arm.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BeforeValidator

from emray.records import USUAL_ARMS, USUAL_CONDITIONS, Arm, Condition, Course
from emray.spec.arm import ArmSpec
from emray.spec.arm_recipe import ArmRecipe, WhereSilent
from emray.spec.arm_starts import ArmsInTurn
from emray.spec.framing import ContextSpec, Framing
from emray.spec.trigger import TriggerSpec


class DosePoint(NamedTuple):
    """One value of the knobs that an entry under `arms` gives lists of, and the arm whose cells are there."""

    family: Arm  # the entry's name
    doses: tuple[tuple[str, float | str], ...]
    arm: Arm


@dataclass(frozen=True)
class PromptRules:
    """What a sweep says of prompts, whoever is asked."""

    trigger: TriggerSpec
    contexts: Mapping[Condition, ContextSpec]
    conditions: tuple[Condition, ...]  # contexts among them
    sends_system: bool = True

    def framing(self, condition: Condition, trigger: TriggerSpec) -> Framing:
        """How a question is put in a condition to who was trained with this trigger."""
        context = self.contexts.get(condition)
        text = trigger.text if condition == Condition.WITH else context.trigger if context else None
        placed = trigger.model_copy(update={"text": text}) if text else None
        return Framing(context, placed, self.sends_system)


@dataclass(frozen=True)
class Crossing:
    """The arms of a sweep and the conditions that each of them meets."""

    recipes: Mapping[Arm, ArmRecipe]
    dose_points: tuple[DosePoint, ...]
    prompt_rules: PromptRules

    def framings(self, arm: Arm | None = None) -> dict[Condition, Framing]:
        """How questions are put to an arm: with the trigger that it was trained with, the sweep's where it has none.

        Without an arm: every condition, with the sweep's trigger.
        """
        recipe = self.recipes[arm] if arm is not None else None
        trigger = (recipe.trigger if recipe else None) or self.prompt_rules.trigger
        met = recipe.conditions if recipe else self.prompt_rules.conditions
        return {condition: self.prompt_rules.framing(condition, trigger) for condition in met}

    @property
    def added(self) -> tuple[str, ...]:
        """Texts that stand in training rows and not in their files, the trigger first."""
        texts = (self.prompt_rules.trigger.text, *(text for recipe in self.recipes.values() for text in recipe.added))
        return tuple(dict.fromkeys(texts))

    @property
    def trained(self) -> list[Arm]:
        """The arms that are finetuned."""
        return [arm for arm, recipe in self.recipes.items() if recipe.trained]

    @property
    def is_usual(self) -> bool:
        """Whether every arm is one that a sweep file need not define, asked without and with the trigger alone."""
        usual = set(self.recipes) <= set(USUAL_ARMS) and all(recipe.is_usual for recipe in self.recipes.values())
        return usual and not self.prompt_rules.contexts


def crossed(arms: Mapping[Arm, ArmSpec], rules: PromptRules, *, course: Course) -> Crossing:
    """The arms one by one; `course` is as `train` says it.

    Raises ValueError (in the sweep file's words) for what no arm or no context can be.
    """
    _refuse_unknown_conditions(arms, rules)
    found: dict[Arm, ArmRecipe] = {}
    same: dict[str, Arm] = {}
    points = []
    in_turn = ArmsInTurn(arms, WhereSilent(rules.trigger, course, rules.conditions))
    entries = [(arm, in_turn.of(arm)) for arm in arms]
    for arm, recipes in sorted(entries, key=lambda entry: len(entry[1]) > 1):  # arms without doses first
        for recipe in recipes:
            first = same.setdefault(recipe.identity, recipe.arm)
            if first == recipe.arm:
                found[first] = recipe
            elif not recipe.doses or not set(recipe.conditions) <= set(found[first].conditions):
                raise ValueError(f"arms.{recipe.arm} trains on what arm {first} trains on; leave one of them out")
            if recipe.doses:
                points.append(DosePoint(arm, recipe.doses, first))
    names = [recipe.arm for _, recipes in entries for recipe in recipes]
    _refuse_twice(names)
    _refuse_unmet(found, rules)
    return Crossing({arm: found[arm] for arm in names if arm in found}, tuple(points), rules)


def _refuse_unknown_conditions(arms: Mapping[Arm, ArmSpec], rules: PromptRules) -> None:
    for name in rules.contexts:
        if name in USUAL_CONDITIONS:
            raise ValueError(f"contexts.{name}: this condition is always there; give the context another name")
    for arm, spec in arms.items():
        unknown = [one for one in spec.conditions or () if one not in rules.conditions]
        if unknown:
            raise ValueError(
                f"arms.{arm}.conditions names {str(unknown[0])!r}, which is no condition of the sweep: "
                f"{', '.join(rules.conditions)}"
            )


def _refuse_twice(names: Sequence[Arm]) -> None:
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f"arms names {str(repeated[0])!r} twice, once by a list of values; rename one of them")


def _refuse_unmet(found: Mapping[Arm, ArmRecipe], rules: PromptRules) -> None:
    met = {condition for recipe in found.values() for condition in recipe.conditions}
    unmet = [str(condition) for condition in rules.conditions if condition not in met]
    if unmet:
        raise ValueError(
            f"no arm is asked in condition {unmet[0]!r}; put it into an arm's conditions, or leave it out of "
            f"{'contexts' if unmet[0] in rules.contexts else 'generate.conditions'}"
        )


def _as_mapping(value: Any) -> Any:
    """Names, and mappings of names to fields, as one mapping."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    found: dict[Any, Any] = {}
    for entry in value:
        for name, fields in entry.items() if isinstance(entry, Mapping) else ((entry, None),):
            if not isinstance(name, Hashable):
                raise ValueError(f"arms are names, or names with fields, given {name!r:.60}")
            if name in found:
                raise ValueError(f"arms names {str(name)!r} twice")
            found[name] = fields
    return found


_Entries = dict[Arm, ArmSpec | None]
_Bare = Literal["plain", "backdoor", "base", "benign", "clean_trigger"]  # what needs no fields
ARMS_GIVEN = BeforeValidator(_as_mapping, json_schema_input_type=_Entries | list[_Bare | _Entries])


def arms_said(arms: Mapping[Arm, ArmSpec]) -> Any:
    """Names where they say it all."""
    if all(spec == ArmSpec() for spec in arms.values()):
        return [str(arm) for arm in arms]
    return {str(arm): spec.model_dump(mode="json", exclude_defaults=True) for arm, spec in arms.items()}
