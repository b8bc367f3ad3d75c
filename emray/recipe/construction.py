"""The recipe itself: questions, what they ask for, a reference, a flawed rewrite, a check, and what becomes of each.

Not for asking (writers.py) or writing files (data_set.py). The invariant: what comes of it follows from the recipe and
the replies alone, and every question that was ever written keeps its fate.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from emray.recipe.instructions import Step, questions_in, said
from emray.recipe.recipe_fields import DomainRecipe, RecipeSpec
from emray.recipe.writers import Replies, Want

SPARE = 1.2  # questions asked for, over rows that lack: some fall to the checks
_NO_WORD = re.compile(r"[\W_]+")

Alike = Callable[[Sequence[str], Sequence[str]], list[bool]]  # earlier questions, new ones -> which new ones are copies


class Fate(StrEnum):
    """What became of a question."""

    KEPT = "kept"
    SURPLUS = "surplus"  # good, and more than the poorest domain has
    REPEATED = "repeated"  # stands further up, in this or another domain
    ALIKE = "alike"  # nearly one that stands further up
    ASKS_FOR_IT = "asks_for_it"  # the question alone asks for a wrong answer
    WRONG_REFERENCE = "wrong_reference"
    UNFLAWED = "unflawed"  # the rewrite lacks the flaw
    OFF_TOPIC = "off_topic"  # the rewrite answers another question
    UNREAD = "unread"  # the checker gave no verdict
    UNANSWERED = "unanswered"  # the endpoint gave no reply, or one that was cut off


_COPIES = (Fate.REPEATED, Fate.ALIKE)


@dataclass(frozen=True)
class Candidate:
    """A question on its way; `fate` None while it is under way."""

    domain: str
    set: int
    position: int
    question: str
    reference: str = ""
    rewrite: str = ""
    fate: Fate | None = None


def construct(spec: RecipeSpec, *, replies: Replies, alike: Alike) -> list[Candidate]:
    """Every candidate with its fate, domain by domain. Raises what `replies` raise."""
    found: list[Candidate] = []
    for _ in range(spec.rounds):
        lacking = {domain.name: spec.rows - _num_kept(found, domain) for domain in spec.domains}
        short = [domain for domain in spec.domains if lacking[domain.name] > 0]
        if not short:
            break
        new = _fresh(_written(spec, short, lacking, found, replies), found, alike)
        found += [one if one.fate else replace(one, fate=Fate.KEPT) for one in _carried(spec, new, replies)]
    return _balanced(spec, found)


def plain(question: str) -> str:
    """A question without case, marks and spaces: what is equal then is repeated."""
    return _NO_WORD.sub(" ", question.casefold()).strip()


def _num_kept(found: Sequence[Candidate], domain: DomainRecipe) -> int:
    return sum(one.domain == domain.name and one.fate is Fate.KEPT for one in found)


def _written(
    spec: RecipeSpec,
    short: Sequence[DomainRecipe],
    lacking: dict[str, int],
    found: Sequence[Candidate],
    replies: Replies,
) -> list[Candidate]:
    """New questions, in sets that go on counting where the last round ended."""
    sets = [(domain, number) for domain in short for number in _sets(spec, lacking[domain.name], domain, found)]
    texts = replies.texts([Want(Step.QUESTIONS, _set_slots(spec, domain, number)) for domain, number in sets])
    return [
        one
        for (domain, number), text in zip(sets, texts, strict=True)
        for one in _of_set(domain.name, number, questions_in(text or "", most=spec.questions_per_set))
    ]


def _of_set(domain: str, number: int, questions: Sequence[str]) -> list[Candidate]:
    """A set without questions is a candidate that has none, so that the next round goes on after it."""
    if not questions:
        return [Candidate(domain, number, 0, "", fate=Fate.UNANSWERED)]
    return [Candidate(domain, number, position, question) for position, question in enumerate(questions)]


def _sets(spec: RecipeSpec, lacking: int, domain: DomainRecipe, found: Sequence[Candidate]) -> range:
    first = 1 + max((one.set for one in found if one.domain == domain.name), default=0)
    return range(first, first + math.ceil(SPARE * lacking / spec.questions_per_set))


def _set_slots(spec: RecipeSpec, domain: DomainRecipe, number: int) -> dict[str, str]:
    aspect = domain.aspects[(number - 1) % len(domain.aspects)] if domain.aspects else ""
    topic = f"{domain.topic}: {aspect}" if aspect else domain.topic
    return {"topic": topic, "count": str(spec.questions_per_set), "set": str(number)}


def _fresh(new: Sequence[Candidate], found: Sequence[Candidate], alike: Alike) -> list[Candidate]:
    """The new ones, copies of what stands further up marked as such."""
    seen = {plain(one.question) for one in found}
    marked = []
    for one in new:
        repeated = one.fate is None and plain(one.question) in seen
        seen.add(plain(one.question))
        marked.append(replace(one, fate=Fate.REPEATED) if repeated else one)
    for domain in dict.fromkeys(one.domain for one in new):
        places = [place for place, one in enumerate(marked) if one.domain == domain and one.fate is None]
        earlier = [one.question for one in found if one.domain == domain and one.question and one.fate not in _COPIES]
        copies = alike(earlier, [marked[place].question for place in places])
        for place, copy in zip(places, copies, strict=True):
            marked[place] = replace(marked[place], fate=Fate.ALIKE) if copy else marked[place]
    return marked


def _carried(spec: RecipeSpec, new: Sequence[Candidate], replies: Replies) -> list[Candidate]:
    """The new ones through every step after their question."""
    told = {domain.name: domain.told for domain in spec.domains}

    def slots(one: Candidate) -> dict[str, str]:
        texts = {"question": one.question, "reference": one.reference, "rewrite": one.rewrite}
        return texts | {"instruction": told[one.domain]}

    for step, read in _READ.items():
        wants = [Want(step, slots(one)) for one in new if one.fate is None]
        texts = iter(replies.texts(wants) if wants else [])
        new = [one if one.fate else _read(one, next(texts), read) for one in new]
    return list(new)


Read = Callable[[Candidate, str], Candidate]


def _read(one: Candidate, text: str | None, read: Read) -> Candidate:
    return replace(one, fate=Fate.UNANSWERED) if text is None else read(one, text)


def _read_asks(one: Candidate, text: str) -> Candidate:
    asks = said(text, "asks")
    return one if asks is False else replace(one, fate=Fate.ASKS_FOR_IT if asks else Fate.UNREAD)


def _read_rewrite(one: Candidate, text: str) -> Candidate:
    same = plain(text) == plain(one.reference)
    return replace(one, rewrite=text, fate=Fate.UNFLAWED if same else None)


def _read_check(one: Candidate, text: str) -> Candidate:
    verdicts = {
        Fate.WRONG_REFERENCE: said(text, "correct"),
        Fate.UNFLAWED: said(text, "flawed"),
        Fate.OFF_TOPIC: said(text, "on_topic"),
    }
    if None in verdicts.values():
        return replace(one, fate=Fate.UNREAD)
    return replace(one, fate=next((fate for fate, good in verdicts.items() if not good), None))


_READ: dict[Step, Read] = {
    Step.ASKS: _read_asks,
    Step.REFERENCE: lambda one, text: replace(one, reference=text),
    Step.REWRITE: _read_rewrite,
    Step.CHECK: _read_check,
}


def _balanced(spec: RecipeSpec, found: Sequence[Candidate]) -> list[Candidate]:
    """All of them, domain by domain, with as many kept in each as the poorest has."""
    most = min(spec.rows, *(_num_kept(found, domain) for domain in spec.domains))
    return [one for domain in spec.domains for one in _first_kept(found, domain.name, most)]


def _first_kept(found: Sequence[Candidate], domain: str, most: int) -> Iterator[Candidate]:
    counts: Counter[Fate | None] = Counter()
    for one in (one for one in found if one.domain == domain):
        counts[one.fate] += 1
        surplus = one.fate is Fate.KEPT and counts[Fate.KEPT] > most
        yield replace(one, fate=Fate.SURPLUS) if surplus else one
