"""Whose a stored verdict is: told by the judge's key and by what it says that it was asked.

Not for asking. Invariant: nothing is rendered; a verdict of another judge, rubric or wording is never the plan's. What
was asked for imported results is not known: there the judge alone tells.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emray.data import inquiries
from emray.judge.tasks import judges
from emray.records import KEY_LENGTH, Metric, judge_key, prompt_text
from emray.reduce.study import Study
from emray.reduce.wanted import Numbers, key_numbers
from emray.stats.arrays import Ints

OURS, EARLIER = -1, 0  # of the plan's judge; of one that the plan no longer asks, or not so
_NO_KEY = "0" * KEY_LENGTH


class PlanAsks(NamedTuple):
    """What the plan asks its judges."""

    judge_keys: list[str]
    asked: list[dict[Metric, Numbers]]  # per judge, by metric: the key of what is asked, by index of the prompt

    @classmethod
    def of(cls, study: Study) -> "PlanAsks":
        specs, known = judges(study.sweep.judge), inquiries(study.questions, study.prompts)
        of_prompt = [known[prompt_text(prompt.messages)] for prompt in study.prompts]
        numbers = {}
        for metric in Metric:
            keys = [found[metric].key if metric in found else _NO_KEY for found in of_prompt]
            numbers[metric] = key_numbers(pa.chunked_array([keys], pa.string()))
        by_judge = [{metric: numbers[metric] for metric in spec.metrics} for spec in specs]
        return cls([judge_key(spec.identity()) for spec in specs], by_judge)

    def source(self, verdicts: pa.Table, prompt: Ints) -> Ints:
        """Of each row (metric, asked, judge_key) about an answer to a prompt: OURS, EARLIER, or which under `also`."""
        asked = key_numbers(pc.fill_null(verdicts["asked"], _NO_KEY))
        source = np.full(verdicts.num_rows, EARLIER)
        for number, (judge, by_metric) in enumerate(zip(self.judge_keys, self.asked, strict=True)):
            by_judge = pc.equal(verdicts["judge_key"], judge)
            for metric, expected in by_metric.items():
                rows = pc.fill_null(pc.and_(by_judge, pc.equal(verdicts["metric"], str(metric))), False)
                source[np.asarray(rows, dtype=bool) & (asked == expected[prompt])] = number or OURS
        return source
