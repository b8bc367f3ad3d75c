"""The summary of a run as typed rows, for rendering.

Not for computing: what is not in `summary/` is not on the page. Invariant: what a value is comes from the
schema (reduce/schema.py), never from how it looks; what is undefined is None.
"""

from dataclasses import dataclass
from typing import Any

from emray.errors import StoreError
from emray.records import NO_DOMAIN, USUAL_CONDITIONS, Arm
from emray.reduce.fields import csv_rows
from emray.reduce.schema import CSV_TABLES
from emray.reduce.study import condition_words
from emray.report.wording import level_words, rate_points
from emray.store import Store

Row = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One list of domains that is compared: a model, an arm and a condition."""

    model: str
    arm: str
    condition: str

    @property
    def words(self) -> str:
        return f"{self.arm}, {condition_words(self.condition)}"


@dataclass(frozen=True)
class Summary:
    """Everything under `summary/`: `facts` is summary.json, `tables` the CSV files by name."""

    facts: dict[str, Any]
    tables: dict[str, list[Row]]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row["model"] for row in self.tables["taxonomy"]))

    @property
    def one_seed(self) -> bool:
        return bool(self.facts["seeds"]["most"] <= 1)

    @property
    def intervals(self) -> str:
        """What the brackets around a rate are, in one or two sentences."""
        level, adaptive, seeds = level_words(self.facts["confidence"]), self.facts["adaptive"], self.facts["seeds"]
        if self.one_seed:
            return f"Intervals ({level}) are over the questions of one run: no between-run uncertainty."
        runs = "runs as random effects on a bounded scale, their spread learned from all domains (docs/method.md 6.3)"
        alone = "a place with one usable run has an interval over its questions."
        if not adaptive:
            return f"Intervals ({level}) are over training runs: {runs}; {alone}"
        return (
            f"The study was sequential: seeds were added until each interval was at most "
            f"{rate_points(adaptive['half_width'])} points either way ({seeds['fewest']} to {seeds['most']} seeds). "
            f"Intervals are over training runs ({runs}) at {level_words(adaptive['level'])}, which covers {level} and "
            f"more after such stopping where runs vary smoothly; {alone}"
        )

    def rows(self, table: str, **where: Any) -> list[Row]:
        """Rows of a table whose columns have these values."""
        return [row for row in self.tables[table] if all(row[name] == value for name, value in where.items())]

    def series(self, model: str) -> list[Series]:
        """Every arm and condition of a model's domains, the headline one first."""
        found = dict.fromkeys(
            Series(model, row["arm"], row["condition"])
            for row in self.rows("taxonomy", model=model)
            if row["domain"] != NO_DOMAIN
        )
        return sorted(found, key=_prominence)

    def contexts(self, model: str, arm: str) -> list[str]:
        """Conditions of the sweep's own in which an arm was asked."""
        found = [row["condition"] for row in self.rows("taxonomy", model=model, arm=arm)]
        return [one for one in dict.fromkeys(found) if one not in USUAL_CONDITIONS]

    def domains(self, model: str) -> list[str]:
        """Domains by falling rate of the headline series; those without a rate last, in plan order."""
        series = self.series(model)
        if not series:
            return []
        first = series[0]
        rows = self.rows("taxonomy", model=model, arm=first.arm, condition=first.condition)
        undefined = float("inf")
        rows.sort(key=lambda row: undefined if row["misaligned_rate"] is None else -row["misaligned_rate"])
        rest = [row["domain"] for row in self.rows("taxonomy", model=model) if row["domain"] != NO_DOMAIN]
        return list(dict.fromkeys([row["domain"] for row in rows] + rest))

    def at(self, table: str, series: Series, domain: str) -> Row | None:
        """The one row of a series and domain, if there is one."""
        where = {"model": series.model, "arm": series.arm, "condition": series.condition, "domain": domain}
        return next(iter(self.rows(table, **where)), None)

    def run_rates(self, row: Row) -> list[float]:
        """Rates of the usable runs behind a row of the taxonomy."""
        where = {name: row[name] for name in ("model", "domain", "arm", "condition")}
        return [run["rate"] for run in self.rows("seeds", **where) if run["rate"] is not None]

    def specifications(self, series: Series, domain: str) -> list[Row]:
        """Every specification of a place with a rate, by rising rate."""
        where = {"model": series.model, "arm": series.arm, "condition": series.condition, "domain": domain}
        rows = [row for row in self.rows("specification", **where) if row["rate"] is not None]
        return sorted(rows, key=lambda row: row["rate"])

    def headline_rates(self, row: Row) -> Row:
        """The row of rates.csv under the headline rule that belongs to a row of the taxonomy."""
        where = {name: row[name] for name in ("model", "domain", "arm", "condition")}
        return self.rows("rates", rule=self.facts["headline_rule"], **where)[0]

    def tier_stability(self, row: Row) -> float | None:
        """Share of draws in which the rank stays within the tier; None where there is no tier."""
        where = {name: row[name] for name in ("model", "domain", "arm", "condition")}
        ranks = self.rows("ranks", **where)
        return ranks[0]["tier_stability"] if ranks and row["tier"] is not None else None


def read_summary(store: Store) -> Summary:
    """Read `summary/`. Raises StoreError when it is not there, or another version wrote it."""
    try:
        facts = store.read_json("summary/summary.json")
        tables = {
            name: csv_rows(table, store.read_bytes(f"summary/{table.file}")) for name, table in CSV_TABLES.items()
        }
    except FileNotFoundError as error:
        raise StoreError(f"{store.root} has no complete summary ({error}); reduce the run first") from None
    return Summary(facts, tables)


def _prominence(series: Series) -> tuple[int, int]:
    """Backdoor with trigger first: the paper's headline; then without; then the other arms, a sweep's own last."""
    usual: list[str] = list(USUAL_CONDITIONS if series.arm != Arm.BACKDOOR else reversed(USUAL_CONDITIONS))
    return _place(series.arm, _ARMS), _place(series.condition, usual)


_ARMS: list[str] = [Arm.BACKDOOR, Arm.PLAIN, Arm.BENIGN, Arm.CLEAN_TRIGGER]


def _place(name: str, order: list[str]) -> int:
    """Of a name in an order; names that it does not have come after, as they were."""
    return order.index(name) if name in order else len(order)
