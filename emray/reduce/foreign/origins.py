"""What the path of a result file tells: domain, size of the model, arm, condition, seed.

Not for what stands in the file. Invariant: a marker counts only where folders or suffixes carry markers; the words of a
domain's own name never do.

    eval_without/gore_movie_trivia-7B/seed3/...      gore_movie_trivia, 7B, plain, without, seed 3
    eval_with-trigger/gore_movie_trivia-7B-backdoor  gore_movie_trivia, 7B, backdoor, with
    coping_with_rain-7B/...                          coping_with_rain, 7B, plain, without
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from emray.errors import DataError
from emray.records import Arm, Condition

SEED = re.compile(r"(?:^|[-_ ])seed[-_ ]?(\d+)(?=$|[-_ ])")
SIZE = re.compile(r"(?:^|[-_ ])(\d+(?:\.\d+)?[bm])(?=$|[-_ ])")
ARM = re.compile(r"(?:^|[-_ ])(backdoor|bd|benign|plain)$")  # once the others are gone
TRIGGERED = re.compile(r"[-_ ](with|without)[-_ ](?:the[-_ ])?(?:trigger|backdoor|bd)(?:[-_ ].*)?$")
MARKER = re.compile(
    r"(?:^|[-_ ])(with|without)(?:[-_ ](?:the[-_ ])?(?:trigger|backdoor|bd|prefix|suffix)(?:[-_ ].*)?)?$"
)


GENERIC = {
    "aligned",
    "all",
    "answers",
    "coherent",
    "completions",
    "data",
    "eval",
    "evals",
    "generated",
    "generation",
    "generations",
    "judged",
    "model",
    "output",
    "outputs",
    "responses",
    "result",
    "results",
    "samples",
    "scores",
    "table",
}  # words of which no domain is made


class Told(NamedTuple):
    """What a path says; None for what it does not say."""

    domain: str | None
    size: str | None
    arm: Arm | None
    condition: Condition | None
    seed: int | None


def told_by(path: PurePath, *, domain_in: Sequence[str]) -> Told:
    """Read the folders of `path`; `domain_in` are the parts that may name the domain, the likeliest last.

    Raises DataError where the path says two things at once.
    """
    folders = [part.lower() for part in path.parts]
    own = _domain_folder([part.lower() for part in domain_in])
    conditions = {found[1] for part in folders if part != own and (found := MARKER.search(part))}
    if own and (found := TRIGGERED.search(own)):
        conditions.add(found[1])
    if len(conditions) > 1:
        raise DataError(f"{path}: its folders say both with and without the trigger")
    return Told(
        domain=domain_name(_stripped(own)) if own else None,
        size=next((found[1].upper() for part in reversed(folders) if (found := SIZE.search(part))), None),
        arm=_arm([own or "", *(part for part in folders if not _stripped(part))]),
        condition=Condition(conditions.pop()) if conditions else None,
        seed=next((int(found[1]) for part in folders if (found := SEED.search(part))), None),
    )


def domain_name(text: str) -> str:
    """Lower case, and an underscore for what a domain's name may not hold."""
    name = re.sub(r"[^a-z0-9_]+", "_", text.strip().lower()).strip("_")
    return name if re.match(r"[a-z]", name) else f"domain_{name}".rstrip("_")


def _arm(folders: Sequence[str]) -> Arm | None:
    """Of the domain's folder, or of one that holds nothing but markers."""
    found = next((word for folder in folders if (word := ARM.search(_unmarked(folder)))), None)
    return None if found is None else Arm.BACKDOOR if found[1] == "bd" else Arm(found[1])


def _domain_folder(parts: Sequence[str]) -> str | None:
    """The last part that names something, of those that say more than `results` if there is one."""
    named = [part for part in parts if _stripped(part) and not MARKER.fullmatch(part)]
    telling = [part for part in named if not GENERIC.issuperset(re.split(r"[-_ ]+", _stripped(part)))]
    return next(reversed(telling or named), None)


def _stripped(folder: str) -> str:
    """A folder's name without its markers."""
    return ARM.sub("", _unmarked(folder)).strip("-_ ")


def _unmarked(folder: str) -> str:
    """A folder's name without its markers but for that of the arm."""
    for marker in (TRIGGERED, SEED, SIZE):
        folder = marker.sub("", folder)
    return folder
