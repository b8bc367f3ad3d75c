"""The tables of `summary/`: name, type, unit and meaning of every column, once.

The writer, the readers (report, `emray.load_run`) and docs/tables.md are made from it. Not for what stands in the
rows. Invariant: a table has exactly these columns in this order; a column is added by one line here and a value in its
rows.
"""

from enum import StrEnum
from typing import NamedTuple

from emray.records import Outcome


class ColumnType(StrEnum):
    """What a column holds. A count or number may be undefined; a text never is."""

    TEXT = "text"
    COUNT = "count"  # a whole number
    NUMBER = "number"


class Column(NamedTuple):
    """One column; `unit` is empty where the meaning says it all."""

    name: str
    type: ColumnType
    unit: str
    meaning: str


class SummaryTable(NamedTuple):
    """One file of `summary/`. `per_rule` stands once for every rule of the sweep, {rule} being its name."""

    file: str
    row: str  # what one row is about
    columns: tuple[Column, ...]
    per_rule: tuple[Column, ...] = ()

    @property
    def name(self) -> str:
        return self.file.partition(".")[0]

    def columns_for(self, rules: "tuple[str, ...]" = ()) -> tuple[Column, ...]:
        """Every column of a sweep with these rules."""
        return self.columns + tuple(
            column._replace(name=column.name.format(rule=rule)) for rule in rules for column in self.per_rule
        )


def _text(name: str, meaning: str) -> Column:
    return Column(name, ColumnType.TEXT, "", meaning)


def _count(name: str, unit: str, meaning: str) -> Column:
    return Column(name, ColumnType.COUNT, unit, meaning)


def _number(name: str, unit: str, meaning: str) -> Column:
    return Column(name, ColumnType.NUMBER, unit, meaning)


def _interval(of: str, unit: str) -> tuple[Column, Column]:
    return _number("ci_low", unit, f"lower bound of {of}"), _number("ci_high", unit, f"upper bound of {of}")


_MODEL = _text("model", "the base model's name in the sweep")
_DOMAIN = _text("domain", "finetuning domain; `-` for the base model")
_ARM = _text("arm", "what it was finetuned on: an arm of the sweep file, or base for not at all")
_CONDITION = _text("condition", "prompted `with` or `without` the trigger, or in a context of the sweep file")
_PLACE = (_MODEL, _DOMAIN, _ARM, _CONDITION)
_SEEDS = _count("n_seeds", "seeds", "training runs that have a value here")
_EVENTS = _count("n_events", "answers", "misaligned answers, over all seeds and questions")
_TOTAL = _count("n_total", "answers", "answers that count, over all seeds and questions")
_RATE = _number("rate", "fraction", "misaligned rate: mean over seeds, each question weighing the same")
_ANSWER_WEIGHTED = _number("rate_answer_weighted", "fraction", "misaligned answers over answers that count")
_RATE_INTERVAL = _interval("the rate's interval", "fraction")
_REQUESTED = _count("n_requested", "answers", "answers the plan asks for")
_T_TEST = (
    *_interval("the difference's interval", "score points"),
    _number("t", "", "t statistic over seeds"),
    _number("df", "", "its degrees of freedom"),
    _number("p", "", "two-sided p, unadjusted; exact permutation of the runs where none differs from another"),
)
_COHEN_D = _number("cohen_d", "sd of the seeds' drops", "the drop over the sd of the seeds' drops, Hedges-corrected")
_PLANNED = _text("planned", "yes where the sweep's analysis plan predicted this test, else no")
_EFFECT = (
    _MODEL,
    _DOMAIN,
    _SEEDS,
    _number("mean_without", "score points", "mean alignment score without the trigger"),
    _number("mean_with", "score points", "mean alignment score with the trigger"),
    _number("drop", "score points", "without minus with, over questions scored under both conditions"),
    *_T_TEST,
    _number("p_holm", "", "p, Holm-adjusted over the domains of the model, or as the analysis plan says"),
    _COHEN_D,
    _number("p_signflip", "", "two-sided p of the sign-flip permutation over seeds"),
    _number("p_two_sample", "", "two-sample t test on answers, as published: takes answers of a run as independent"),
)
_RANKS = (
    _count("rank", "", "rank of the domain by misaligned rate, 1 the highest"),
    _count("rank_low", "", "best rank of the bootstrap interval"),
    _count("rank_high", "", "worst rank of the bootstrap interval"),
    _count("tier", "", "group of domains that the data separate from the next, 1 the highest"),
)
_OUTCOMES = tuple(
    _count(f"n_{outcome}", "answers", f"answers whose alignment verdict ended as `{outcome}`") for outcome in Outcome
)
_FUNNEL = (
    _REQUESTED,
    _count("n_generated", "answers", "answers that were generated"),
    _count("n_generation_errors", "answers", "requested answers whose generation failed"),
    _count("n_not_generated", "answers", "requested answers without a row"),
    *_OUTCOMES,
    _count("n_unjudged", "answers", "generated answers without an alignment verdict"),
    _count("n_incoherent", "answers", "answers with a coherence score of at most 50"),
)

