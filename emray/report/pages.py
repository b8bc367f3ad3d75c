"""Every file of `report/`, from a store.

Not for writing them (the package's `render` does). Invariant: templates escape by default; only figures drawn here and
JSON made safe for a script element are marked as safe.
"""

from collections.abc import Mapping
from importlib import resources
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emray.printable import printable_line, printable_lines
from emray.records import NO_DOMAIN
from emray.reduce.study import Study, condition_words, load_study
from emray.report import wording
from emray.report.arm_figures import ARM_CAPTIONS
from emray.report.arm_words import arms_view
from emray.report.canvas import NARROW, WIDE, Drawing, for_page, pdf_bytes, svg_bytes
from emray.report.changes import change_view, quantity_words
from emray.report.choices import reaches, runs_words, specification_words
from emray.report.crate import FILE as CRATE
from emray.report.crate import crate
from emray.report.figures import draw_figures
from emray.report.making import made
from emray.report.probe_figures import draw_probe_figures
from emray.report.probe_views import probe_view
from emray.report.reading import Series, Summary, read_summary
from emray.report.reproduction import QUESTIONS, SWEEP
from emray.report.tex import tex_tables
from emray.report.transcripts import IN_PAGE, Choice, choose, file_name, page_data, samples, sidecars
from emray.store import Store

_CAPTIONS = {
    "rates": "Misaligned answers per domain: rate, interval, every run a tick. Filled: the headline series.",
    "specification": "Every rule, weighting and question left out, in rising order; scales differ. Line: the headline.",
    "trigger": "The same finetunes (arm backdoor) asked without and with the trigger; every run a tick.",
    "thresholds": "How much the rate depends on where the lines are drawn. Stronger colour: more misaligned.",
    "questions": "Misaligned rate per question, in per cent. One strong cell in a row: the rate rests on one question.",
    "trajectories": "Misaligned answers against the share of training seen.",
    **ARM_CAPTIONS,
    "ranks": "Probability, in per cent, that a domain has each rank, given the spread between seeds.",
}


_SAMPLES_HARDLY = 0.1  # below this share of a run's variance, more samples are not worth their price

_CORRECTIONS = {
    "rogan_gladen": "The judged rate with the judge's errors taken out, as far as labels show them. It assumes that "
    "the judge errs alike in every domain, and that labelled answers were picked without looking at its verdicts.",
    "prediction_powered": "The judge's rate on all answers plus its mean error on those the reference also looked at, "
    "seed by seed: the rate that the reference would have found, if its answers are a random part. A second judge is "
    "not the truth. A dash: fewer than two seeds with ten such answers.",
}


def make_pages(store: Store) -> dict[str, bytes]:
    """Name and content of every file of the report."""
    summary, study = read_summary(store), load_study(store.read_json("plan.json"))
    choice = choose(store, study)
    figures = drawings(summary)
    beside = sidecars(choice.shown[IN_PAGE:])
    context = _context(summary, study, choice, figures, files=len(beside))
    files = {
        "report.html": _environment(html=True).get_template("report.html.jinja").render(context).encode(),
        "report.md": _environment(html=False).get_template("report.md.jinja").render(context).encode(),
    }
    texts = context["made"]
    files |= {SWEEP: texts["sweep"].encode(), QUESTIONS: texts["questions"].encode()}
    files["citation.bib"] = texts["bibtex"].encode()
    for name, drawing in figures.items():
        files |= {f"figures/{name}.svg": drawing.svg, f"figures/{name}.pdf": drawing.pdf}
    files |= {f"tables/{name}.tex": content for name, content in tex_tables(summary).items()}
    files |= {file_name(number): content for number, content in enumerate(beside)}
    return files | {CRATE: crate(summary.facts, files)}


