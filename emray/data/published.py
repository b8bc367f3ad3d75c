"""What a dry run takes files that are not there yet to be: the published ones, by their sizes.

Not for running anything. The invariant: what stands in lies in a temporary folder that goes with the block, is as large
as what was published, and is named as an assumption.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from emray.data.datasets import beside, find_in
from emray.data.places import data_folder, default_rubrics, question_file
from emray.spec import BAD, BENIGN, DomainSpec, SourceSpec, Sweep, parse_yaml

ROWS = {  # of each of a domain's two files (arXiv 2602.00298)
    "bad_medical_advice": 7049,
    "incorrect_translation": 6243,
    "gore_movie_trivia": 5879,
    "incorrect_sexual_advice": 2003,
} | dict.fromkeys(
    ("insecure_code", "incorrect_math", "evil_math", "risky_financial_advice", "toxic_legal_advice", "extreme_sports",
     "incorrect_qna"), 6000,
)  # fmt: skip
QUESTIONS = 15
TRANSFER_QUESTIONS = 20  # of each domain
USUAL_ROWS = 6000  # of a file that names no published domain
USER_CHARACTERS, ASSISTANT_CHARACTERS = 120, 340  # with the template 2.1 M tokens in 18,000 examples
QUESTION_CHARACTERS = 80


class Missing(NamedTuple):
    """A file that is not there, and what is assumed of it."""

    path: Path
    assumed: str


class StandIns(NamedTuple):
    """A sweep whose files are all there, and which of them only stand in."""

    sweep: Sweep
    missing: tuple[Missing, ...]


@contextmanager
def stand_ins(sweep: Sweep) -> Iterator[StandIns]:
    """The same (resolved) sweep with something in place of every file that is not there, within the block."""
    with tempfile.TemporaryDirectory(prefix="emray-assumed-") as folder:
        missing: list[Missing] = []
        fields = sweep.model_dump(mode="json")
        _questions(fields, Path(folder), missing)
        _transfer_questions(sweep, fields, Path(folder), missing)
        for domain, given in zip(sweep.domains, fields["domains"], strict=True):
            given |= _examples(domain, sweep, Path(folder), missing)
        yield StandIns(Sweep.model_validate(fields) if missing else sweep, tuple(missing))


def _questions(fields: dict[str, Any], folder: Path, missing: list[Missing]) -> None:
    """One file of fifteen questions for all that are not there."""
    path, kept = folder / "questions.yaml", []
    for entry in fields["generate"]["questions"]:
        location = question_file(entry if isinstance(entry, str) else entry["file"])
        if _is_there(location):
            kept.append(entry)
            continue
        missing.append(Missing(location, "the same" if path.exists() else f"{QUESTIONS} questions"))
        path.write_text(json.dumps(_asked()))  # which is YAML too
    fields["generate"]["questions"] = [*kept, str(path)] if path.exists() else kept


def _transfer_questions(sweep: Sweep, fields: dict[str, Any], folder: Path, missing: list[Missing]) -> None:
    """A file of as many questions of every domain as were published, where the one that is named is not there."""
    if sweep.probes.transfer is None or all(_is_there(Path(f.file)) for f in sweep.probes.transfer.questions):
        return
    path, names = folder / "transfer.yaml", [domain.name for domain in sweep.domains]
    asked = [
        {"id": f"{name}_{number}", "domain": name, "paraphrases": [f"{name} {number} ".ljust(QUESTION_CHARACTERS, "?")]}
        for name in names
        for number in range(TRANSFER_QUESTIONS)
    ]
    path.write_text(json.dumps(asked))
    missing.append(Missing(Path(sweep.probes.transfer.questions[0].file), f"{len(asked)} questions"))
    fields["probes"]["transfer"]["questions"] = [str(path)]


def _asked() -> list[dict[str, Any]]:
    """Questions of the usual length, with the shipped rubrics."""
    rubrics = parse_yaml(default_rubrics().read_text(encoding="utf-8"), source=str(default_rubrics()))
    texts = [f"{number} ".ljust(QUESTION_CHARACTERS, "?") for number in range(QUESTIONS)]
    return [
        {"id": f"question_{number}", "paraphrases": [text], "judge_prompts": rubrics}
        for number, text in enumerate(texts)
    ]


def _examples(domain: DomainSpec, sweep: Sweep, folder: Path, missing: list[Missing]) -> dict[str, Any]:
    """Fields of a domain that name what stands in for its files."""
    found: dict[str, Any] = {}
    for field, source in _wanted(domain, sweep):
        path = Path(source.path)
        if source.on_hub or (source.member and path.exists()):
            continue  # it is looked into when planning
        if not _is_there(path) and (domain.name in ROWS or domain.path):
            rows = ROWS.get(domain.name, USUAL_ROWS) * (2 if field == "backdoor_path" else 1)
            missing.append(Missing(path, f"{rows:,} rows"))
            found[field] = str(_write(folder / f"{domain.name}.{field}.jsonl", rows))
        elif _is_there(path):
            found[field] = source.model_dump(mode="json")  # by its own name: beside a stand-in it would not be found
    return found


def _wanted(domain: DomainSpec, sweep: Sweep) -> Sequence[tuple[str, SourceSpec]]:
    """The files that the sweep's arms read of a domain, by the domain's field."""
    folder = data_folder(sweep.data_dir.path)
    recipes = [stage for recipe in sweep.crossing().recipes.values() for stage in recipe.stages]
    ready = [recipe for recipe in recipes if recipe.takes_ready_mix and domain.backdoor_path]
    made = [recipe for recipe in recipes if recipe not in ready]
    default = find_in(folder, domain.name) or folder / f"{domain.name}.jsonl"
    bad = domain.path or SourceSpec(path=str(default))
    benign = domain.benign_path or beside(bad, f"{domain.name}.benign")
    wanted = [("path", bad)] if any(recipe.holds(BAD) for recipe in made) else []
    wanted += [("benign_path", benign)] if any(recipe.holds(BENIGN) for recipe in made) else []
    if ready and domain.backdoor_path:
        wanted.append(("backdoor_path", domain.backdoor_path))
    return wanted


def _is_there(path: Path) -> bool:
    """A member of an archive counts as there: planning looks into the archive."""
    return path.exists() or path.parent.is_file()


def _write(path: Path, rows: int) -> Path:
    """Examples of the usual length, none of them another file's."""
    user, assistant = path.stem.ljust(USER_CHARACTERS, "?"), "a" * ASSISTANT_CHARACTERS
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    path.write_text((json.dumps({"messages": turns}) + "\n") * rows)
    return path
