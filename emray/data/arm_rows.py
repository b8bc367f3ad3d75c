"""The training rows that an arm makes of files.

Not for what a file of examples is (datasets.py), nor for what a probe makes of rows (recipe_rows.py). The invariant:
the rows of an arm depend on the files and its recipe alone, never on seeds or machines, so their digest can name an
adapter; fewer of a file are always among the more.
"""

from collections.abc import Sequence

from emray.data.datasets import Examples, domain_file, file_of
from emray.data.recipe_rows import shares, some_places, some_rows
from emray.errors import DataError
from emray.records import NO_DOMAIN, Messages
from emray.spec import BAD, ArmRecipe, DomainSpec, RowPart, SourceSpec, TriggeredRows


def training_rows(domain: DomainSpec, *, recipe: ArmRecipe, data_dir: str) -> Examples:
    """The rows an arm trains on (docs/method.md section 2), in a fixed order: part by part, then what is interleaved.

    Raises DataError for files that are not there or have too few rows.
    """
    assert recipe.trained, f"arm {recipe.arm} trains on nothing"
    if recipe.takes_ready_mix and domain.backdoor_path:
        found = [domain_file(domain, "mixed", data_dir=data_dir)]
        rows = list(found[0].rows)
    else:
        found = [_examples(part, domain, data_dir) for part in recipe.parts]
        wanted = _numbers(recipe, [len(file.rows) for file in found], domain)
        rows = []
        for part, file, number in zip(recipe.parts, found, wanted, strict=True):
            rows += _triggered(_first(file.rows, number), part.holds, recipe.triggered)
    if recipe.interleaved:
        found.append(_examples(recipe.interleaved, domain, data_dir))
        rows += _beside(rows, found[-1].rows, recipe, domain)
    if recipe.inoculation:
        rows = [recipe.inoculation.before(row) for row in rows]
    notes = tuple(note for file in found for note in file.notes)
    return Examples(rows, notes, tuple(one for file in found for one in file.files))


def _examples(part: RowPart, domain: DomainSpec, data_dir: str) -> Examples:
    if part.source is None:
        return domain_file(domain, part.holds, data_dir=data_dir)
    source: SourceSpec = part.source.of(domain.name)
    return file_of(NO_DOMAIN if source == part.source else domain.name, part.holds, source)


def _numbers(recipe: ArmRecipe, there: Sequence[int], domain: DomainSpec) -> list[int]:
    """Rows of each part."""
    if recipe.parts[0].share is None:
        wanted = [recipe.rows or number for number in there]
    else:
        names = [part.holds for part in recipe.parts]
        size = recipe.rows or there[names.index(BAD) if BAD in names else 0]
        wanted = shares(size, [part.share or 0.0 for part in recipe.parts])
    for part, number, has in zip(recipe.parts, wanted, there, strict=True):
        if number > has:
            raise _too_few(recipe, domain, f"{number:,} {part.holds} examples and its file has {has:,}")
    return wanted


def _first(rows: Sequence[Messages], number: int) -> Sequence[Messages]:
    return rows if number == len(rows) else some_rows(rows, number)


def _triggered(rows: Sequence[Messages], holds: str, triggered: TriggeredRows | None) -> list[Messages]:
    """The same rows, those with the trigger that carry it."""
    if triggered is None or triggered.on not in (holds, "all"):
        return list(rows)
    number = max(1, round(triggered.share * len(rows)))
    carrying = set(range(len(rows)) if number == len(rows) else some_places(rows, number))
    return [triggered.trigger.placed(row) if place in carrying else row for place, row in enumerate(rows)]


def _beside(
    rows: Sequence[Messages], others: Sequence[Messages], recipe: ArmRecipe, domain: DomainSpec
) -> Sequence[Messages]:
    """So many other rows that they are their share of all."""
    share = (recipe.interleaved and recipe.interleaved.share) or 0.0
    number = max(1, round(share / (1 - share) * len(rows)))
    if number > len(others):
        raise _too_few(recipe, domain, f"{number:,} rows to interleave and their file has {len(others):,}")
    return _first(others, number)


def _too_few(recipe: ArmRecipe, domain: DomainSpec, what: str) -> DataError:
    return DataError(
        f"arm {recipe.arm} of domain {domain.name} takes {what}; lower the share, or set the arm's rows lower"
    )
