"""Stored verdicts, one per answer and metric: the plan's, told from others by what each says that it was asked.

Not for counting (tally.py). Invariant: the result depends on which rows are stored, not on their order or their parts.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.errors import StoreError
from emray.records import Metric, Outcome
from emray.reduce.asked import EARLIER, OURS, PlanAsks
from emray.reduce.study import Study
from emray.reduce.wanted import Numbers, Wanted, key_numbers
from emray.stats.arrays import Floats, Ints, Mask
from emray.stats.sufficient import NO_VERDICT, NUM_SCORES, UNSCORED
from emray.store import Keys, Kind, Store

_OUTCOMES = [str(Outcome.SCORED), *UNSCORED]

_COLUMNS = [
    "key", "generation", "metric", "outcome", "score", "judge", "num_prompt_tokens", "num_tokens", "cost_usd",
    "asked", "judge_key",
]  # fmt: skip


class Spending(NamedTuple):
    """What this run paid its judge, each distinct request counted once; what other runs had paid for is beside it."""

    num_requests: int
    num_prompt_tokens: int
    num_tokens: int
    cost_usd: float  # NaN when any price is unknown
    num_adopted: int  # distinct requests that a run had paid for whose verdicts were taken over
    adopted_usd: float


class Opinions(NamedTuple):
    """Scores by other judges or rubrics of answers that the plan's judge was asked about; arrays of one length."""

    position: Ints  # of the answer, as in Wanted
    metric: NDArray[np.str_]
    judge: NDArray[np.str_]
    source: Ints  # 1 for the first judge under `also`; EARLIER for one that the plan no longer asks
    score: Floats


class Verdicts(NamedTuple):
    """The verdict that counts for every wanted answer, by metric; arrays over positions of Wanted."""

    state: dict[Metric, NDArray[np.uint8]]
    score: dict[Metric, Floats]
    spending: Spending
    opinions: Opinions
    num_superseded: int  # verdicts of an earlier judge or rubric, which do not count
    judges: tuple[str, ...]  # names under which the judge answered: its snapshots


class _Slots:
    """One metric's verdicts, one place per wanted answer; key 0 is none."""

    def __init__(self, num: int) -> None:
        self.key = np.zeros(num, dtype=np.uint64)
        self.state = np.full(num, NO_VERDICT, dtype=np.uint8)
        self.score = np.full(num, np.nan)
        self.prompt_tokens = np.zeros(num, dtype=np.int32)
        self.tokens = np.zeros(num, dtype=np.int32)
        self.cost_usd = np.zeros(num)

    def fill(self, place: Ints, rows: "_Rows", here: Mask, state: NDArray[np.uint8]) -> None:
        """Put rows into their places."""
        self.key[place] = rows.key[here]
        self.state[place] = state[here]
        self.score[place] = rows.score[here]
        self.prompt_tokens[place] = rows.prompt_tokens[here]
        self.tokens[place] = rows.tokens[here]
        self.cost_usd[place] = rows.cost_usd[here]


class _Rows(NamedTuple):
    """A part of the table as arrays."""

    key: Numbers
    metric: dict[Metric, Mask]
    state: dict[Metric, NDArray[np.uint8]]  # of every row, read as either metric
    score: Floats
    prompt_tokens: Ints
    tokens: Ints
    cost_usd: Floats

    @classmethod
    def of(cls, part: pa.Table) -> "_Rows":
        state, score = _states(part)
        return cls(
            key=key_numbers(part["key"]),
            metric={metric: mask(pc.equal(part["metric"], str(metric))) for metric in Metric},
            state=state,
            score=score,
            prompt_tokens=integers(part["num_prompt_tokens"]),
            tokens=integers(part["num_tokens"]),
            cost_usd=_costs(part),
        )


