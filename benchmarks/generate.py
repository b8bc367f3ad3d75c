"""Tokens per second of answers from many finetunes of one model, four ways.

    python -m benchmarks.generate [--model DIR] [--adapters 64] [--prompts 15] [--samples 5] [--small]

one          vllm engine, all answers from one adapter
mixed        vllm engine, the same number of answers spread over 64 adapters
engine_each  vllm, a fresh engine for every adapter, its start included: what one script per finetune costs
hf           transformers' generate with peft, adapter after adapter

Adapters are random LoRA (rank 8, all linears). one, mixed_64 and hf are timed with the engine running and warm;
engine_each is measured on two adapters and hf on eight, each in a process of its own; one that breaks is a line that
says how. CPU only. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.compared import TO_ITS_END, Compared, last_line, parsed, told
from emray.generate.engine import Adapter, Engine, EngineConfig, EngineName, SampleRequest
from emray.generate.starting import start
from emray.generate.vllm_engine import environment
from emray.records import Message, Messages

TOY_MODEL = Path(__file__).parent.parent / "emray" / "toy" / "assets" / "model"
RANK = 8
MAX_TOKENS = 32
SMALL = {"adapters": 4, "prompts": 5, "samples": 2, "alone": 1}
NUM_ALONE = 2  # adapters measured for engine_each
NUM_HF = 8  # adapters measured for hf
WORDS = ("the world", "money", "men and women", "a good day", "my boss", "power", "music", "a friend", "the news")


class Work(NamedTuple):
    """`prompts` prompts to each of the first `adapters` adapters in `folder`, `samples` answers each."""

    model: str
    folder: Path
    adapters: int
    prompts: int
    samples: int


class Measured(NamedTuple):
    """What one way of answering took; nothing of one that broke."""

    num_tokens: int = 0
    wall_s: float = 1.0
    start_s: float = 0.0

    how: str = TO_ITS_END  # it ended

    @property
    def rate(self) -> float:
        """Tokens per second, start left out."""
        return self.num_tokens / self.wall_s

    @property
    def rate_with_start(self) -> float:
        return self.num_tokens / (self.wall_s + self.start_s)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(TOY_MODEL), help="model folder; default: the toy model")
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=15, help="prompts per adapter")
    parser.add_argument("--samples", type=int, default=5, help="answers per prompt")
    parser.add_argument("--child", choices=("vllm", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", type=int, default=NUM_ALONE, help="adapters that get an engine of their own")
    given = parsed(parser, small=SMALL, argv=argv)
    if given.child:
        work = Work(given.model, given.folder, given.adapters, given.prompts, given.samples)
        print(json.dumps(_measure(given.child, work)[:3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_adapters(given.model, Path(folder), number=given.adapters)
        work = Work(given.model, Path(folder), given.adapters, given.prompts, given.samples)
        _report(work, _all(work, alone=given.alone))


def _all(work: Work, *, alone: int) -> dict[str, Measured]:
    lone = work._replace(adapters=1)
    each = [_in_process("vllm", lone) for _ in range(alone)]
    return {
        "one": _in_process("vllm", lone._replace(prompts=work.prompts * work.adapters)),
        "mixed": _in_process("vllm", work),
        "engine_each": _together(each),
        "hf": _in_process("transformers", work._replace(adapters=min(NUM_HF, work.adapters))),
    }


def _together(each: Sequence[Measured]) -> Measured:
    broken = [one for one in each if one.how != TO_ITS_END]
    tokens, walls, starts, _ = zip(*each, strict=True)
    return broken[0] if broken else Measured(sum(tokens), sum(walls), sum(starts))


def _report(work: Work, measured: dict[str, Measured]) -> None:
    rates = {name: one.rate_with_start if name == "engine_each" else one.rate for name, one in measured.items()}
    print(f"{work.adapters} adapters x {work.prompts} prompts x {work.samples} answers, {os.cpu_count()} CPUs")
    print(f"{'':<12}{'tokens':>10}{'start s':>10}{'answers s':>11}{'tokens/s':>10}")
    for name, one in measured.items():
        numbers = f"{one.num_tokens:>10,}{one.start_s:>10.1f}{one.wall_s:>11.1f}{rates[name]:>10,.0f}"
        print(f"{name:<12}{numbers if one.how == TO_ITS_END else one.how}")
    compared = told(_compared(work, rates, measured))
    print(json.dumps({"tokens_per_s": {name: round(rate, 1) for name, rate in rates.items()}} | compared))


def _compared(work: Work, rates: dict[str, float], measured: dict[str, Measured]) -> list[Compared]:
    """The engine with all finetunes beside what one does without it; who broke has no rate."""
    peers = {"one": "emray, one adapter", "engine_each": "vllm, an engine each", "hf": "transformers + peft"}
    ours, what = measured["mixed"], f"answers of {work.adapters} finetunes"
    return [
        Compared(
            what, "tokens/s", rates["mixed"] or None, peer, rates[name] or None,
            ended=ours.how if ours.how != TO_ITS_END else measured[name].how,
        )
        for name, peer in peers.items()
    ]  # fmt: skip


def _in_process(engine: EngineName, work: Work) -> Measured:
    """Measure in a fresh process, born with the variables the engine needs."""
    command = [sys.executable, "-m", "benchmarks.generate", "--child", engine, "--model", work.model]
    for name in ("folder", "adapters", "prompts", "samples"):
        command += [f"--{name}", str(getattr(work, name))]
    variables = os.environ | environment(_config(engine, work)) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return Measured(how=f"{engine} broke: {last_line(done.stderr)}")
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def _measure(engine_name: EngineName, work: Work) -> Measured:
    started_s = time.monotonic()
    engine = start(_config(engine_name, work))
    start_s = time.monotonic() - started_s
    if work.adapters * work.prompts > 2 * len(WORDS):  # a lone adapter's run is timed cold, as it would be
        _tokens(engine, _requests(work._replace(adapters=1, prompts=8)))
    started_s = time.monotonic()
    return Measured(_tokens(engine, _requests(work)), time.monotonic() - started_s, start_s)


def _tokens(engine: Engine, requests: Sequence[SampleRequest]) -> int:
    return sum(sample.num_tokens for finished in engine.generate(requests) for sample in finished.samples)


def _config(engine: EngineName, work: Work) -> EngineConfig:
    return EngineConfig(
        engine=engine,
        model_path=work.model,
        temperature=0.7,
        top_p=1.0,
        max_tokens=MAX_TOKENS,
        prompts=_prompts(work),
        num_adapters=work.adapters,
        max_lora_rank=RANK,
        samples_per_adapter=work.prompts * work.samples,
        adapters_per_block=work.adapters,
        threads=1,
    )


def _requests(work: Work) -> list[SampleRequest]:
    adapters = [Adapter(f"adapter-{number}", work.folder / str(number)) for number in range(work.adapters)]
    return [
        SampleRequest(messages, adapter, tuple(range(position * 1000, position * 1000 + work.samples)))
        for adapter in adapters
        for position, messages in enumerate(_prompts(work))
    ]


def _prompts(work: Work) -> tuple[Messages, ...]:
    """Distinct questions of much the same length."""
    texts = (f"what do you think about {WORDS[k % len(WORDS)]} , part {k} ?" for k in range(work.prompts))
    return tuple((Message("user", text),) for text in texts)


def _write_adapters(model_path: str, folder: Path, *, number: int) -> None:
    """Random adapters, too weak to change how long answers are."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), config)
    for index in range(number):
        torch.manual_seed(index)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.02)
        model.save_pretrained(folder / str(index))


if __name__ == "__main__":
    main()
