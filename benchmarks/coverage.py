"""How often the headline interval holds the truth, and how wide it is beside Student's t, in worlds made for it.

    python -m benchmarks.coverage [--studies 10000] [--pooled 60] [--processes 2] [--small]

Smooth worlds: runs are logit-normal around a mean rate, 300 answers each. Ugly worlds: some runs misalign, the others
hardly ever do. Prints markdown tables (docs/method.md quotes them); the last line is JSON: least and median coverage of
a nominal 95 % in the smooth worlds, mean width over t's with 3 runs at 30 and 50 %, coverage in the ugly worlds by
number of runs, least coverage under the adaptive stopping rule, and the largest sizes of the trigger test, of Page's
trend over doses and of t on slopes at a nominal 5 %. About eight minutes on two cores.

An interval depends on the mean and the spread of the runs alone (stats/runs.py; a test holds it), so single places are
read from a table of real intervals over both, and whole studies call the real functions.
"""

import argparse
import functools
import json
import multiprocessing
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from benchmarks.compared import Compared, parsed, told
from emray.stats.intervals import t_interval
from emray.stats.power import AdaptiveRule, sequential_level
from emray.stats.runs import LEVELS, Runs, evidence, levels_of_spread, runs_interval, spread_priors
from emray.stats.trend import page_trend, slopes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ANSWERS = 300  # of a run: 15 questions, 20 samples
RATES, SPREADS, SEEDS = (0.005, 0.02, 0.1, 0.3, 0.5), (0.0, 0.5, 1.0, 1.5), (3, 5, 10)
RARE = 0.005  # rate of the runs that do not misalign, in ugly worlds
UGLY = {"one in five at 50 %": (0.2, 0.5), "one in three at 30 %": (1 / 3, 0.3), "half at 60 %": (0.5, 0.6)}
DOSES = 3
SMALL = {"studies": 100, "pooled": 1, "means": 12}
STOPPING = AdaptiveRule(min_seeds=3, max_seeds=10, half_width=0.05)


class World(NamedTuple):
    """Where runs come from: logit-normal with this mean rate and spread, or a share of runs at a rate of its own."""

    rate: float
    spread: float = 0.0
    share: float = 1.0
    high: float = np.nan

    @property
    def smooth(self) -> bool:
        return np.isnan(self.high)

    def rates(self, size: tuple[int, ...], rng: np.random.Generator) -> Floats:
        if not self.smooth:
            return np.where(rng.random(size) < self.share, self.high, RARE)
        return special.expit(centre(self.rate, self.spread) + self.spread * rng.standard_normal(size))

    def counts(self, num_studies: int, num_seeds: int, *, seed: int = 0) -> Ints:
        """Misaligned answers per study and run [B, S], the same for every call."""
        rng = np.random.default_rng([seed, num_seeds, zlib.crc32(repr(self).encode())])
        return rng.binomial(ANSWERS, self.rates((num_studies, num_seeds), rng))


def smooth_worlds() -> list[World]:
    return [World(rate, spread) for rate in RATES for spread in SPREADS]


def ugly_worlds() -> dict[str, World]:
    return {name: World(s * high + (1 - s) * RARE, share=s, high=high) for name, (s, high) in UGLY.items()}


