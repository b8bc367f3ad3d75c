"""What the server saw: counts a test or a benchmark can hold a client to.

Not for limiting anything. The invariant: every completion asked for by itself is in exactly one of `by_status` (faults
without a status under their own name), every line of a batch that was reached in exactly one of `lines_by_status`; what
was asked and served counts both.
"""

from collections import Counter, defaultdict
from typing import Any

_BIN_S = 0.1  # resolution of the arrival timeline


class Stats:
    """Counters of one server since its start (or the last reset)."""

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.by_key: dict[str, Counter[str]] = defaultdict(Counter)
        self.asked: Counter[str] = Counter()  # arrivals per body digest
        self.served: Counter[str] = Counter()  # whole replies per body digest
        self.timeline: dict[int, list[float]] = defaultdict(lambda: [0, 0, 0, 0])
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.batches: Counter[str] = Counter()  # created, and by how they ended
        self.jobs: Counter[str] = Counter()  # finetuning jobs created, and by how they ended
        self.lines_by_status: Counter[str] = Counter()
        self.lines_served_again = 0
        self.batch_prompt_tokens = 0  # of served lines; prompt_tokens and completion_tokens are without them
        self.batch_completion_tokens = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.latencies_s: list[float] = []

    def arrived(self, digest: str, *, now_s: float, api_key: str) -> int:
        """Count an arrival; returns how often this body had come before."""
        seen = self.asked[digest]
        self.asked[digest] = seen + 1
        self.by_key[api_key]["asked"] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return seen

    def judged(self, num_tokens: int, *, now_s: float, admitted: bool) -> None:
        """Put an arrival on the timeline, admitted or turned away by the limits."""
        entry = self.timeline[int((now_s - self.started_s) / _BIN_S)]
        entry[0] += 1
        entry[1] += num_tokens
        if admitted:
            entry[2] += 1
            entry[3] += num_tokens

    def left(self, outcome: str) -> None:
        """Count how an arrival ended."""
        self.by_status[outcome] += 1
        self.in_flight -= 1

    def answered(
        self, digest: str, *, api_key: str, prompt_tokens: int, completion_tokens: int, latency_s: float
    ) -> None:
        """Count a whole, well-formed reply."""
        self.served[digest] += 1
        self.by_key[api_key]["served"] += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.latencies_s.append(latency_s)

    def line_arrived(self, digest: str) -> int:
        """Count a line of a batch; returns how often its body had come before."""
        seen = self.asked[digest]
        self.asked[digest] = seen + 1
        return seen

    def line_left(self, outcome: str) -> None:
        """Count how a line of a batch ended."""
        self.lines_by_status[outcome] += 1

    def line_answered(self, digest: str, *, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a line whose reply is in an output file."""
        self.lines_served_again += self.served[digest] > 0
        self.served[digest] += 1
        self.lines_by_status["200"] += 1
        self.batch_prompt_tokens += prompt_tokens
        self.batch_completion_tokens += completion_tokens

    def summary(self) -> dict[str, Any]:
        """The counts as JSON. `served_again` is what a client that keeps its replies leaves at 0."""
        return {
            "asked": self.asked.total(),
            "served": self.served.total(),
            "rejected": self.by_status["429"],
            "distinct_asked": len(self.asked),
            "distinct_served": len(self.served),
            "served_again": self.served.total() - len(self.served),
            "most_asked": max(self.asked.values(), default=0),
            "by_status": dict(self.by_status),
            "by_fault": dict(self.by_fault),
            "by_key": {key: dict(counts) for key, counts in self.by_key.items()},
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "batches": dict(self.batches),
            "jobs": dict(self.jobs),
            "lines_served": self.lines_by_status["200"],
            "lines_served_again": self.lines_served_again,
            "lines_by_status": dict(self.lines_by_status),
            "batch_prompt_tokens": self.batch_prompt_tokens,
            "batch_completion_tokens": self.batch_completion_tokens,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "latency_p50_s": _quantile(self.latencies_s, 0.50),
            "latency_p99_s": _quantile(self.latencies_s, 0.99),
        }

    def bodies(self) -> dict[str, list[int]]:
        """[asked, served] per body digest (sha256 of the sorted, compact JSON of the request)."""
        return {digest: [count, self.served[digest]] for digest, count in self.asked.items()}

    def arrivals(self) -> dict[str, Any]:
        """Arrivals over time: rows of [bin, asked, tokens asked, admitted, tokens admitted], bins of `bin_s`."""
        return {"bin_s": _BIN_S, "rows": [[at, *entry] for at, entry in sorted(self.timeline.items())]}


def _quantile(values: list[float], share: float) -> float | None:
    """Nearest-rank quantile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