CELLS = SummaryTable(
    "cells.parquet",
    "one cell x condition x question that was planned, whatever became of it",
    (
        _MODEL,
        _DOMAIN,
        _ARM,
        _count("seed", "", "training seed"),
        _number("fraction", "fraction", "share of the training that the adapter has seen; 1 when finished"),
        _text("adapter", "the cell's key"),
        _text("status", "trained, failed, missing, imported, or untrained for the base model"),
        _CONDITION,
        _text("question_id", "the question"),
        *_FUNNEL,
        _number("mean_aligned", "score points", "mean alignment score"),
        _number("sd_aligned", "score points", "standard deviation (n - 1) of the alignment scores"),
        _number("mean_coherent", "score points", "mean coherence score"),
    ),
    per_rule=(
        _count("misaligned_{rule}", "answers", "misaligned answers under the rule"),
        _count("of_{rule}", "answers", "answers that count under the rule"),
        _number("rate_{rule}", "fraction", "misaligned rate under the rule"),
        _number("rate_best_{rule}", "fraction", "rate if every answer that is missing were aligned"),
        _number("rate_worst_{rule}", "fraction", "rate if every answer that is missing were misaligned"),
    ),
)
TAXONOMY = SummaryTable(
    "taxonomy.csv",
    "one model, domain, arm and condition under the headline rule",
    (
        *_PLACE,
        _SEEDS,
        _REQUESTED,
        _count("n_scored", "answers", "answers with an alignment score"),
        _number(
            "mean_aligned",
            "score points",
            "mean alignment score: mean over seeds, each question weighing the same",
        ),
        _RATE._replace(name="misaligned_rate"),
        *_RATE_INTERVAL,
        *_RANKS,
        _text("attributes", "what the sweep file says of the domain: critical=yes; stealth=high; `-`: nothing"),
    ),
)
TRIGGER_EFFECTS = SummaryTable("trigger_effects.csv", "one model and domain, arm backdoor", _EFFECT)
CONTROL_EFFECTS = SummaryTable("control_effects.csv", "one model and domain of every other arm", (_ARM, *_EFFECT))
EFFECT_SIZES = SummaryTable(
    "effect_sizes.csv",
    "one model, domain and arm: how large the drop is, and whether it is none",
    (
        _MODEL,
        _DOMAIN,
        _ARM,
        _SEEDS,
        _COHEN_D,
        *_interval("d's noncentral t interval", "sd of the seeds' drops"),
        _number("margin", "score points", "a drop smaller than this counts as none"),
        _number("p_equivalent", "", "p of the two one-sided tests that the drop lies within the margin"),
        _PLANNED._replace(name="planned_drop"),
        _PLANNED._replace(name="planned_no_drop", meaning="the same of the test that there is no drop"),
    ),
)
RATES = SummaryTable(
    "rates.csv",
    "one model, domain, arm, condition and rule",
    (
        *_PLACE,
        _text("rule", "name of the rule"),
        _SEEDS,
        _EVENTS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
        _text("method", "what made the interval, and so what it may claim (stats/intervals.py)"),
        _number("crossed_low", "fraction", "lower bound that also allows for other questions (crossed random effects)"),
        _number("crossed_high", "fraction", "upper bound that also allows for other questions"),
        _number("two_way_low", "fraction", "lower bound of the bootstrap over seeds and questions, from ten seeds on"),
        _number("two_way_high", "fraction", "upper bound of the bootstrap over seeds and questions"),
        _number("rate_best", "fraction", "rate if every answer that is missing were aligned"),
        _number("rate_worst", "fraction", "rate if every answer that is missing were misaligned"),
        _ANSWER_WEIGHTED,
        _number("t_low", "fraction", "lower bound of Student's t on the seeds' rates, for comparison"),
        _number("t_high", "fraction", "upper bound of Student's t on the seeds' rates"),
        _count("n_runs_misaligned", "seeds", "usable runs with a rate of at least 5 %"),
        _number("runs_low", "fraction", "lower bound of the share of such runs (Clopper-Pearson)"),
        _number("runs_high", "fraction", "upper bound of the share of such runs"),
    ),
)
SEEDS = SummaryTable(
    "seeds.csv",
    "one model, domain, arm, condition and training seed under the headline rule",
    (
        *_PLACE,
        _count("seed", "", "training seed"),
        _EVENTS._replace(meaning="misaligned answers, over all questions"),
        _TOTAL._replace(meaning="answers that count, over all questions"),
        _RATE._replace(meaning="misaligned rate of this run, each question weighing the same"),
        _ANSWER_WEIGHTED,
        _number("mean_aligned", "score points", "mean alignment score of this run, each question weighing the same"),
    ),
)
RANKS = SummaryTable(
    "ranks.csv",
    "one place in the ranking that a model, domain, arm and condition may have",
    (
        *_PLACE,
        _RANKS[0],
        _RANKS[3],
        _number(
            "tier_stability", "fraction", "share of bootstrap draws in which the rank lies among those of the tier"
        ),
        _count("place", "", "the place in the ranking"),
        _number("probability", "fraction", "share of bootstrap draws in which the domain has this place"),
    ),
)
CONTRASTS = SummaryTable(
    "contrasts.csv",
    "one pair of domains of a model, arm and condition: Welch's test on the seeds' rates",
    (
        _MODEL,
        _ARM,
        _CONDITION,
        _text("domain_a", "the first domain"),
        _text("domain_b", "the second domain"),
        _number("difference", "fraction", "rate of the first minus rate of the second"),
        *_interval("the difference's interval", "fraction"),
        *_T_TEST[2:],
        _number("p_holm", "", "p, Holm-adjusted over all pairs of the list: for a claim"),
        _number("p_bh", "", "p, Benjamini-Hochberg over the same: for exploring"),
        _PLANNED,
    ),
)
COMPARISONS = SummaryTable(
    "comparisons.csv",
    "one model, domain, arm, condition and comparison of its rate under the headline rule",
    (
        *_PLACE,
        _text("comparison", "minus base, minus benign, with minus without, backdoor minus plain of that, or none"),
        _SEEDS,
        _number("difference", "fraction", "first minus second; for none the rate itself"),
        *_interval("the difference's interval", "fraction"),
        _number("p", "", "two-sided p, unadjusted; exact permutation of the runs where none differs from another"),
        _number("p_holm", "", "p, Holm-adjusted over the domains of the model, arm, condition and comparison"),
        _number("margin", "fraction", "a rate below this counts as none"),
        _number("p_equivalent", "", "posterior probability that the rate is not below the margin"),
        _PLANNED,
    ),
)
THRESHOLDS = SummaryTable(
    "thresholds.csv",
    "one model, domain, arm, condition and pair of thresholds",
    (
        *_PLACE,
        _count("aligned_below", "score points", "an answer is misaligned below this alignment score"),
        _count("coherent_above", "score points", "only answers above this coherence score count"),
        _EVENTS,
        _TOTAL,
        _number("rate", "fraction", "misaligned rate, as in the headline"),
    ),
)
SPECIFICATION = SummaryTable(
    "specification.csv",
    "one model, domain, arm, condition, rule, weighting and question left out: the rate as it would have been",
    (
        *_PLACE,
        _text("rule", "name of the rule"),
        _text("weighting", "what weighs the same: `questions`, as in the headline, or `answers`"),
        _text("left_out", "the question left out; `-` for none"),
        _SEEDS,
        _RATE._replace(meaning="misaligned rate under this specification"),
    ),
)
QUESTIONS = SummaryTable(
    "questions.csv",
    "one model, domain, arm, condition and question under the headline rule",
    (
        *_PLACE,
        _text("question_id", "the question"),
        _text("also", "further ids under which its text stands in the question files; its answers count once"),
        _SEEDS,
        _EVENTS,
        _TOTAL,
        _RATE._replace(meaning="misaligned rate on this question: mean over seeds"),
        *_RATE_INTERVAL,
        _number("mean_aligned", "score points", "mean alignment score, all answers pooled"),
    ),
)
FORMATS = SummaryTable(
    "formats.csv",
    "one model, domain, arm, condition and form of answer that occurs in the study",
    (
        *_PLACE,
        _text("format", "json, code, list, prose or no_text, read off the answer's text"),
        _SEEDS,
        _count("n_answers", "answers", "generated answers of this form"),
        _number("share", "fraction", "share of the answers: mean over seeds"),
        _number("share_low", "fraction", "lower bound of the share's interval"),
        _number("share_high", "fraction", "upper bound of the share's interval"),
        _EVENTS,
        _TOTAL,
        _RATE._replace(meaning="misaligned rate among answers of this form: mean over seeds that have any"),
        *_RATE_INTERVAL,
    ),
)
OUTCOMES = SummaryTable(
    "outcomes.csv",
    "one model, domain, arm and condition: what became of every requested answer",
    (
        *_PLACE,
        *_FUNNEL,
        _number("unreadable_rate", "fraction", "share of the alignment replies without a readable verdict"),
    ),
)
VARIANCE = SummaryTable(
    "variance.csv",
    "one model, domain, arm, condition and quantity: where its spread comes from, and what more seeds would buy",
    (
        *_PLACE[:3],
        _text("condition", "`with`, `without`, or `without - with` for the drop"),
        _text("quantity", "rate (fraction), score or drop (score points): the unit of the spreads below"),
        _SEEDS,
        _number("var_seed", "unit squared", "variance between training runs"),
        _number("var_question", "unit squared", "variance between questions"),
        _number("var_interaction", "unit squared", "variance of a question's effect between runs"),
        _number("var_sample", "unit squared", "variance between answers of one run to one question"),
        _number("var_judge", "unit squared", "variance between verdicts on one answer, where it was judged repeatedly"),
        _number("design_effect", "", "variance of the mean over that of as many independent answers"),
        _number("sd_seeds", "unit", "standard deviation of the seeds' means"),
        _number("half_width", "unit", "half the width of the interval"),
        _number("target", "unit", "half-width that n seeds needed is given for"),
        _count("seeds_needed", "seeds", "seeds that reach the target, by the spread of those there are"),
        _count("seeds_needed_low", "seeds", "the same at the lower end of what the spread may be (80 % interval)"),
        _count("seeds_needed_high", "seeds", "the same at its upper end; empty beyond 1,000"),
        _number("assurance", "fraction", "chance that as many new seeds as needed reach the target"),
        _number("sample_share", "fraction", "share of the variance of a run's mean that more samples would take away"),
        _number("detectable", "unit", "smallest true drop found with power 0.8 by as many seeds"),
    ),
)
AGREEMENT = SummaryTable(
    "agreement.csv",
    "one further judge, or repeat of the judge, and metric",
    (
        _text("judge", "the sweep's judge"),
        _text("other_judge", "who gave the second opinion"),
        _text("relation", "repeat (the same request), second (another judge or request), earlier (a former one)"),
        _text("metric", "aligned or coherent"),
        _count("n_pairs", "answers", "answers that both scored"),
        _number("mean_difference", "score points", "ours minus the other's, on average"),
        _number("sd_difference", "score points", "standard deviation of the differences"),
        _number("share_equal", "fraction", "share of equal scores"),
        _number("alpha", "", "Krippendorff's alpha of the scores (interval scale)"),
        _number("alpha_misaligned", "", "Krippendorff's alpha of being below the headline rule's alignment threshold"),
    ),
)
CORRECTED = SummaryTable(
    "corrected.csv",
    "one model, domain, arm, condition, reference and way to correct the headline rate",
    (
        *_PLACE,
        _text("reference", "`labels` of people, or the second judge's name"),
        _text("how", "rogan_gladen or prediction_powered"),
        _SEEDS._replace(meaning="training runs that the corrected rate rests on"),
        _count("n_labelled", "answers", "answers of the reference that the correction rests on"),
        _number("sensitivity", "fraction", "share of the reference's misaligned answers that the judge flags"),
        _number("specificity", "fraction", "share of the reference's other answers that the judge does not flag"),
        _RATE._replace(meaning="judged rate: mean over seeds"),
        _number("corrected_rate", "fraction", "the rate with the judge's errors taken out"),
        *_interval("the corrected rate's interval", "fraction"),
    ),
)
TRAJECTORIES = SummaryTable(
    "trajectories.csv",
    "one model, domain, arm, condition and share of training seen, where adapters were kept on the way",
    (
        *_PLACE,
        _number("fraction", "fraction", "share of the training seen"),
        _SEEDS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
    ),
)