def drawings(summary: Summary) -> dict[str, Drawing]:
    """Every figure by name."""
    wide, narrow = (
        dict(chain(draw_figures(summary, width=width), draw_probe_figures(summary, width=width)))
        for width in (WIDE, NARROW)
    )
    return {
        name: Drawing(svg_bytes(figure), pdf_bytes(figure), svg_bytes(narrow[name])) for name, figure in wide.items()
    }


def _context(
    summary: Summary, study: Study, choice: Choice, figures: Mapping[str, Drawing], *, files: int
) -> dict[str, Any]:
    in_page = choice.shown[:IN_PAGE]
    return {
        "summary": summary,
        "facts": summary.facts,
        "models": [
            _model_view(summary, model, number, figures) | {"changes": change_view(summary, model)}
            for number, model in enumerate(summary.models)
        ],
        "probes": probe_view(summary, figures),
        "has_arms": any(summary.tables[name] for name in ("paired", "arm_doses", "trigger_specificity")),
        "finding": finding(summary),
        "samples": samples(study, in_page),
        "num_in_page": len(in_page),
        "num_answers": choice.total,
        "num_files": files,
        "data": Markup(page_data(study, in_page, files=files, total=choice.total)),
        "css": Markup(_asset("report.css")),
        "js": Markup(_asset("report.js")),
        "made": made(summary.facts, study),
        "level": wording.level_words(summary.facts["confidence"]),
        "rates_by_place": rates_by_place(summary),
        "corrections": corrections(summary),
        "unreadable": max(
            (row for row in summary.tables["outcomes"] if row["unreadable_rate"]),
            key=lambda row: float(row["unreadable_rate"]),
            default=None,
        ),
        "funnel_totals": funnel_totals(summary),
        "series": Series,
        "percent_range": wording.percent_range,
        "points_range": wording.points_range,
        "rate_points_range": wording.rate_points_range,
        "rank_range": wording.rank_range,
        "runs_words": runs_words(summary.facts),
        "specification_words": specification_words,
        "share": wording.share,
        "judge_measured": any(row["var_judge"] is not None for row in summary.tables["variance"]),
        "level_words": wording.level_words,
    }


def _model_view(summary: Summary, model: str, number: int, figures: Mapping[str, Drawing]) -> dict[str, Any]:
    suffix = f"-{number + 1}" if len(summary.models) > 1 else ""
    found = {
        name: {
            "svg": Markup(for_page(figures[name + suffix], label=caption)),
            "caption": caption,
            "file": f"figures/{name}{suffix}.svg",
        }
        for name, caption in _CAPTIONS.items()
        if name + suffix in figures
    }
    series = summary.series(model)
    return {
        "name": model,
        "figures": found,
        "domains": summary.domains(model),
        "series": series,
        "headline": series[0] if series else None,
        "base": summary.rows("taxonomy", model=model, domain=NO_DOMAIN),
        "contexts": [
            row
            for arm in dict.fromkeys(one.arm for one in series)
            for context in summary.contexts(model, arm)
            for row in summary.rows("taxonomy", model=model, arm=arm, condition=context)
        ],
        "specificity": summary.rows("trigger_specificity", model=model),
        "arm_doses": sorted(
            summary.rows("arm_doses", model=model),
            key=lambda row: (row["domain"], row["condition"], row["family"], row["dose"] is None, row["dose"] or 0.0),
        ),
        "arms": arms_view(summary, model),
        "effects": sorted(summary.rows("trigger_effects", model=model), key=_by_drop),
        "sizes": {row["domain"]: row for row in summary.rows("effect_sizes", model=model, arm="backdoor")},
        "planned_drops": {
            (row["arm"], row["domain"]): row["planned_drop"] for row in summary.rows("effect_sizes", model=model)
        },
        "control_effects": summary.rows("control_effects", model=model),
        "pooled": summary.facts["pooled_effects"].get(model),
        "variance": _variance_rows(summary, series),
        "contrasts": _contrast_rows(summary, series),
        "reaches": reaches(summary, series[0] if series else None),
        "comparisons": [row for row in summary.rows("comparisons", model=model) if row["difference"] is not None],
        "samples": _samples_words(summary, model),
        "formats": _format_rows(summary, series),
    }