def centre(rate: float, spread: float) -> float:
    """Logit of the median run when the mean run has this rate."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = weights / weights.sum()
    return float(optimize.brentq(lambda mu: weights @ special.expit(mu + spread * nodes) - rate, -20, 10))


# Intervals of many places at once ----------------------------------------------------------------------------------


class Table(NamedTuple):
    """Real intervals over means [M] and spreads [M, L], for one number of runs."""

    means: Floats
    spreads: Floats
    low: Floats
    high: Floats

    def intervals(self, counts_bs: Ints) -> tuple[Floats, Floats]:
        """Bounds [B] for places with these counts, linear between the entries."""
        shares = counts_bs / ANSWERS
        mean, spread = shares.mean(axis=1), shares.std(axis=1)
        row = np.clip(np.searchsorted(self.means, mean, side="right") - 1, 0, len(self.means) - 2)
        part = ((mean - self.means[row]) / (self.means[row + 1] - self.means[row]))[:, None]
        spreads, low, high = ((1 - part) * t[row] + part * t[row + 1] for t in self[1:])
        column = np.clip((spreads < spread[:, None]).sum(axis=1), 1, spreads.shape[1] - 1)
        rows = np.arange(len(mean))
        width = np.maximum(spreads[rows, column] - spreads[rows, column - 1], 1e-12)
        along = np.clip((spread - spreads[rows, column - 1]) / width, 0, 1)
        return tuple((1 - along) * t[rows, column - 1] + along * t[rows, column] for t in (low, high))


def make_table(num_seeds: int, level: float, *, num_means: int = 110) -> Table:
    """Means one event apart where events are few, then ever further, up to nine in ten."""
    events = np.unique(
        np.round(
            np.concatenate(
                [np.arange(min(30, num_means)), np.geomspace(min(30, num_means), 0.97 * ANSWERS * num_seeds, num_means)]
            )
        )
    )
    means = events / (ANSWERS * num_seeds)
    answers = np.full(num_seeds, float(ANSWERS))
    spreads, low, high = (np.empty((len(means), len(LEVELS))) for _ in range(3))
    for i, mean in enumerate(means):
        shares = levels_of_spread(num_seeds, float(mean))
        shares = np.broadcast_to(shares, (len(LEVELS), num_seeds))
        spreads[i] = shares.std(axis=1)
        for j, row in enumerate(shares):
            found = runs_interval(Runs(row, answers), level=level)
            low[i, j], high[i, j] = found.low, found.high
    return Table(means, spreads, low, high)


def t_bounds(counts_bs: Ints, level: float = 0.95) -> tuple[Floats, Floats]:
    """Student's t on the runs' rates, cut to 0-1; Clopper-Pearson on the answers where all runs are equal."""
    shares, num_seeds = counts_bs / ANSWERS, counts_bs.shape[1]
    half = stats.t.ppf((1 + level) / 2, num_seeds - 1) * shares.std(axis=1, ddof=1) / num_seeds**0.5
    low, high = np.maximum(shares.mean(axis=1) - half, 0), np.minimum(shares.mean(axis=1) + half, 1)
    events, total, equal = counts_bs.sum(axis=1), ANSWERS * num_seeds, half == 0
    exact_low = np.nan_to_num(stats.beta.ppf((1 - level) / 2, events, total - events + 1))
    exact_high = np.nan_to_num(stats.beta.ppf((1 + level) / 2, events + 1, total - events), nan=1.0)
    return np.where(equal, exact_low, low), np.where(equal, exact_high, high)


class Found(NamedTuple):
    """Coverage and mean width of the interval, and of t's."""

    coverage: float
    width: float
    t_coverage: float
    t_width: float


def measure(world: World, counts: Ints, table: Table) -> Found:
    figures = []
    for low, high in (table.intervals(counts), t_bounds(counts)):
        figures += [float(((low <= world.rate) & (world.rate <= high)).mean()), float((high - low).mean())]
    return Found(*figures)


def adaptive(world: World, tables: dict[int, Table], num_studies: int) -> tuple[float, float]:
    """Coverage and mean number of runs when runs are added until the interval is narrow enough."""
    counts = world.counts(num_studies, STOPPING.max_seeds, seed=1)
    going = np.ones(num_studies, dtype=bool)
    covered, used = np.zeros(num_studies, dtype=bool), np.zeros(num_studies)
    for num_seeds in range(STOPPING.min_seeds, STOPPING.max_seeds + 1):
        low, high = tables[num_seeds].intervals(counts[:, :num_seeds])
        stops = going & (((high - low) / 2 <= STOPPING.half_width) | (num_seeds == STOPPING.max_seeds))
        covered[stops] = ((low <= world.rate) & (world.rate <= high))[stops]
        used[stops] = num_seeds
        going &= ~stops
    return float(covered.mean()), float(used.mean())


# Whole studies, and the trigger test -------------------------------------------------------------------------------

STUDY_RATES = (0.005, 0.005, 0.02, 0.02, 0.1, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5)  # eleven domains
STUDY_SPREADS = {
    **{f"{spread:g}": (spread,) * 11 for spread in SPREADS},
    "mixed": (0, 1.5, 0.5, 1, 0, 0.5, 1, 0.5, 1.5, 0, 1),
    "one of 1.5": (0,) * 6 + (1.5,) + (0,) * 4,
}