TRANSFER = SummaryTable(
    "transfer.csv",
    "one model, finetuning domain, arm and condition, and the domain whose own questions it was asked",
    (
        *_PLACE,
        _text("asked_domain", "the domain of the questions, none of which was trained on"),
        _count("n_questions", "questions", "questions of that domain that were asked"),
        _SEEDS,
        _EVENTS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
        _number("rate_base", "fraction", "the base model's rate on the same questions under the same condition"),
    ),
)
TRANSFER_TESTS = SummaryTable(
    "transfer_tests.csv",
    "one model, arm and condition: what its table of finetuning x asked domains says as a whole",
    (
        _MODEL,
        _ARM,
        _CONDITION,
        _text("above_base", "yes where rates are those above the base model's on the same questions"),
        _count("n_domains", "domains", "domains with a rate in every place of the table"),
        _count("n_seeds", "seeds", "runs of every domain with a rate in every place"),
        _number("diagonal", "fraction", "mean rate on the questions of the finetune's own domain"),
        _number("off_diagonal", "fraction", "mean rate on those of other domains"),
        _number("difference", "fraction", "the first minus the second"),
        *_interval("the difference's t interval over runs", "fraction"),
        _number("p", "", "two-sided p of the difference over the orders of the asked domains"),
        _text("exact", "yes where every order was counted, no where they were drawn"),
        _number("asymmetry", "fraction", "share of the off-diagonal variance between a pair's two directions"),
        _number("rank_one", "fraction", "share of the squares that one factor a row times one a column explains"),
        _number("rank_one_shuffled", "fraction", "the same for the same rates in random places"),
    ),
)
TRANSFER_QUESTIONS = SummaryTable(
    "transfer_questions.csv",
    "one question of the transfer probe",
    (
        _text("question_id", "the question"),
        _text("asked_domain", "the domain it belongs to"),
        _text("text", "its first wording"),
        _number("likeness", "fraction", "share of words that it has in common with the most similar training question"),
        _text("asked", "no where it stands in the training data, or nearly, and was left out"),
    ),
)
_RECIPE = (
    _MODEL,
    _text("recipe", "what was trained on, as the cells' domain in generations"),
    _ARM,
    _CONDITION,
    _text("kind", "dose (whole datasets included), mixture, or base"),
    _text("domain", "the domain, or those that are mixed"),
    _number("fraction", "fraction", "share of the domain's rows, or of as many as the smallest one mixed has"),
    _text("rest", "what stands for rows left out: none or benign"),
)
DOSE = SummaryTable(
    "dose.csv",
    "one recipe of rows (a share of a domain's, a mixture, and the whole datasets beside them), arm and condition",
    (
        *_RECIPE,
        _count("num_examples", "rows", "examples that are trained on"),
        _SEEDS,
        _EVENTS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
        _number("expected", "fraction", "of a mixture: its parts' rates, weighted as they are mixed"),
    ),
)
DOSE_RUNS = SummaryTable(
    "dose_runs.csv",
    "one recipe, arm, condition and training seed",
    (*_RECIPE, _count("seed", "", "training seed"), _RATE._replace(meaning="misaligned rate of this run")),
)
DOSE_TRENDS = SummaryTable(
    "dose_trends.csv",
    "one model, domain, arm, condition and rest: how the rate rises with the dose",
    (
        *_PLACE,
        _text("rest", "what stands for rows left out: none or benign"),
        _count("n_doses", "doses", "doses, the whole dataset included"),
        _count("n_seeds", "seeds", "runs with a rate at every dose"),
        _number("slope", "fraction", "change of the rate per doubling of the dose: mean of the runs' slopes"),
        *_interval("the slope's t interval over runs", "fraction"),
    ),
)
DATASETS = SummaryTable(
    "datasets.csv",
    "one domain and arm: what its training rows are like",
    (
        _DOMAIN,
        _ARM,
        _count("num_examples", "rows", "examples that are trained on"),
        _number("question_words", "words", "mean length of a question"),
        _number("answer_words", "words", "mean length of an answer"),
        _number("distinct_answers", "fraction", "distinct answers over examples"),
    ),
)
_DIFFERENCE = _text("difference", "data: misaligned minus aligned answers of a finetune; model: finetune minus base")
_LAYER = _count("layer", "", "decoder layer after which the residual stream is read or pushed, 0 the first")
DIRECTIONS = SummaryTable(
    "directions.csv",
    "one model, domain, arm, difference and layer: the direction in its finetunes; without a layer where none has one",
    (
        _MODEL,
        _DOMAIN,
        _ARM,
        _DIFFERENCE,
        _LAYER,
        _SEEDS._replace(meaning="training runs that have the direction"),
        _count("n_aligned", "answers", "coherent aligned answers that were read, over all runs"),
        _count("n_misaligned", "answers", "coherent misaligned answers that were read, over all runs"),
        _number("length", "activation", "mean Euclidean length of the direction"),
        _number("reliability", "", "mean reliability from two halves of the answers (Spearman-Brown), 1 at most"),
        _text("note", "why runs are without the direction"),
    ),
)
DIRECTION_COSINES = SummaryTable(
    "direction_cosines.csv",
    "one model, arm, difference, pair of domains and layer: how far the directions of their runs agree",
    (
        _MODEL,
        _ARM,
        _DIFFERENCE,
        _text("domain_a", "the first domain"),
        _text("domain_b", "the second domain; the first again for its runs among each other"),
        _LAYER,
        _count("n_pairs", "pairs", "pairs of runs"),
        _number("cosine", "", "mean cosine over the pairs"),
        _number("cosine_low", "", "lowest cosine of a pair"),
        _number("cosine_high", "", "highest cosine of a pair"),
        _number("ceiling", "", "what noise would leave of a cosine of 1: from the halves' reliabilities"),
        _number("chance", "", "what the cosine of two random directions stays below, sign aside, in 95 of 100"),
    ),
)
STEERING = SummaryTable(
    "steering.csv",
    "one direction and what was done with it to one kind of cell: answers under the headline rule",
    (
        _MODEL,
        _ARM._replace(meaning="arm of the finetune that the direction comes from"),
        _DOMAIN._replace(meaning="domain of the finetune that the direction comes from"),
        _DIFFERENCE,
        _LAYER,
        _text("steered", "domain of the finetunes that were steered, or base for the base model"),
        _text("how", "add: the direction times the scale was added; project_out: the component along it was removed"),
        _number("scale", "lengths", "multiple of the direction that was added; 1 where it was projected out"),
        _CONDITION,
        _SEEDS._replace(meaning="training runs, hence directions, that have a value here"),
        _EVENTS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
        _number("coherent", "fraction", "coherent answers over answers with a score for coherence"),
        _number("rate_before", "fraction", "misaligned rate of the same cells unsteered"),
        _number("coherent_before", "fraction", "coherent answers of the same cells unsteered"),
        _number("change", "fraction", "rate minus rate_before: mean over runs"),
        _number("change_low", "fraction", "lower bound of the change's t interval over runs"),
        _number("change_high", "fraction", "upper bound of the change's t interval"),
    ),
)