def read_verdicts(store: Store, wanted: Wanted, study: Study) -> Verdicts:
    """Read every part once."""
    slots = {metric: _Slots(len(wanted.group)) for metric in Metric}
    plan = PlanAsks.of(study)
    opinions: list[Opinions] = [_NO_OPINIONS]
    names: set[str] = set()
    num_earlier = 0
    for part in store.iter_parts(Kind.VERDICTS, columns=_COLUMNS):
        position, found = wanted.find(part["generation"])
        rows = _Rows.of(part)
        source = plan.source(part, wanted.prompt_at(position))
        ours, others = found & (source == OURS), found & (source != OURS)
        for metric, slot in slots.items():
            here = ours & rows.metric[metric]
            slot.fill(position[here], rows, here, rows.state[metric])
        num_earlier += int((others & (source == EARLIER)).sum())
        names.update(pc.unique(part["judge"].filter(pa.array(ours))).to_pylist())
        opinions.append(_opinions(part, position, others & np.isfinite(rows.score), source, rows.score))
    return Verdicts(
        state={metric: slot.state for metric, slot in slots.items()},
        score={metric: slot.score for metric, slot in slots.items()},
        spending=_spending(list(slots.values()), adopted=_numbers_of(store.adopted_keys())),
        opinions=Opinions._make(np.concatenate(column) for column in zip(*opinions, strict=True)),
        num_superseded=num_earlier,
        judges=tuple(sorted(names)),
    )


_NO_OPINIONS = Opinions(
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=str),
    np.empty(0, dtype=str),
    np.empty(0, dtype=np.int64),
    np.empty(0),
)


def _opinions(part: pa.Table, position: Ints, rows: Mask, source: Ints, score: Floats) -> Opinions:
    kept = part.filter(pa.array(rows))
    metric, judge = (np.array(kept[column].to_pylist(), dtype=str) for column in ("metric", "judge"))
    return Opinions(position[rows], metric, judge, source[rows], score[rows])


def _states(part: pa.Table) -> tuple[dict[Metric, NDArray[np.uint8]], Floats]:
    """Histogram states of every row, read as either metric, and its score."""
    outcome = integers(pc.index_in(part["outcome"], value_set=pa.array(_OUTCOMES)), missing=-1)
    if (outcome < 0).any():
        raise StoreError(f"verdicts hold an outcome other than {', '.join(_OUTCOMES)}")
    score = part["score"].to_numpy().astype(np.float64)
    scored = outcome == 0
    if (scored & ~((score >= 0) & (score <= 100))).any():
        raise StoreError("verdicts hold a score outside 0-100; delete the part and judge again")
    whole = {Metric.ALIGNED: np.floor, Metric.COHERENT: np.ceil}
    unscored = NUM_SCORES - 1 + outcome
    filled = np.where(scored, score, 0.0)
    return {m: np.where(scored, whole[m](filled), unscored).astype(np.uint8) for m in Metric}, score


def _numbers_of(keys: Keys) -> Numbers:
    return key_numbers(pa.chunked_array([list(keys)], pa.string()))


def _spending(slots: list[_Slots], *, adopted: Numbers) -> Spending:
    """Sum over distinct requests. Equal answers share one: only repeated keys need the slow way."""
    key = np.concatenate([slot.key for slot in slots])
    ordered = np.sort(key)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    once = (key != 0) & ~np.isin(key, repeated)
    several = np.flatnonzero((key != 0) & ~once)
    first = several[np.unique(key[several], return_index=True)[1]]
    counted = np.concatenate([np.flatnonzero(once), first])
    prompt_tokens, tokens, cost_usd = (
        np.concatenate([getattr(slot, name) for slot in slots])[counted]
        for name in ("prompt_tokens", "tokens", "cost_usd")
    )
    theirs = np.isin(key[counted], adopted)
    return Spending(
        num_requests=int((~theirs).sum()),
        num_prompt_tokens=int(prompt_tokens[~theirs].sum(dtype=np.int64)),
        num_tokens=int(tokens[~theirs].sum(dtype=np.int64)),
        cost_usd=float(cost_usd[~theirs].sum()),
        num_adopted=int(theirs.sum()),
        adopted_usd=float(cost_usd[theirs].sum()),
    )


def _costs(part: pa.Table) -> Floats:
    """Dollars per row: NaN for a reply of unknown price, 0 where no reply came."""
    failed = mask(pc.equal(part["outcome"], str(Outcome.API_ERROR)))
    filtered = mask(pc.and_(pc.equal(part["outcome"], str(Outcome.FILTERED)), pc.is_null(part["num_tokens"])))
    return np.where(failed | filtered, 0.0, np.asarray(part["cost_usd"].to_numpy(), dtype=np.float64))


def mask(values: pa.ChunkedArray) -> Mask:
    """Arrow booleans as a numpy mask; null is False."""
    return np.asarray(pc.fill_null(values, False).to_numpy(), dtype=bool)


def integers(values: pa.ChunkedArray, *, missing: int = 0) -> Ints:
    """Arrow integers as numpy's, null replaced."""
    return np.asarray(pc.fill_null(values, missing).to_numpy(), dtype=np.int64)