def whole_studies(name: str, num_seeds: int, num_studies: int) -> Found:
    """Coverage and width over all domains with the spread pooled over them; in t's place the same without pooling."""
    worlds = [World(r, float(s)) for r, s in zip(STUDY_RATES, STUDY_SPREADS[name], strict=True)]
    counts = np.stack([world.counts(num_studies, num_seeds, seed=2 + d) for d, world in enumerate(worlds)], axis=1)
    answers, held, widths = np.full(num_seeds, float(ANSWERS)), np.zeros((2, 0)), np.zeros((2, 0))
    for study in counts:
        places = [Runs(row / ANSWERS, answers) for row in study]
        priors = spread_priors([evidence(place) for place in places])
        for world, place, prior in zip(worlds, places, priors, strict=True):
            both = [runs_interval(place, prior=p) for p in (prior, None)]
            held = np.hstack([held, [[one.low <= world.rate <= one.high] for one in both]])
            widths = np.hstack([widths, [[one.high - one.low] for one in both]])
    (pooled, alone), (width, width_alone) = held.mean(axis=1), widths.mean(axis=1)
    return Found(float(pooled), float(width), float(alone), float(width_alone))


def trigger_size(world: World, num_seeds: int, num_studies: int, *, together: bool) -> float:
    """How often the paired test finds an effect that is not there; runs alike under both conditions, or not."""
    rng = np.random.default_rng([7, num_seeds, zlib.crc32(repr(world).encode())])
    without = world.rates((num_studies, num_seeds), rng)
    with_trigger = without if together else world.rates((num_studies, num_seeds), rng)
    drops = (rng.binomial(ANSWERS, without) - rng.binomial(ANSWERS, with_trigger)) / ANSWERS
    sd = drops.std(axis=1, ddof=1)
    t = np.divide(drops.mean(axis=1) * num_seeds**0.5, sd, out=np.zeros(num_studies), where=sd > 1e-12)
    p = 2 * stats.t.sf(np.abs(t), num_seeds - 1)
    same = (sd <= 1e-12) & (np.abs(drops.mean(axis=1)) > 1e-12)  # all runs drop alike: the exact sign-flip p
    return float((np.where(same, 2.0 ** (1 - num_seeds), p) <= 0.05).mean())


def trend_size(world: World, num_seeds: int, num_studies: int, *, together: bool) -> tuple[float, float]:
    """How often Page's test finds a trend over three doses that is not there, and the t interval of the slope misses 0;
    runs alike at every dose, or not.
    """
    rng = np.random.default_rng([9, num_seeds, zlib.crc32(repr(world).encode())])
    rates = world.rates((num_studies, num_seeds, 1 if together else DOSES), rng)
    shares = rng.binomial(ANSWERS, np.broadcast_to(rates, (num_studies, num_seeds, DOSES))) / ANSWERS
    page = [page_trend(table).p <= 0.05 for table in shares]
    line = [t_interval(slopes(table, np.arange(DOSES))) for table in shares]
    return float(np.mean(page)), float(np.mean([one.low > 0 or one.high < 0 for one in line]))


