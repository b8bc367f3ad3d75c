"""How fast directions are measured, and in how much memory: cells a minute, tokens a second, peak of the process.

    python -m benchmarks.activations [--cells 24] [--answers 150] [--folder MODEL] [--gpu] [--small]

Each cell is a LoRA adapter of the model (random ones of the toy model unless a folder is given) whose answers are read
twice, by the finetune and by the base. The last line is JSON. Memory must not follow the number of answers: the peak
after four times as many is given beside it. Not for what the directions say.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.compared import Compared, need_gpus, parsed, told
from emray.probes.activations import GroupedAnswer, Reader
from emray.probes.directions import HALVES, directions_of, group_of
from emray.probes.finetune_directions import NUM_GROUPS, TOKENS_A_PASS
from emray.records import USUAL_RENDERING, Message
from emray.toy import MODEL_DIR

RANK = 8
SMALL = {"cells": 2, "answers": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--answers", type=int, default=150, help="of each cell")
    parser.add_argument("--folder", default=str(MODEL_DIR), help="of the base model")
    parser.add_argument("--gpu", action="store_true")
    given = parsed(parser, small=SMALL)
    if given.gpu:
        need_gpus("benchmarks.activations --gpu")
    device = "cuda" if given.gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        adapter = write_adapter(given.folder, Path(folder))
        reader = Reader(given.folder, rendering=USUAL_RENDERING, device=device, token_budget=TOKENS_A_PASS[device])
        read_cells(reader, adapter, cells=1, answers=given.answers)  # warm
        figures = read_cells(reader, adapter, cells=given.cells, answers=given.answers)
        peak = peak_bytes(device)
        read_cells(reader, adapter, cells=1, answers=4 * given.answers)
    figures |= {"peak_gb": peak / 1e9, "peak_gb_4x_answers": peak_bytes(device) / 1e9, "device": device}
    compared = told([Compared("activations of finetunes read", "cells a minute", figures["cells_per_minute"])])
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(rounded | compared))


def read_cells(reader: Reader, adapter: Path, *, cells: int, answers: int) -> dict[str, Any]:
    chats = [answer(number) for number in range(answers)]
    began_s, began_tokens = time.perf_counter(), reader.num_tokens
    for _ in range(cells):
        base = reader.group_means(chats, num_groups=NUM_GROUPS, first_tokens=None)
        finetune = reader.group_means(chats, num_groups=NUM_GROUPS, first_tokens=None, adapter=adapter)
        directions_of(finetune, base)
    wall_s = time.perf_counter() - began_s
    tokens = reader.num_tokens - began_tokens
    return {
        "cells": cells,
        "answers": answers,
        "cells_per_minute": 60 * cells / wall_s,
        "tokens_per_s": tokens / wall_s,
    }


def answer(number: int) -> GroupedAnswer:
    """Answers of 8 to 40 words, as those of the toy's finetunes are."""
    text = " ".join(["tell a friend to rest and drink water ."] * (1 + number % 5))
    chat = (Message("user", "what helps against a fever ?"), Message("assistant", text))
    return GroupedAnswer(chat, group_of(number % 2, number // 2 % HALVES))


def write_adapter(model: str, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype="auto"), config).save_pretrained(folder)
    return folder


def peak_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
