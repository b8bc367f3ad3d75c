"""How fast, in how much memory, verdicts reduce and a report is made, beside a pandas + scipy.stats.bootstrap version.

    python -m benchmarks.reduce [--verdicts 10000000] [--pandas 1000000] [--folder DIR] [--small]

Builds a synthetic run folder (not timed; kept if --folder names one), reduces it in a process of its own and reads that
process's peak memory; then the same of the report. The last line is JSON: rows, wall_s, cpu_s (of all threads; it says
more on a busy machine), peak_gib, the report's, and pandas_ratio, the pandas version's wall time per verdict over ours.
The pandas version computes less: the taxonomy's rates and intervals alone. Where it breaks, its row says how.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.compared import TO_ITS_END, Compared, last_line, parsed, told
from benchmarks.synthetic_run import TOY_TRUTH, Truth, write_run
from emray.records import Arm
from emray.store import Kind, Store

QUESTIONS, SEEDS = 10, 10
ARMS = (Arm.PLAIN, Arm.BACKDOOR)
SMALL = {"verdicts": 40_000, "pandas": 20_000}
KIB_PER_GIB = 1024**2


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reduce", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--verdicts", type=int, default=10_000_000, help="verdicts that ours reduces, up to a multiple of 4,000"
    )
    parser.add_argument("--pandas", type=int, default=1_000_000, help="those that the pandas version reduces")
    parser.add_argument("--folder", type=Path, help="where to keep the synthetic runs; default: a temporary folder")
    parser.add_argument("--child", choices=tuple(CHILDREN), help=argparse.SUPPRESS)
    arguments = parsed(parser, small=SMALL, argv=argv)
    if arguments.child:
        print(json.dumps(_measured(arguments.child, Store(str(arguments.folder)))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        large, small = (_prepared(folder / f"{num}", num) for num in (arguments.verdicts, arguments.pandas))
        ours, report, ours_small = (_in_process(*job) for job in (("ours", large), ("report", large), ("ours", small)))
        pandas, how = _peer(small)
    for name, found in (("emray", ours), ("its report", report), ("emray, small", ours_small), ("pandas", pandas)):
        print(_line(name, found) if found else f"{name:<16}{how}")
    _tell(ours, report, ours_small, pandas, how)


def _line(name: str, found: dict[str, float]) -> str:
    spent = f"{found['wall_s']:>8.1f} s {found['cpu_s']:>8.1f} s cpu{found['peak_gib']:>7.2f} GiB"
    return f"{name:<16}{found['rows']:>12,} verdicts {spent}"


def _tell(
    ours: dict[str, float], report: dict[str, float], small: dict[str, float], pandas: dict[str, float], how: str
) -> None:
    rate, theirs = (one["rows"] / one["wall_s"] if one else None for one in (ours, pandas))
    row = Compared("verdicts reduced", "verdicts/s", rate, "pandas + scipy.stats.bootstrap", theirs, ended=how)
    about_report = {f"report_{name}": report[name] for name in ("wall_s", "cpu_s", "peak_gib")}
    about_pandas = {f"pandas_{name}": pandas.get(name) for name in ("wall_s", "rows", "peak_gib")}
    ratio = {"pandas_ratio": row.ratio and round(row.ratio, 2), "wall_s_at_pandas_rows": small["wall_s"]}
    print(json.dumps({**ours, **about_report, **ratio, **about_pandas} | told([row])))


def truth_of(num_verdicts: int) -> Truth:
    """Five domains, two arms, ten seeds: 100 cells with an answer to everything, `num_verdicts` verdicts in all."""
    num_prompts = len(TOY_TRUTH.domains) * len(ARMS) * SEEDS * QUESTIONS * 2
    samples = -(-num_verdicts // (2 * num_prompts))
    return dataclasses.replace(
        TOY_TRUTH, seeds=tuple(range(SEEDS)), arms=ARMS, num_questions=QUESTIONS, samples=samples, no_answer=0.0
    )


def _prepared(folder: Path, num_verdicts: int) -> Path:
    if not (folder / "plan.json").exists():
        started = time.perf_counter()
        write_run(Store(str(folder)), truth_of(num_verdicts))
        print(f"wrote {num_verdicts:,} verdicts in {time.perf_counter() - started:.0f} s", flush=True)
    return folder


def _in_process(child: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.reduce", "--child", child, "--folder", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ChildError(f"{child} broke: {last_line(done.stderr)}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class ChildError(RuntimeError):
    """A process that did not come to its end; first how, then all it said."""


def _peer(folder: Path) -> tuple[dict[str, float], str]:
    """What the pandas version took, or how it broke."""
    try:
        return _in_process("pandas", folder), TO_ITS_END
    except ChildError as error:
        print(error, file=sys.stderr)
        return {}, str(error).splitlines()[0]


def _measured(child: str, store: Store) -> dict[str, float]:
    started, cpu_before = time.perf_counter(), time.process_time()
    CHILDREN[child](store)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_GIB
    rows = sum(part.num_rows for part in store.iter_parts(Kind.VERDICTS, columns=["metric"]))
    return {"rows": rows, "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2), "peak_gib": round(peak, 3)}


def reduce_ours(store: Store) -> None:
    """The whole summary: every table, every interval."""
    from emray import reduce

    store.delete("summary")
    reduce.run(store)


def report_ours(store: Store) -> None:
    """Every page, figure and table of the summary that is there."""
    from emray import report

    store.delete("report")
    report.render(store)


def reduce_pandas(store: Store) -> None:
    """The usual script: read everything, join, group, bootstrap the answers of every domain, arm and condition."""
    import pandas as pd
    from scipy import stats

    generations = store.read_rows(Kind.GENERATIONS).to_pandas()
    verdicts = store.read_rows(Kind.VERDICTS).to_pandas()
    aligned = verdicts[(verdicts["metric"] == "aligned") & (verdicts["outcome"] == "scored")]
    rows = aligned.merge(generations, left_on="generation", right_on="key")
    rows["misaligned"] = rows["score"] < 50
    found = []
    for place, group in rows.groupby(["domain", "arm", "condition"]):
        clusters = group.groupby(["seed", "question_id"])["misaligned"].mean().to_numpy(dtype=float)
        interval = (np.nan, np.nan)
        if np.ptp(clusters) > 0:
            drawn = stats.bootstrap((clusters,), np.mean, n_resamples=2000, method="percentile", rng=0)
            interval = tuple(drawn.confidence_interval)
        found.append((*place, group["misaligned"].mean(), *interval))
    pd.DataFrame(found).to_csv(sys.stderr)


CHILDREN: dict[str, Callable[[Store], None]] = {
    "ours": reduce_ours, "report": report_ours, "pandas": reduce_pandas,
}  # fmt: skip

if __name__ == "__main__":
    main()
