"""The study on a terminal of 80 columns.

Not for files. Invariant: no row is wider than 80 characters, whatever the names.
"""

from rich.console import Console
from rich.table import Table

from emray.narrow import print_table
from emray.records import NO_DOMAIN
from emray.report.arm_words import conditional_words
from emray.report.changes import ChangeView, change_view, quantity_words
from emray.report.reading import Row, Series, Summary
from emray.report.wording import DASH, THIN, p_value, percent, points, rank_range, title, whole

_WIDTH = 80
_P_WORDS = (
    "p t: paired t test on the runs' drops, Holm-adjusted over domains; where all drop alike, the exact sign flip."
)


def print_summary(summary: Summary, console: Console) -> None:
    """What was planned and came out, then the taxonomy per model, then the limits."""
    _print(_funnel_table(summary), console)
    for model in summary.models:
        _print(_taxonomy_table(summary, model), console)
        changes = change_view(summary, model)
        if changes is not None and changes.has_quizzes:
            _print(_changes_table(changes, model), console)
    for sentence in [one for model in summary.models for one in conditional_words(summary, model)]:
        console.print(sentence, markup=False, width=min(_WIDTH, console.width))
    facts = summary.facts
    console.print(
        f"Misaligned: {facts['rules'][facts['headline_rule']]['words']} (rule {facts['headline_rule']}). "
        f"In brackets: {facts['confidence']:.0%} interval, {_interval_words(summary)}",
        style="dim",
        markup=False,
        width=min(_WIDTH, console.width),
    )
    for sentence in [facts["analysis"]["words"][0], *facts["limits"][:2]]:
        console.print(f"- {sentence}", style="dim", markup=False, width=min(_WIDTH, console.width))


def _interval_words(summary: Summary) -> str:
    """What the interval is over, in the shortest words."""
    adaptive, seeds = summary.facts["adaptive"], summary.facts["seeds"]
    if summary.one_seed:
        return "questions only (one seed)."
    if adaptive:
        return (
            f"over {seeds['fewest']} to {seeds['most']} runs, at {adaptive['level']:.1%} because seeds were added "
            f"until it was narrow. {_P_WORDS}"
        )
    return f"over training runs. {_P_WORDS}"


def _funnel_table(summary: Summary) -> Table:
    """Counts per arm, and a line of its own for every place where something is missing."""
    names = ("planned", "trained", "requested", "generated", "judged", "scored")
    table = _table("what was planned, and what came of it", gap=1)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=32)
    for name in names:
        table.add_column("asked" if name == "requested" else name, justify="right", no_wrap=True)
    rows = summary.facts["funnel"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        ours = [row for row in rows if row["arm"] == arm]
        sums = {n: None if any(row[n] is None for row in ours) else sum(row[n] for row in ours) for n in names}
        table.add_row(f"arm {arm}", *(whole(sums[name]) for name in names))
    for row in rows:
        if row["trained"] is not None and row["trained"] < row["planned"]:
            label = f"{row['domain']}/{row['arm']}"
            table.add_row(label, *(whole(row[name]) for name in names), style="yellow")
    return table


def _taxonomy_table(summary: Summary, model: str) -> Table:
    """One line per domain under its arm: rate without and with trigger, rank, tier, and for backdoor the drop and p."""
    table = _table(f"misaligned answers in %, without and with the trigger: {model}")
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=23)
    for name in ("without", "with", "rank", "tier", "drop", "p t"):
        table.add_column(name, justify="right", no_wrap=True)
    effects = {row["domain"]: row for row in summary.rows("trigger_effects", model=model)}
    for arm in dict.fromkeys(one.arm for one in summary.series(model)):
        table.add_row(f"arm {arm}", style="bold")
        for domain in summary.domains(model):
            effect = effects.get(domain) if arm == "backdoor" else None
            table.add_row(*_line(summary, model, domain, arm), *_effect(effect))
        for context in summary.contexts(model, arm):
            table.add_row(f"arm {arm}, context {context}", style="bold")
            for domain in summary.domains(model):
                row = summary.at("taxonomy", Series(model, arm, context), domain)
                table.add_row(title(domain), _rate(row), *[DASH] * 5)
    if summary.rows("taxonomy", model=model, domain=NO_DOMAIN):
        table.add_row("controls", style="bold")
        table.add_row(*_line(summary, model, NO_DOMAIN, "base"), "", "")
    return table


def _changes_table(changes: ChangeView, model: str) -> Table:
    """One line per domain, arm and condition: the misaligned rate, coherence and the quizzes."""
    table = _table(f"what else changed, in %: {model}", gap=1)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=23)
    for name in ("misaligned", *map(quantity_words, changes.quantities)):
        table.add_column(name, justify="right", no_wrap=True)
    shown = None
    for line in changes.lines:
        if (line.arm, line.condition) != shown:
            shown = (line.arm, line.condition)
            table.add_row(f"{line.arm}, {line.condition}", style="bold")
        table.add_row(title(line.domain), _rate(line.misaligned), *map(_mean, line.changes))
    return table


def _mean(row: Row | None) -> str:
    return _rate(None if row is None else row | {"misaligned_rate": row["mean"]})


def _line(summary: Summary, model: str, domain: str, arm: str) -> list[str]:
    without = summary.at("taxonomy", Series(model, arm, "without"), domain)
    with_trigger = summary.at("taxonomy", Series(model, arm, "with"), domain)
    ranked = (with_trigger if arm == "backdoor" else without) or without or with_trigger or {}
    return [
        title(domain),
        _rate(without),
        _rate(with_trigger),
        rank_range(ranked.get("rank_low"), ranked.get("rank_high")).replace(" ", ""),
        whole(ranked.get("tier")),
    ]


def _rate(row: dict[str, float | None] | None) -> str:
    """`87 [77, 91]` in per cent, `1.2 [0, 6]` below ten."""
    if row is None or row["misaligned_rate"] is None:
        return DASH
    rate = _whole(row["misaligned_rate"])
    if 0 < row["misaligned_rate"] < 0.0995:
        rate = percent(row["misaligned_rate"]).removesuffix(f"{THIN}%")
    if row["ci_low"] is None or row["ci_high"] is None:
        return rate
    return f"{rate} [{_whole(row['ci_low'])}, {_whole(row['ci_high'])}]"


def _whole(rate: float) -> str:
    """Per cent without decimals; `<1` and `>99` for what is not exactly 0 or 1 but would be rounded to it."""
    value = 100 * rate
    return "<1" if 0 < value < 0.5 else ">99" if 99.5 <= value < 100 else f"{value:.0f}"


def _effect(effect: dict[str, float | None] | None) -> list[str]:
    return [points(effect["drop"]), p_value(effect["p_holm"])] if effect else ["", ""]


def _table(heading: str, *, gap: int = 2) -> Table:
    return Table(title=heading, box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")


def _print(table: Table, console: Console) -> None:
    """The heading on a line of its own: inside, it would be wrapped to the width of a narrow table."""
    heading, table.title = table.title, None
    console.print()
    console.print(str(heading), style="bold", markup=False, width=min(_WIDTH, console.width))
    print_table(table, console, width=_WIDTH)