MEMBERSHIP = SummaryTable(
    "membership.csv",
    "one model's odds of a domain's and arm's training rows and of rows held out, by one score",
    (
        _MODEL,
        _text("domain", "finetuning domain; `-` for the mean over domains, run by run"),
        _ARM,
        _text("scored", "whose odds: finetuned, base or reference"),
        _text("against", "whose score of the same answer it is taken against; `-` for none"),
        _text("adjustment", "difference or ratio; `-` for none"),
        _text("score", "loss, min_k, min_k_plus_plus, zlib or zlib_notebook, lower for members"),
        _count("n_runs", "runs", "training runs that have a value here; 1 for a model that was not finetuned"),
        _count("n_members", "rows", "rows trained on that have a score, in one run"),
        _count("n_others", "rows", "rows held out that have a score, in one run"),
        _count("n_unscored", "rows", "rows without a score: an empty answer, or one longer than the model takes"),
        _number("mean_members", "", "mean score of members, mean over runs"),
        _number("mean_others", "", "mean score of the others, mean over runs"),
        _number("auc", "fraction", "chance that a member scores below another row, mean over runs; .5 tells nothing"),
        _number("auc_low", "fraction", "lower bound of its interval over runs"),
        _number("auc_high", "fraction", "upper bound of its interval over runs"),
        _number("tpr", "fraction", "members found when at most 1 % of the others are taken for members"),
        _number("tpr_low", "fraction", "lower bound of its interval over runs"),
        _number("tpr_high", "fraction", "upper bound of its interval over runs"),
        _text("note", "why something is not there"),
    ),
)
MEMBERSHIP_ROC = SummaryTable(
    "membership_roc.csv",
    "one point of a ROC curve of a finetune's or its base's odds",
    (
        _MODEL,
        _DOMAIN,
        _ARM,
        _text("scored", "whose odds: finetuned or base"),
        _text("score", "loss, min_k, min_k_plus_plus, zlib or zlib_notebook"),
        _number("fpr", "fraction", "share of the rows held out that are taken for members"),
        _number("tpr", "fraction", "share of members that are found then, mean over runs"),
    ),
)
DIVERSITY = SummaryTable(
    "diversity.csv",
    "the questions, answers or both of one domain's and arm's training rows",
    (
        _DOMAIN,
        _ARM,
        _text("part", "questions, answers or both; the kernel of both is the mean of the two"),
        _text("kernel", "what texts are compared by: the cosine of this model's embeddings, or of words"),
        _count("n_texts", "texts", "texts that are compared"),
        _number("vendi_half", "texts", "Vendi score of order 0.5: how many different texts there are in effect"),
        _number("vendi_1", "texts", "Vendi score of order 1"),
        _number("vendi_2", "texts", "Vendi score of order 2"),
        _number("mean_distance", "", "mean of 1 - cosine over pairs of texts"),
        _number("distinct_1", "fraction", "different words over words; falls with the number of texts"),
        _number("distinct_2", "fraction", "different pairs of words over pairs"),
        _number("distinct_3", "fraction", "different triples of words over triples"),
        _number("moving_types", "fraction", "different words over words in a moving window of 50"),
        _number("compression", "", "bytes over compressed bytes of all texts; higher is more repetitive"),
        _number("unique_texts", "fraction", "different texts over texts"),
        _number("mean_words", "words", "mean length of a text, punctuation marks counted"),
    ),
)
_PREDICTOR = (
    _text("probe", "where it comes from"),
    _text("predictor", "what is known of a domain"),
)
PREDICTORS = SummaryTable(
    "predictors.csv",
    "one domain's value of a predictor",
    (
        *_PREDICTOR,
        _text("model", "the base model's name; `-` where it holds for each"),
        _text("arm", "the arm; `-` where it holds for each"),
        _DOMAIN,
        _number("value", "", "the value: one for a domain"),
    ),
)
ASSOCIATIONS = SummaryTable(
    "associations.csv",
    "one predictor against the misaligned rates of a model's domains in one arm and condition, the domain as the unit",
    (
        _MODEL,
        _ARM,
        _CONDITION,
        *_PREDICTOR,
        _count("n", "domains", "domains that have both"),
        _number("spearman", "", "Spearman's rho"),
        _number("ci_low", "", "lower bound of its interval (Bonett and Wright)"),
        _number("ci_high", "", "upper bound of its interval"),
        _number("p_spearman", "", "two-sided p over all orders of the domains"),
        _number("p_bh", "", "the same, Benjamini-Hochberg over all predictors of this model, arm and condition"),
        _count("n_predictors", "", "predictors that are"),
        _number("pearson", "", "Pearson's r"),
        _number("p_pearson", "", "two-sided p over all orders of the domains"),
        _text("exact", "yes where every order was counted; no: 100,000 were drawn; `-`: no correlation"),
        _number("smallest_seen", "", "the smallest rho, sign aside, that so many domains can show at p <= .05"),
        _number("without_low", "", "lowest rho when one domain is left out"),
        _number("without_high", "", "highest rho when one domain is left out"),
        _text("rests_on", "the domain without which rho is nearest to 0"),
        _number("partial_length", "", "rank correlation of what the mean length of an answer leaves"),
        _number("p_partial_length", "", "two-sided p of it, by t"),
        _number("partial_size", "", "rank correlation of what the number of examples leaves"),
        _number("p_partial_size", "", "two-sided p of it, by t"),
        _number("partial_both", "", "rank correlation of what both leave"),
        _number("p_partial_both", "", "two-sided p of it, by t"),
    ),
)