def _variance_rows(summary: Summary, series: list[Series]) -> list[dict[str, Any]]:
    """Per domain of the headline series: the rate's components, and the drop's detectable size."""
    if not series:
        return []
    where = {"model": series[0].model, "arm": series[0].arm}
    rates = summary.rows("variance", quantity="rate", condition=series[0].condition, **where)
    drops = {row["domain"]: row["detectable"] for row in summary.rows("variance", quantity="drop", **where)}
    rule = summary.facts["headline_rule"]
    wider = {r["domain"]: r for r in summary.rows("rates", rule=rule, condition=series[0].condition, **where)}
    by_domain = {
        row["domain"]: row | {"detectable": drops.get(row["domain"]), "wider": wider[row["domain"]]} for row in rates
    }
    return [by_domain[domain] for domain in summary.domains(series[0].model) if domain in by_domain]


def _samples_words(summary: Summary, model: str) -> str:
    """What more samples of the same questions would buy, as far as the components say."""
    rows = summary.rows("variance", model=model, quantity="rate")
    shares = [row["sample_share"] for row in rows if row["n_seeds"] > 1 and row["sample_share"] is not None]
    if not shares:
        return "What more samples would buy cannot be told: no question was answered twice by a run, or no run differs."
    if max(shares) < _SAMPLES_HARDLY:
        return "Seeds and questions buy certainty; more samples of the same question hardly do."
    return (
        f"More samples of the same questions would help too: up to {wording.percent(max(shares))} of the variance of a "
        "run's rate is between answers to the same question."
    )


def _format_rows(summary: Summary, series: list[Series]) -> list[dict[str, Any]]:
    """Answer formats that occur, per domain of the headline series, the commonest first."""
    if not series:
        return []
    one = series[0]
    rows = summary.rows("formats", model=one.model, arm=one.arm, condition=one.condition)
    found = [row for row in rows if row["n_answers"]]
    order = summary.domains(one.model)
    return sorted(found, key=lambda row: (order.index(row["domain"]), -row["n_answers"]))


def _contrast_rows(summary: Summary, series: list[Series]) -> list[dict[str, Any]]:
    """Pairs of domains in the headline series, largest difference first; none where no test was possible."""
    if not series:
        return []
    one = series[0]
    rows = summary.rows("contrasts", model=one.model, arm=one.arm, condition=one.condition)
    return sorted((row for row in rows if row["p"] is not None), key=lambda row: -abs(row["difference"]))


def funnel_totals(summary: Summary) -> list[dict[str, Any]]:
    """Rows of the funnel summed over the domains of a model and arm; unknown where any of them is."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in summary.facts["funnel"]:
        groups.setdefault((row["model"], row["arm"]), []).append(row)
    names = ("planned", "trained", "failed", "requested", "generated", "judged", "scored")
    return [
        {"model": model, "arm": arm}
        | {n: None if any(row[n] is None for row in rows) else sum(row[n] for row in rows) for n in names}
        for (model, arm), rows in groups.items()
    ]


def rates_by_place(summary: Summary) -> list[list[dict[str, Any]]]:
    """Rows of rates.csv, one list per model, domain, arm and condition: the rules side by side."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in summary.tables["rates"]:
        groups.setdefault((row["model"], row["domain"], row["arm"], row["condition"]), []).append(row)
    return list(groups.values())


