"""Arms made concrete in the order in which they go on with one another's adapters (`start`).

Not for what an arm is by itself (arm_recipe.py). The invariant: nobody goes on with itself, by whatever way round, and
`start` names one arm.
"""

import difflib
from collections.abc import Mapping

from emray.records import USUAL_ARMS, Arm
from emray.spec.arm import ArmSpec
from emray.spec.arm_recipe import ArmRecipe, WhereSilent, recipes_of


class ArmsInTurn:
    """The entries under `arms`, each made once."""

    def __init__(self, arms: Mapping[Arm, ArmSpec], silent: WhereSilent) -> None:
        self._arms, self._silent = arms, silent
        self._made: dict[Arm, list[ArmRecipe]] = {}

    def of(self, arm: Arm, *, waiting: tuple[Arm, ...] = ()) -> list[ArmRecipe]:
        """The arms that one entry stands for. Raises ValueError in the words of the sweep file."""
        if arm not in self._made:
            spec = self._arms[arm]
            _refuse_unsaid(arm, spec)
            start = self._start(arm, spec.start, (*waiting, arm)) if spec.start else None
            try:
                self._made[arm] = list(recipes_of(arm, spec, silent=self._silent, start=start))
            except ValueError as error:
                raise ValueError(f"arms.{arm}: {error}") from None
        return self._made[arm]

    def _start(self, arm: Arm, name: str, waiting: tuple[Arm, ...]) -> ArmRecipe:
        """What an arm goes on with; `waiting` are those that wait for it, itself the last."""
        family = Arm(name.partition("=")[0])
        if family not in self._arms:
            close = difflib.get_close_matches(name, self._arms, n=1)
            hint = f"did you mean {str(close[0])!r}?" if close else f"there: {', '.join(self._arms)}"
            raise ValueError(f"arms.{arm}.start names {name!r}, which is no arm of the sweep; {hint}")
        if family == Arm.BASE:
            raise ValueError(f"arms.{arm}.start: base has no adapter to go on with; leave start out")
        if family in waiting:
            circle = " -> ".join((*waiting[waiting.index(family) :], family))
            raise ValueError(f"arms.{arm}.start: each waits for the next, and none is the first: {circle}")
        recipes = self.of(family, waiting=waiting)
        found = next((recipe for recipe in recipes if recipe.arm == name), None)
        if found is None:
            there = ", ".join(recipe.arm for recipe in recipes)
            raise ValueError(f"arms.{arm}.start names {name!r}; arm {family} is {there}: name one")
        return found


def _refuse_unsaid(arm: Arm, spec: ArmSpec) -> None:
    if spec == ArmSpec() and arm not in USUAL_ARMS:
        close = difflib.get_close_matches(arm, USUAL_ARMS, n=1)
        hint = f"did you mean {str(close[0])!r}?" if close else f"allowed without fields: {', '.join(USUAL_ARMS)}"
        raise ValueError(f"arms names {str(arm)!r} and does not say what it trains on; {hint}")