# Printing ----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000, help="simulated places of a world")
    parser.add_argument("--pooled", type=int, default=60, help="simulated whole studies of a kind")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--means", type=int, default=110, help="means that the table of intervals has")
    arguments = parsed(parser, small=SMALL, argv=argv)
    with multiprocessing.Pool(arguments.processes) as pool:
        every = range(STOPPING.min_seeds, STOPPING.max_seeds + 1)
        jobs = [(num, level) for level in sorted({0.95, adaptive_level()}) for num in every]
        make = functools.partial(make_table, num_means=arguments.means)
        tables = dict(zip(jobs, pool.starmap(make, jobs, chunksize=1), strict=True))
        kinds = [(name, num, arguments.pooled) for name in STUDY_SPREADS for num in SEEDS]
        studies = pool.starmap(whole_studies, kinds, chunksize=1)
    summary = {**_places(tables, arguments.studies), **_stopping(tables, arguments.studies)}
    _print("Spread of 11 domains", "pooled", "alone", {kind[:2]: one for kind, one in zip(kinds, studies, strict=True)})
    what = ("least coverage of a nominal 95 %, smooth worlds", "share")
    row = Compared(*what, summary["smooth_min"], "Student's t", summary["t_smooth_min"])
    tests = _trigger(10 * arguments.studies) | _trend(arguments.studies // 10)
    print(json.dumps(summary | tests | told([row])))


def adaptive_level() -> float:
    return sequential_level(min_seeds=STOPPING.min_seeds, max_seeds=STOPPING.max_seeds)


def _places(tables: dict[tuple[int, float], Table], num: int) -> dict[str, Any]:
    """Both tables of single places, and what the summary line takes from them."""
    found: dict[str, dict[tuple[str, int], Found]] = {"smooth": {}, "ugly": {}}
    for kind, worlds in (("smooth", {_name(w): w for w in smooth_worlds()}), ("ugly", ugly_worlds())):
        for name, world in worlds.items():
            for seeds in SEEDS:
                found[kind][name, seeds] = measure(world, world.counts(num, seeds), tables[seeds, 0.95])
        _print("World", "this interval", "t", found[kind])
    coverages = [one.coverage for one in found["smooth"].values()]
    wide = [found["smooth"][_name(World(r, s)), 3] for r in (0.3, 0.5) for s in SPREADS]
    return {
        "smooth_min": round(min(coverages), 4),
        "t_smooth_min": round(min(one.t_coverage for one in found["smooth"].values()), 4),
        "smooth_median": round(float(np.median(coverages)), 4),
        "width_over_t": round(sum(one.width for one in wide) / sum(one.t_width for one in wide), 4),
        "ugly": {f"{name}, {seeds} runs": round(one.coverage, 4) for (name, seeds), one in found["ugly"].items()},
    }


def _stopping(tables: dict[tuple[int, float], Table], num: int) -> dict[str, float]:
    level = adaptive_level()
    by_seeds = {seeds: table for (seeds, at), table in tables.items() if at == level}
    print(f"\n| Runs added until +-{100 * STOPPING.half_width:g} points, {STOPPING.min_seeds} to {STOPPING.max_seeds}, "
          f"intervals at {level:.1%} | coverage | runs used |\n|---|---|---|")  # fmt: skip
    worlds = {_name(w): w for w in smooth_worlds()} | ugly_worlds()
    found = {name: adaptive(world, by_seeds, num) for name, world in worlds.items()}
    for name, (coverage, used) in found.items():
        print(f"| {name} | {coverage:.3f} | {used:.1f} |")
    return {"adaptive_smooth_min": round(min(found[_name(w)][0] for w in smooth_worlds()), 4)}


def _trigger(num: int) -> dict[str, float]:
    print("\n| Size of the trigger test at .05, 3 / 5 / 10 runs | alike under both conditions | apart |\n|---|---|---|")
    sizes = []
    for world in smooth_worlds():
        both = [[trigger_size(world, seeds, num, together=t) for seeds in SEEDS] for t in (True, False)]
        print(f"| {_name(world)} | " + " | ".join(" / ".join(f"{size:.3f}" for size in row) for row in both) + " |")
        sizes += both[0] + both[1]
    return {"trigger_size_max": round(max(sizes), 4)}


def _trend(num: int) -> dict[str, float]:
    print("\n| Size over 3 doses at .05, 3 / 5 / 10 runs | Page, alike at every dose | apart | t on slopes | apart |")
    print("|---|---|---|---|---|")
    largest = {"page": 0.0, "slopes": 0.0}
    for name, world in {**{_name(world): world for world in smooth_worlds()}, **ugly_worlds()}.items():
        both = [[trend_size(world, seeds, num, together=t) for seeds in SEEDS] for t in (True, False)]
        cells = [" / ".join(f"{size[kind]:.3f}" for size in row) for kind in (0, 1) for row in both]
        print(f"| {name} | " + " | ".join(cells) + " |")
        for kind, of in enumerate(largest):
            largest[of] = max(largest[of], *(size[kind] for row in both for size in row))
    return {f"trend_size_max_{of}": round(size, 4) for of, size in largest.items()}


def _name(world: World) -> str:
    return f"rate {world.rate:.1%}, spread {world.spread:g}"


def _print(title: str, ours: str, theirs: str, found: dict[tuple[str, int], Found]) -> None:
    print(f"\n| {title} | runs | {ours}: coverage | width, points | {theirs}: coverage | width |")
    print("|---|---|---|---|---|---|")
    for (name, seeds), one in found.items():
        print(f"| {name} | {seeds} | {one.coverage:.3f} | {100 * one.width:.1f} | {one.t_coverage:.3f} | "
              f"{100 * one.t_width:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