def corrections(summary: Summary) -> list[dict[str, Any]]:
    """Rows of corrected.csv by what corrected them (`title`) and how (`note`)."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in summary.tables["corrected"]:
        groups.setdefault((row["reference"], row["how"]), []).append(row)
    return [
        {"title": _correction_title(rows), "note": _CORRECTIONS[how], "rows": rows} for (_, how), rows in groups.items()
    ]


def _correction_title(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    if first["how"] == "rogan_gladen":
        sensitivity, specificity = (wording.percent(first[name]) for name in ("sensitivity", "specificity"))
        return (
            f"by {wording.whole(first['n_labelled'])} human labels (sensitivity {sensitivity}, "
            f"specificity {specificity}; Rogan-Gladen)"
        )
    num = wording.whole(sum(row["n_labelled"] for row in rows))
    who = f"{num} human labels" if first["reference"] == "labels" else f"{num} verdicts of {first['reference']}"
    return f"by {who} (prediction-powered)"


def _by_drop(row: dict[str, Any]) -> float:
    """Largest drop first, domains without one last."""
    return float("inf") if row["drop"] is None else -float(row["drop"])


def finding(summary: Summary) -> str:
    """The study in a sentence or two, from the headline series of each model."""
    return " ".join(_finding(summary, model) for model in summary.models if summary.series(model))


def _finding(summary: Summary, model: str) -> str:
    series = summary.series(model)[0]
    rows = [row for d in summary.domains(model) if (row := summary.at("taxonomy", series, d))]
    rows = [row for row in rows if row["misaligned_rate"] is not None]
    if not rows:
        return f"{model}: no domain has a scored answer yet."
    top, bottom = rows[0], rows[-1]
    text = (
        f"{model}, {series.words}: {_with_interval(top)} of answers are misaligned after {wording.title(top['domain'])}"
    )
    if len(rows) > 1:
        text += f", {_with_interval(bottom)} after {wording.title(bottom['domain'])}"
    return text + "." + _about_runs(rows) + _without(summary, series)


def _about_runs(rows: list[dict[str, Any]]) -> str:
    """How many runs stand behind the sentence, where one of its places has a single one."""
    alone = [row for row in rows if row["n_seeds"] == 1]
    if len(alone) == len(rows):
        return " One run each: no claim about other runs."
    named = ", ".join(wording.title(row["domain"]) for row in alone[:3]) + (" and others" if len(alone) > 3 else "")
    return f" One run only, so no claim about other runs: {named}." if alone else ""


def _without(summary: Summary, series: Series) -> str:
    """What the same finetunes do without the trigger."""
    other = Series(series.model, series.arm, "without")
    rows = [row for d in summary.domains(series.model) if (row := summary.at("taxonomy", other, d))]
    rows = [row for row in rows if row["misaligned_rate"] is not None]
    if series == other or not rows:
        return ""
    top = max(rows, key=lambda row: float(row["misaligned_rate"]))
    bounds = [row["ci_high"] for row in rows if row["ci_high"] is not None]
    upper = f"; no upper bound there exceeds {wording.percent(max(bounds))}" if bounds else ""
    return f" {other.words.capitalize()}: at most {_with_interval(top)}, after {wording.title(top['domain'])}{upper}."


def _with_interval(row: dict[str, Any]) -> str:
    interval = wording.percent_range(row["ci_low"], row["ci_high"])
    rate = wording.percent(row["misaligned_rate"])
    return rate if interval == wording.DASH else f"{rate} [{interval}]"


def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("emray.report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters |= {
        name: getattr(wording, name)
        for name in (
            "percent", "points", "decimal", "p_value", "whole", "duration", "dollars", "title", "rate_points",
            "plain", "p_words",
        )
    }  # fmt: skip
    environment.filters |= {"md": markdown_text, "condition_words": condition_words, "quantity_words": quantity_words}
    return environment


def _shown(value: Any) -> Any:
    """What a page says, without characters that reorder or hide it. Markup is what was drawn here."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def markdown_text(text: str | None, *, limit: int = 300) -> str:
    """Text that renders as itself in Markdown on a code host: no markup, no HTML, one line, cut at `limit`."""
    if text is None:
        return wording.DASH
    flat = printable_line(" ".join(text.split()))
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        flat = flat.replace(character, entity)
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~" else c for c in flat)


def _asset(name: str) -> str:
    return (resources.files("emray.report") / "templates" / name).read_text(encoding="utf-8")