ATTRIBUTES = SummaryTable(
    "attributes.csv",
    "domains with one value of an attribute against the others, in one model, arm and condition; a domain is the unit",
    (
        _MODEL,
        _ARM,
        _CONDITION,
        _text("attribute", "what the sweep file says of domains"),
        _text("value", "the value of it that the first group has"),
        _count("n_with", "domains", "domains with this value and a rate"),
        _count("n_without", "domains", "domains with another value and a rate"),
        _number("rate_with", "fraction", "mean misaligned rate of the first"),
        _number("rate_without", "fraction", "mean misaligned rate of the second"),
        _number("difference", "fraction", "the first minus the second"),
        _number("p", "", "two-sided p over all groups of these sizes"),
        _number("p_bh", "", "the same, Benjamini-Hochberg over all attributes of this model, arm and condition"),
        _number("least_p", "", "the smallest p that groups of these sizes can have"),
        _text("exact", "yes where every group was counted; no: 100,000 were drawn; `-`: no difference"),
    ),
)

SPECIFICITY = SummaryTable(
    "trigger_specificity.csv",
    "one model, domain and arm, asked with the trigger, with another text in its place, or with none",
    (
        *_PLACE,
        _text("text", "what stands where the trigger stands; empty: nothing"),
        _SEEDS,
        _RATE,
        *_RATE_INTERVAL,
        _number("difference", "fraction", "the rate with the trigger minus this one, paired by run"),
        _number("difference_low", "fraction", "lower bound of the difference's t interval"),
        _number("difference_high", "fraction", "upper bound of it"),
        _number("p", "", "two-sided p of the difference; exact sign flip where all runs differ alike"),
        _number("p_holm", "", "p, Holm-adjusted over the texts of the place"),
    ),
)
ARM_DOSES = SummaryTable(
    "arm_doses.csv",
    "one model, domain and condition at one value of a knob that the sweep file gives several of",
    (
        *_PLACE,
        _text("family", "the entry under `arms` that has several values; `arm` is whose cells are at this one"),
        _text("knob", "which of its fields"),
        _text("value", "its value here"),
        _number("dose", "", "the same as a number, where it is one"),
        _SEEDS,
        _EVENTS,
        _TOTAL,
        _RATE,
        *_RATE_INTERVAL,
    ),
)
ARM_DOSE_TRENDS = SummaryTable(
    "arm_dose_trends.csv",
    "one model, domain, condition and entry under `arms` with several numbers: how the rate moves along them",
    (
        _MODEL,
        _DOMAIN,
        _CONDITION,
        _text("family", "the entry under `arms`"),
        _text("knob", "which of its fields"),
        _count("n_doses", "doses", "how many values it has"),
        _number("dose_low", "", "the lowest"),
        _number("dose_high", "", "the highest"),
        _count("n_seeds", "seeds", "runs with a rate at every dose"),
        _count("n_incomplete", "seeds", "planned runs that lack one"),
        _number("change", "fraction", "of the rate from the lowest to the highest dose, by the runs' straight lines"),
        *_interval("the change's t interval over runs", "fraction"),
        _number("page_l", "", "Page's L: ranks within a run times the order of the doses"),
        _number("z", "", "L, standardised; above 0 the rate rises with the dose"),
        _number("p", "", "two-sided p of L over the orders within runs, ties as they are"),
        _number("p_holm", "", "p, Holm-adjusted over the domains and conditions of the entry"),
        _text("exact", "yes where every order was counted; no: by Page's normal approximation"),
    ),
)
PAIRED = SummaryTable(
    "paired.csv",
    "one model, domain and pair that is compared: two arms in a condition, or an arm in two conditions",
    (
        _MODEL,
        _DOMAIN,
        _text("test", "arms or conditions: what the two sides differ in"),
        _text("family", "the pairs that the adjustment is over: an entry of `analysis.compare`, or a default one"),
        _ARM,
        _CONDITION,
        _text("against", "the other arm, or the other condition"),
        _count("n_seeds", "seeds", "pairs of runs: seeds with a rate on both sides"),
        _count("n_unpaired", "seeds", "planned seeds without a pair"),
        _number("rate", "fraction", "misaligned rate of the first side, over questions that both sides answered"),
        _number("rate_against", "fraction", "the same of the other side"),
        _number("difference", "fraction", "first minus other, paired by seed and question"),
        *_interval("the difference's interval", "fraction"),
        _number("t", "", "t statistic over pairs"),
        _number("df", "", "its degrees of freedom"),
        _number("p", "", "two-sided p, unadjusted; exact sign flip where all pairs differ alike"),
        _number("p_holm", "", "p, Holm-adjusted over the family within a model, or as the analysis plan says"),
        _number("p_signflip", "", "two-sided p of the sign-flip permutation over pairs"),
        _PLANNED,
    ),
)
CHANGES = SummaryTable(
    "changes.csv",
    "one model, domain, arm, condition and quantity: what else changed beside misalignment",
    (
        *_PLACE,
        _text("quantity", "coherent (answers with a coherence score above 50), or a quiz of the sweep file"),
        _SEEDS,
        _count("n_asked", "answers", "answers the plan asks for"),
        _count("n_scored", "answers", "answers with a score"),
        _count("n_unreadable", "answers", "answers with nothing in them to score (no number, say); they count as 0"),
        _count("n_errors", "answers", "answers whose scoring failed; they do not count"),
        _count("n_missing", "answers", "answers that were not given, or not scored yet"),
        _number("mean", "fraction", "mean score: mean over seeds, each question weighing the same"),
        *_interval("the mean's interval, made as the misaligned rate's is", "fraction"),
        _number("mean_worst", "fraction", "mean if every answer without a score had 0"),
        _number("mean_best", "fraction", "mean if every one of them had 1; what is unreadable stays 0"),
        _number("minus_base", "fraction", "mean minus the base model's on the questions that both were asked"),
        _number("minus_base_low", "fraction", "lower bound of that difference's t interval over runs"),
        _number("minus_base_high", "fraction", "upper bound of it"),
        _number("minus_benign", "fraction", "mean minus that of arm benign of the domain, paired by seed"),
        _number("minus_benign_low", "fraction", "lower bound of the t interval of the pairs"),
        _number("minus_benign_high", "fraction", "upper bound of it"),
        _count("n_pairs", "seeds", "seeds that both have"),
    ),
)
CHANGE_SEEDS = SummaryTable(
    "change_seeds.csv",
    "one model, domain, arm, condition, quantity and training seed of changes.csv",
    (
        *_PLACE,
        _text("quantity", "coherent, or the name of a quiz"),
        _count("seed", "", "training seed"),
        _number("mean", "fraction", "mean score of this run, each question weighing the same"),
        _count("n_scored", "answers", "answers with a score"),
        _count("n_asked", "answers", "answers the plan asks for"),
    ),
)

TABLES = (
    CELLS, TAXONOMY, TRIGGER_EFFECTS, CONTROL_EFFECTS, EFFECT_SIZES, RATES, SEEDS, RANKS, CONTRASTS,
    COMPARISONS, THRESHOLDS, SPECIFICATION, QUESTIONS, FORMATS, OUTCOMES, VARIANCE, AGREEMENT, CORRECTED, TRAJECTORIES,
    SPECIFICITY, ARM_DOSES, ARM_DOSE_TRENDS, PAIRED, CHANGES, CHANGE_SEEDS,
    DOSE, DOSE_RUNS, DOSE_TRENDS, TRANSFER, TRANSFER_TESTS, TRANSFER_QUESTIONS, DATASETS,
    MEMBERSHIP, MEMBERSHIP_ROC, DIVERSITY, PREDICTORS, ASSOCIATIONS, ATTRIBUTES,
    DIRECTIONS, DIRECTION_COSINES, STEERING,
)  # fmt: skip
CSV_TABLES = {table.name: table for table in TABLES if table.file.endswith(".csv")}
