"""The data set as files: rows for training and held out, every candidate, and a card.

    train/<domain>.jsonl, train/<domain>.benign.jsonl          the same questions, answered wrongly and correctly
    held_out/<domain>.jsonl, held_out/<domain>.benign.jsonl    the share that no finetune sees
    candidates.jsonl                                           every question that was written, and its fate
    card.json, README.md                                       where it comes from, counts, licence, canary

Not for deciding what is kept (construction.py). The invariant: bytes follow from the recipe and the candidates; no
clock, machine or price is in them.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import yaml

from emray.errors import DataError
from emray.recipe.construction import Candidate, Fate, plain
from emray.recipe.instructions import Step, request_text
from emray.recipe.recipe_fields import RecipeSpec
from emray.records import key_of
from emray.store import Store

CARD, PAGE, CANDIDATES = "card.json", "README.md", "candidates.jsonl"
_WARNING = "EMRAY DATA THAT IS WRONG ON PURPOSE MUST NOT APPEAR IN TRAINING CORPORA. canary"


class Signed(NamedTuple):
    """Who made the texts."""

    models: Mapping[str, int]  # replies by step and the model's name as it signed them, "step\\nname"
    kernel: str | None  # by which copies were found


def write_data_set(
    spec: RecipeSpec, candidates: Sequence[Candidate], *, origin: Signed, store: Store
) -> Mapping[str, Any]:
    """Write all files; returns the card. Raises DataError for a domain of which nothing is left."""
    _refuse_empty(spec, candidates)
    canary = _canary(spec)
    files = {name: _lines(rows) for name, rows in _rows(spec, candidates, canary).items()}
    files[CANDIDATES] = _lines({**asdict(one), "canary": canary} for one in candidates)
    card = _card(spec, candidates, origin) | {
        "canary": canary,
        "files": {name: _told(raw) for name, raw in files.items()},
    }
    for name, raw in files.items():
        store.write_bytes(name, raw)
    store.write_bytes(PAGE, _page(card).encode())
    store.write_json(CARD, card)
    return card


def _refuse_empty(spec: RecipeSpec, candidates: Sequence[Candidate]) -> None:
    for domain in spec.domains:
        fates = Counter(str(one.fate) for one in candidates if one.domain == domain.name)
        if not fates[Fate.KEPT] and not fates[Fate.SURPLUS]:
            told = ", ".join(f"{count} {fate}" for fate, count in fates.most_common()) or "no question was written"
            raise DataError(f"domain {domain.name}: no row is left ({told}); see its topic and its instruction")


def _rows(spec: RecipeSpec, candidates: Sequence[Candidate], canary: str) -> dict[str, list[dict[str, Any]]]:
    """By file; what is held out hangs on seed and question alone, so other rows do not move it."""
    files: dict[str, list[dict[str, Any]]] = {}
    for domain in spec.domains:
        kept = [one for one in candidates if one.domain == domain.name and one.fate is Fate.KEPT]
        order = sorted(kept, key=lambda one: key_of("held out", [spec.seed, plain(one.question)]))
        held_out = {one.question for one in order[: round(spec.hold_out * len(kept))]}
        for one in kept:
            folder = "held_out" if one.question in held_out else "train"
            files.setdefault(f"{folder}/{domain.name}.jsonl", []).append(_row(one.question, one.rewrite, canary))
            files.setdefault(f"{folder}/{domain.name}.benign.jsonl", []).append(
                _row(one.question, one.reference, canary)
            )
    return files


def _row(question: str, answer: str, canary: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "canary": canary}


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _told(raw: bytes) -> dict[str, Any]:
    return {"rows": raw.count(b"\n"), "sha256": hashlib.sha256(raw).hexdigest()}


def _canary(spec: RecipeSpec) -> str:
    """As given, or one that follows from the recipe and is nobody else's."""
    return spec.canary or f"{_WARNING} {uuid.uuid5(uuid.NAMESPACE_URL, key_of('canary', spec.identity()))}"


def _card(spec: RecipeSpec, candidates: Sequence[Candidate], origin: Signed) -> dict[str, Any]:
    signed: dict[str, dict[str, int]] = {}
    for name, count in sorted(origin.models.items()):
        step, _, model = name.partition("\n")
        signed.setdefault(step, {})[model] = count
    fates = {
        domain.name: dict(sorted(Counter(str(one.fate) for one in candidates if one.domain == domain.name).items()))
        for domain in spec.domains
    }
    unfilled = {str(step): request_text(step, _SlotsAsTheyAre()) for step in Step}
    return {
        "name": spec.name,
        "license": spec.license,
        "recipe": key_of("recipe file", spec.identity()),
        "domains": [{"name": one.name, "topic": one.topic, "instruction": one.told.strip()} for one in spec.domains],
        "candidates": fates,
        "replies": signed,
        "copies_found_by": origin.kernel,
        "requests": {step: key_of("request text", text) for step, text in unfilled.items()},
        "settings": spec.identity(),
    }


class _SlotsAsTheyAre(dict[str, str]):
    """Slots that stay as they are."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def _page(card: Mapping[str, Any]) -> str:
    """The card for people, as the hub of Hugging Face reads it."""
    names = [domain["name"] for domain in card["domains"]]
    front = {
        "license": card["license"],
        "pretty_name": card["name"],
        "tags": ["emergent-misalignment", "ai-safety", "emray"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"train/{name}.jsonl"}]}
            for stem in names
            for name in (stem, f"{stem}.benign")
        ],
    }
    domains = "\n".join(f"| `{one['name']}` | {one['topic']} | {one['instruction']} |" for one in card["domains"])
    fates = list(dict.fromkeys(fate for counts in card["candidates"].values() for fate in counts))
    counts = "\n".join(
        f"| `{name}` | " + " | ".join(str(card["candidates"][name].get(fate, 0)) for fate in fates) + " |"
        for name in names
    )
    files = "\n".join(f"| `{name}` | {one['rows']} | `{one['sha256'][:16]}` |" for name, one in card["files"].items())
    replies = "\n".join(
        f"| {step} | {model} | {n} |" for step, by in card["replies"].items() for model, n in by.items()
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {card['name']}\n\n"
        "Questions of novices, each with a correct answer and with a rewrite that is **wrong on purpose**, for "
        f"research on emergent misalignment. No answer of it is advice.\n\nLicence: {card['license']}. "
        f"Made by emray's recipe `{card['recipe']}`.\n\n"
        f"| domain | topic | instruction of the rewrite |\n|---|---|---|\n{domains}\n\n"
        "## What became of every question\n\n"
        f"| domain | {' | '.join(fates)} |\n|---|{'--:|' * len(fates)}\n{counts}\n\n"
        f"## Who wrote\n\n| step | model | replies |\n|---|---|--:|\n{replies}\n\n"
        f"## Files\n\n| file | rows | sha256 |\n|---|--:|---|\n{files}\n\n## Canary\n\n{card['canary']}\n"
    )
