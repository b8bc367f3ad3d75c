"""The tables of a run folder that stages share: generations, verdicts, marks and measurements, column by column.

Not for summary tables (reduce/). The invariant: every part of a table has exactly these columns.
"""

import pyarrow as pa

GENERATION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("model", pa.string()),
        ("domain", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),  # optimizer step the adapter was taken at
        ("adapter", pa.string()),  # the cell's key
        ("question_id", pa.string()),
        ("paraphrase", pa.int32()),
        ("condition", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),  # JSON list of [role, content]
        ("answer", pa.string()),  # null when nothing was generated
        ("finish_reason", pa.string()),  # FinishReason
        ("num_prompt_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("provenance", pa.string()),  # JSON: engine, version, sampling seed, error
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("generation", pa.string()),  # generation key
        ("metric", pa.string()),  # Metric
        ("outcome", pa.string()),  # Outcome
        ("score", pa.float64()),  # 0-100, null unless scored
        ("judge", pa.string()),  # the judge model that answered
        ("reply", pa.string()),  # null when no reply came
        ("num_prompt_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("cost_usd", pa.float64()),  # of the reply; sum over distinct keys. Null when the price is unknown
        ("asked", pa.string()),  # key of the question's wording and rubric; null in imported results
        ("judge_key", pa.string()),  # key of the judge's settings
    ]
)

MARK_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # hashes the generation key and `asked`
        ("generation", pa.string()),  # generation key
        ("asked", pa.string()),  # key of the way of scoring, the question's wording and what is right
        ("outcome", pa.string()),  # MarkOutcome
        ("score", pa.float64()),  # 0-1, null unless scored
        ("note", pa.string()),  # why there is none; empty where there is one
    ]
)

MEASUREMENT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # of the measurement, which has a row for each reading
        ("subject", pa.string()),  # what of it the reading is about: an example's key, a layer, `-`
        ("measure", pa.string()),  # what was read; `failed` where nothing could be, with the cause as subject
        ("value", pa.float64()),
        ("probe", pa.string()),
        ("model", pa.string()),
        ("domain", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("adapter", pa.string()),  # the cell's key; empty where no model is looked at
    ]
)
