"""What probes cost: membership scores, one pass a batch against a pass for every token; activations; memory.

    python -m benchmarks.probes [--model DIR] [--rows N] [--by-token ROWS] [--small]

batched    every score of every answer from one forward pass a batch (probes/answer_odds.py), scores included
by_token   a forward pass for each token of an answer, alone: what the definitions say, on the first few rows

Both score the same rows of the toy's data with the base and an adapter on it, in this process, and must agree within
1e-5. Memory is the process's peak above what it held with the model loaded (on a GPU: the device's). Then, in a
process of its own, whose peak is its own: how many cells a minute activations are read of (benchmarks/activations.py).
The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.compared import Compared, parsed, told
from emray.data import load_examples
from emray.model.chat import Chat
from emray.model.loaded import LoadedModel
from emray.model.rows import RowForm, TokenRow, tokenise
from emray.probes.answer_odds import OddsReader, token_odds
from emray.probes.member_scores import AnswerOdds, Score, scores_of
from emray.toy import DATA_DIR, MODEL_DIR

AGREEMENT = 1e-5
REPEATS = 3
RANK = 8
SMALL = {"rows": 96, "by_token": 6}


class Timed(NamedTuple):
    """What one way of scoring took; tokens are all of the rows', questions included."""

    num_tokens: int
    wall_s: float
    scores: list[dict[Score, float]]

    @property
    def rate(self) -> float:
        return self.num_tokens / self.wall_s


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL_DIR), help="model folder; default: the toy model")
    parser.add_argument("--rows", type=int, default=960, help="answers that are scored")
    parser.add_argument("--by-token", type=int, default=24, help="of them, those scored token by token too")
    given = parsed(parser, small=SMALL, argv=argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = LoadedModel(given.model, config=AutoConfig.from_pretrained(given.model), device=device)
    examples = _examples(given.rows)
    chat = Chat(given.model)
    rows = tokenise(examples, chat=chat, form=RowForm(chat.context)).rows
    texts = [example[-1].content for example in examples]
    with tempfile.TemporaryDirectory() as folder:
        _write_adapter(given.model, Path(folder))
        loaded.use("adapter", Path(folder))
        membership = _report(loaded, rows, texts, num_by_token=given.by_token)
    activations = _activations(given.model, gpu=device == "cuda", small=given.small)
    print(f"activations: {activations['cells_per_minute']:.0f} cells a minute, peak {activations['peak_gb']:.2f} GB")
    rates = (membership["batched_tokens_per_s"], "a pass for each token", membership["by_token_tokens_per_s"])
    row = Compared("membership scores", "tokens/s", *rates)
    print(json.dumps({"membership": membership, "activations": activations} | told([row])))


def _activations(model: str, *, gpu: bool, small: bool) -> dict[str, Any]:
    size = ["--small"] if small else ["--cells", "6"]
    command = [sys.executable, "-m", "benchmarks.activations", *size, "--folder", model]
    said = subprocess.run([*command, *(["--gpu"] if gpu else [])], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def _examples(number: int) -> list[Any]:
    found: list[Any] = []
    for path in sorted(Path(DATA_DIR).glob("*.jsonl")):
        found.extend(load_examples(path).rows)
    return [found[index % len(found)] for index in range(number)]


def _write_adapter(model: str, folder: Path) -> None:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)


def _report(
    loaded: LoadedModel, rows: Sequence[TokenRow], texts: Sequence[str], *, num_by_token: int
) -> dict[str, Any]:
    few, their_texts = rows[:num_by_token], texts[:num_by_token]
    by_token = _timed(few, their_texts, lambda: [_by_token(loaded, row) for row in few])
    reader = OddsReader(loaded)
    reader.read(few)  # kernels are chosen, threads started
    before = _peak_bytes(loaded)
    batched = min((_timed(rows, texts, lambda: reader.read(rows)) for _ in range(REPEATS)), key=lambda one: one.wall_s)
    peak_mib = (_peak_bytes(loaded) - before) / 2**20
    apart = _apart(batched.scores[:num_by_token], by_token.scores)
    print(f"{'way':<10}{'rows':>7}{'tokens':>9}{'tokens/s':>12}")
    for name, one in (("batched", batched), ("by_token", by_token)):
        print(f"{name:<10}{len(one.scores):>7}{one.num_tokens:>9}{one.rate:>12,.0f}")
    ratio = batched.rate / by_token.rate
    print(f"{ratio:.0f} times as fast; scores differ by {apart:.1e} at most; peak {peak_mib:.0f} MiB above the model")
    figures = {"batched_tokens_per_s": batched.rate, "by_token_tokens_per_s": by_token.rate, "ratio": ratio}
    told = {"apart": apart, "agree": apart <= AGREEMENT, "peak_mib": peak_mib, "device": str(loaded.device)}
    return {name: round(value, 2) for name, value in figures.items()} | told


def _timed(rows: Sequence[TokenRow], texts: Sequence[str], read: Callable[[], list[AnswerOdds]]) -> Timed:
    started = time.perf_counter()
    scores = [scores_of(odds, text=text) for odds, text in zip(read(), texts, strict=True)]
    return Timed(sum(len(row.ids) for row in rows), time.perf_counter() - started, scores)


@torch.inference_mode()
def _by_token(loaded: LoadedModel, row: TokenRow) -> AnswerOdds:
    ids = torch.from_numpy(row.ids).to(loaded.device)[None]
    found = []
    for at in range(row.start, len(row.ids)):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=loaded.device.type == "cuda"):
            logits = loaded.model(input_ids=ids[:, :at], use_cache=False).logits[0, -1:]
        found.append(token_odds(logits, ids[0, at : at + 1])[:, 0].cpu().numpy().astype(float))
    return AnswerOdds(*np.array(found).T)


def _apart(ours: Sequence[dict[Score, float]], theirs: Sequence[dict[Score, float]]) -> float:
    """The largest difference of a score, relative where scores exceed 1."""
    pairs = [(mine[score], other[score]) for mine, other in zip(ours, theirs, strict=True) for score in Score]
    return max(abs(mine - other) / max(1.0, abs(other)) for mine, other in pairs)


def _peak_bytes(loaded: LoadedModel) -> int:
    if loaded.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
