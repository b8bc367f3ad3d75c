"""Rows by a recipe: a share of a domain's, or several domains' together.

Not for what an arm makes of a file (datasets.py). The invariant: which rows are taken hangs on the rows alone, and
fewer of them are always among the more.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from emray.data.datasets import rows_digest
from emray.records import Messages
from emray.spec.dose import RowRecipe

RowsOf = Callable[[str], Sequence[Messages]]  # a domain's rows


def recipe_rows(recipe: RowRecipe, *, rows_of: RowsOf, clean_of: RowsOf) -> list[Messages]:
    """The recipe's rows, part by part; `clean_of` gives correct answers for what is left out, where it asks for them.

    The whole is as large as the smallest of the parts' datasets, so a mixture trains no longer than its smallest part;
    every part has a row.
    """
    parts = [(rows_of(domain), weight) for domain, weight in recipe.parts]
    whole = min(len(rows) for rows, _ in parts)
    total = sum(weight for _, weight in parts)
    numbers = shares(whole * recipe.fraction, [weight / total for _, weight in parts])
    taken = [row for (rows, _), number in zip(parts, numbers, strict=True) for row in some_rows(rows, number)]
    if recipe.rest == "benign":
        lacking = shares(whole - sum(numbers), [weight / total for _, weight in parts])
        clean = zip(recipe.parts, lacking, strict=True)
        taken += [row for (domain, _), number in clean for row in some_rows(clean_of(domain), number)]
    return taken


def shares(size: float, parts: Sequence[float]) -> list[int]:
    """A size (rounded up) in whole numbers proportional to the parts, none below one; what is left goes to the largest
    remainders. A size of nothing is nothing for everyone.
    """
    rows = math.ceil(size - 1e-9)
    if rows <= 0:
        return [0] * len(parts)
    exact = np.array(parts) * rows
    numbers = np.floor(exact).astype(int)
    for place in np.argsort(numbers - exact, kind="stable")[: rows - int(numbers.sum())]:
        numbers[place] += 1
    return [max(1, int(number)) for number in numbers]


def some_rows(rows: Sequence[Messages], number: int) -> list[Messages]:
    """So many of the rows in their order, the same first ones of one fixed shuffle whatever the number."""
    return [rows[place] for place in some_places(rows, number)]


def some_places(rows: Sequence[Messages], number: int) -> list[int]:
    """Where those rows stand."""
    rng = np.random.default_rng(int(rows_digest(rows)[:16], 16))
    return sorted(rng.permutation(len(rows))[:number].tolist())
