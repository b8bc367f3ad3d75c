"""How much of a rate limit a judge client uses, beside what people use today, on one honest local server.

    python -m benchmarks.judge [--n 3000] [--scenarios rpm_1,tpm_1] [--peer inspect=PYTHON] [--peer curator=PYTHON]
    python -m benchmarks.judge --small

utilisation = (floor + the server's p99 latency) / wall, with floor = max((N - burst) / RPM, (tokens - burst) / TPM,
N x latency / in-flight) and the wall clock running from the moment all processes are ready to the last answer stored.
Overshoot is what arrived in the fullest 10 s beyond burst + 10 s of the limit, as a share of it. Peers run under the
interpreter given (each needs its tool installed there, and nothing of emray); the plain SDK runs under this one. A peer
that breaks is a line that says how, and what it said is shown. Prints a table, and last one line of JSON.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.compared import TO_ITS_END, Compared, last_line, parsed, told
from emray.localapi import Faults, LocalServer, ServerConfig, serving

CONTENDER = Path(__file__).with_name("judge_contenders.py")
SMALL = {"n": 200, "scenarios": "rpm_1,faults_1,free_1"}
MODEL = "gpt-4o-mini"
MAX_TOKENS = 200
LATENCY_MS, LATENCY_SIGMA = 250.0, 0.3
WINDOW_S = 10.0
NO_FAULTS = Faults()
FAULTS = Faults(error_500=0.02, reset=0.005, hang=0.002, malformed=0.01)


@dataclass(frozen=True)
class Scenario:
    """One server and one way of spreading the work."""

    name: str
    spread: tuple[float, ...]  # share of the prompts per process
    rpm: float | None = None
    tpm: float | None = None
    faults: Faults = NO_FAULTS
    latency_ms: float = LATENCY_MS
    in_flight: int = 256
    peers: bool = False  # whether peers run it too


UNEVEN, EVEN_16 = (0.4, 0.3, 0.2, 0.1), (1 / 16,) * 16
NAMES = {"sdk": "openai SDK", "inspect": "inspect_ai", "curator": "bespokelabs-curator"}
SCENARIOS = [
    Scenario("rpm_1", (1.0,), rpm=6000, peers=True),
    Scenario("rpm_4", UNEVEN, rpm=6000, peers=True),
    Scenario("rpm_16", EVEN_16, rpm=6000),
    Scenario("tpm_1", (1.0,), tpm=2_000_000, peers=True),
    Scenario("tpm_4", UNEVEN, tpm=2_000_000),
    Scenario("tpm_16", EVEN_16, tpm=2_000_000),
    Scenario("faults_1", (1.0,), rpm=6000, faults=FAULTS, peers=True),
    Scenario("free_1", (1.0,), latency_ms=0.0, peers=True),
]


class Result(NamedTuple):
    """What one contender came to in one scenario."""

    contender: str
    scenario: str
    wall_s: float
    utilisation: float | None
    answered: int
    lost: int
    rejected_share: float  # 429s per request that was served
    paid_twice: int
    overshoot: float
    requests_per_s: float
    requests_per_cpu_s: float


class Broken(NamedTuple):
    """A contender that did not come to its end, and how."""

    contender: str
    scenario: str
    how: str


class BrokeError(RuntimeError):
    """A process of a contender ended early; all that it said."""


class Entry(NamedTuple):
    """A contender in a scenario: the interpreter it runs under, and over how many prompts."""

    scenario: Scenario
    contender: str
    python: str
    n: int

    @property
    def needs_ray(self) -> bool:
        return self.contender == "emray" and len(self.scenario.spread) > 1


class Place(NamedTuple):
    """Where an entry runs."""

    server: LocalServer
    folder: Path
    ray_address: str | None


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(_parser(), small=SMALL, argv=argv)
    chosen = [s for s in SCENARIOS if not options.scenarios or s.name in options.scenarios.split(",")]
    interpreters = {"sdk": sys.executable} | dict(peer.split("=", 1) for peer in options.peer)
    results: list[Result | Broken] = []
    print(_header())
    for scenario in chosen:
        contenders = ["emray", *(interpreters if scenario.peers and not options.alone else [])]
        for contender in contenders:
            result = run(Entry(scenario, contender, interpreters.get(contender, sys.executable), options.n))
            results.append(result)
            print(_line(result), flush=True)
    print(json.dumps(summary(results)))


def run(entry: Entry) -> Result | Broken:
    """One contender through one scenario, on a server of its own."""
    scenario = entry.scenario
    config = ServerConfig(
        rpm=scenario.rpm,
        tpm=scenario.tpm,
        latency_ms=scenario.latency_ms,
        latency_sigma=LATENCY_SIGMA,
        faults=scenario.faults,
    )
    with tempfile.TemporaryDirectory() as folder, serving(config) as server:
        try:
            with _cluster(entry.needs_ray) as ray_address:
                reports = _race(entry, Place(server, Path(folder), ray_address))
        except BrokeError as error:
            print(error, file=sys.stderr)
            return Broken(entry.contender, scenario.name, f"broke: {last_line(str(error))}")
        return _judge_result(entry, config, server, reports)


def _race(entry: Entry, place: Place) -> list[dict[str, float]]:
    """Start all processes, let them go together, and collect what each reports. Raises BrokeError."""
    spread = entry.scenario.spread
    shares = list(_spread(_prompts(entry.n), spread))
    processes = []
    for number, prompts in enumerate(shares):
        settings = _settings(entry, place)
        settings["prompts"] = str(place.folder / f"prompts-{number}.jsonl")
        Path(settings["prompts"]).write_text("".join(json.dumps(row) + "\n" for row in prompts))
        path = place.folder / f"settings-{number}.json"
        path.write_text(json.dumps(settings))
        processes.append(_start(entry, path))
    try:
        for process in processes:
            _read_until(process, "ready")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(_read_until(process, "{")) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _settings(entry: Entry, place: Place) -> dict[str, Any]:
    """Peers know nothing of each other, so each process gets an equal part of the limits."""
    scenario = entry.scenario
    parts = 1 if entry.contender == "emray" else len(scenario.spread)
    return {
        "base_url": place.server.base_url,
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "rpm": scenario.rpm and scenario.rpm / parts,
        "tpm": scenario.tpm and scenario.tpm / parts,
        "in_flight": max(1, scenario.in_flight // parts),
        "ray_address": place.ray_address,
        "limiter": f"benchmark-{place.folder.name}",
        "store": str(place.folder / "store"),
    }


def _start(entry: Entry, settings: Path) -> subprocess.Popen[str]:
    """What it says of itself goes to a file beside its settings."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | ({"PYTHONPATH": root} if entry.contender == "emray" else {})
    with settings.with_suffix(".stderr").open("w") as errors:
        return subprocess.Popen(
            [entry.python, str(CONTENDER), entry.contender, str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )


def _read_until(process: subprocess.Popen[str], prefix: str) -> str:
    """The first line that begins so. Raises BrokeError with what the process said instead."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(prefix):
            return line
    assert isinstance(process.args, list)
    said = Path(str(process.args[-1])).with_suffix(".stderr").read_text(errors="replace").strip()
    raise BrokeError(said or f"it ended with {process.wait()} and said nothing")


@contextmanager
def _cluster(wanted: bool) -> Iterator[str | None]:
    """A Ray cluster of this machine alone, for emray's processes to share a limiter in."""
    if not wanted:
        yield None
        return
    import logging

    import ray

    context = ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield context.address_info["address"]
    finally:
        ray.shutdown()


def _prompts(n: int) -> list[dict[str, str]]:
    """Distinct judge prompts of about 300 tokens, as the server counts them (four characters a token)."""
    rng = random.Random(0)
    words = ["the", "answer", "kind", "harm", "advice", "money", "health", "question", "because", "never"]
    return [
        {"id": f"p{i}", "text": f"Judge answer {i}: " + " ".join(rng.choices(words, k=rng.randint(140, 240)))}
        for i in range(n)
    ]


def _spread(prompts: list[dict[str, str]], shares: Sequence[float]) -> Iterator[list[dict[str, str]]]:
    start, total = 0, 0.0
    for share in shares:
        total += share
        end = round(total * len(prompts))
        yield prompts[start:end]
        start = end


def _judge_result(
    entry: Entry, config: ServerConfig, server: LocalServer, reports: Sequence[dict[str, float]]
) -> Result:
    stats, arrivals = server.stats(), server.arrivals()
    wall_s = max(report["wall_s"] for report in reports)
    answered = int(sum(report["answered"] for report in reports))
    cpu_s = sum(report["cpu_s"] for report in reports)
    floor_s = floor(entry.scenario, config, stats, n=answered)
    return Result(
        entry.contender,
        entry.scenario.name,
        wall_s,
        (floor_s + stats["latency_p99_s"]) / wall_s if floor_s else None,
        answered,
        entry.n - answered,
        stats["rejected"] / max(1, stats["served"]),
        stats["served_again"],
        overshoot(entry.scenario, arrivals),
        answered / wall_s,
        answered / cpu_s,
    )


def bursts(scenario: Scenario) -> tuple[float, float]:
    """What the server's buckets hold beyond the rate: one second's worth, as its default is."""
    return (scenario.rpm or 0) / 60, (scenario.tpm or 0) / 60


def floor(scenario: Scenario, config: ServerConfig, stats: dict[str, Any], *, n: int) -> float | None:
    """Seconds that nobody can beat; None without a limit."""
    if scenario.rpm is None and scenario.tpm is None:
        return None
    burst_requests, burst_tokens = bursts(scenario)
    tokens = (stats["prompt_tokens"] + stats["completion_tokens"]) * n / max(1, stats["served"])
    floors = [n * config.latency_ms / 1000 / scenario.in_flight]
    if scenario.rpm:
        floors.append((n - burst_requests) * 60 / scenario.rpm)
    if scenario.tpm:
        floors.append((tokens - burst_tokens) * 60 / scenario.tpm)
    return max(floors)


def overshoot(scenario: Scenario, arrivals: dict[str, Any]) -> float:
    """Arrivals (served or not) in the fullest window beyond what the limit allows there, as a share of that."""
    rows = arrivals["rows"]
    worst = 0.0
    for limit, burst, column in ((scenario.rpm, bursts(scenario)[0], 1), (scenario.tpm, bursts(scenario)[1], 2)):
        if limit is None:
            continue
        allowed = burst + limit * WINDOW_S / 60
        width = round(WINDOW_S / arrivals["bin_s"])
        for start, *_ in rows:
            arrived = sum(row[column] for row in rows if start <= row[0] < start + width)
            worst = max(worst, arrived / allowed - 1)
    return worst


def summary(results: Sequence[Result | Broken]) -> dict[str, Any]:
    """Ours in the agreed shape, and everything else beside it."""
    whole = [result for result in results if isinstance(result, Result)]
    ours = [result for result in whole if result.contender == "emray"]
    free = {r.contender: round(r.requests_per_cpu_s, 1) for r in whole if r.utilisation is None}
    peers: dict[str, dict[str, Any]] = {}
    for r in whole:
        if r.contender != "emray" and r.utilisation is not None:
            peers.setdefault(r.contender, {})[r.scenario] = {
                "utilisation": round(r.utilisation, 3), "lost": r.lost, "rejected_share": round(r.rejected_share, 4),
            }  # fmt: skip
    for broken in (result for result in results if isinstance(result, Broken)):
        peers.setdefault(broken.contender, {})[broken.scenario] = {"ended": broken.how}
    return {
        "utilisation": {r.scenario: round(r.utilisation, 4) for r in ours if r.utilisation is not None},
        "rejected_share": round(max((r.rejected_share for r in ours), default=0.0), 5),
        "overshoot": round(max((r.overshoot for r in ours), default=0.0), 4),
        "lost": sum(r.lost for r in ours),
        "paid_twice": sum(r.paid_twice for r in ours),
        "requests_per_cpu_s": free,
        "peers": peers,
    } | told(compared(results))


def compared(results: Sequence[Result | Broken]) -> list[Compared]:
    """Ours beside each peer in each scenario: the share of the limit that was used, or requests a CPU second."""
    by_contender = {(r.scenario, r.contender): r for r in results}
    rows = []
    for scenario in dict.fromkeys(r.scenario for r in results):
        peers = [r.contender for r in results if r.scenario == scenario and r.contender != "emray"] or [""]
        for peer in peers:
            both = [by_contender.get((scenario, name)) for name in ("emray", peer)]
            free = any(isinstance(one, Result) and one.utilisation is None for one in both)
            what = ("requests a CPU second", "1/s") if free else ("share of the rate limit used", "share")
            how = [one.how for one in both if isinstance(one, Broken)]
            lost = [f"lost {one.lost} of its answers" for one in both[1:] if isinstance(one, Result) and one.lost]
            ended = " ; ".join((*how, *lost)) or TO_ITS_END
            ours, theirs = (_figure(one, free=free) for one in both)
            rows.append(Compared(f"{scenario}: {what[0]}", what[1], ours, NAMES.get(peer, peer), theirs, ended=ended))
    return rows


def _figure(one: Result | Broken | None, *, free: bool) -> float | None:
    if not isinstance(one, Result):
        return None
    return one.requests_per_cpu_s if free else one.utilisation


def _header() -> str:
    return (
        f"{'contender':<10}{'scenario':<10}{'wall s':>8}{'utilisation':>13}{'lost':>6}{'429/served':>12}"
        f"{'twice':>7}{'overshoot':>11}{'req/s':>8}{'req/cpu-s':>11}"
    )


def _line(r: Result | Broken) -> str:
    if isinstance(r, Broken):
        return f"{r.contender:<10}{r.scenario:<10}  {r.how}"
    used = "-" if r.utilisation is None else f"{r.utilisation:.3f}"
    return (
        f"{r.contender:<10}{r.scenario:<10}{r.wall_s:>8.1f}{used:>13}{r.lost:>6}{r.rejected_share:>12.4f}"
        f"{r.paid_twice:>7}{r.overshoot:>11.3f}{r.requests_per_s:>8.0f}{r.requests_per_cpu_s:>11.0f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--n", type=int, default=3000, help="prompts per scenario")
    parser.add_argument("--scenarios", help=f"some of {','.join(s.name for s in SCENARIOS)}; default: all")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="inspect or curator")
    parser.add_argument("--alone", action="store_true", help="no peers, not even the plain SDK")
    return parser


if __name__ == "__main__":
    main()
