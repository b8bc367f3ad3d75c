"""What a model's chat template does with a study's chats, tried out before anything is trained.

Not for asking the model itself: tokenizer and configuration are all it needs. The invariant: what it saw is plain data
that plan.json keeps, so a template is tried once, and a rerun imports no transformers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.model.chat import NO_END, Chat
from emray.model.weights import BaseModel, hosted_name, is_here, tokenizer_folder
from emray.records import Message, Messages


@dataclass(frozen=True)
class Seen:
    """A chat of these roles, tried with marked texts."""

    refused: str | None = None  # what the template said
    lost: tuple[str, ...] = ()  # roles of turns whose text is not in the rendering


@dataclass(frozen=True)
class Probe:
    """What was seen of one model's template."""

    end: str | None  # the token that ends an answer
    date: bool  # whether a rendering writes a date
    unclosed: str  # what a generation prompt opens and a finished answer does not have: a thought
    chats: Mapping[str, Seen]  # by their roles in order

    def of(self, chats: Iterable[str]) -> "Probe":
        """The same for these chats alone."""
        return replace(self, chats={roles: self.chats[roles] for roles in chats})

    def as_json(self) -> dict[str, Any]:
        chats = {roles: {"refused": seen.refused, "lost": list(seen.lost)} for roles, seen in self.chats.items()}
        return {"end": self.end, "date": self.date, "unclosed": self.unclosed, "chats": chats}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Probe":
        chats = {roles: Seen(seen["refused"], tuple(seen["lost"])) for roles, seen in told["chats"].items()}
        return cls(told["end"], told["date"], told["unclosed"], chats)


class Templates(NamedTuple):
    """What every model's chat template does with a study's chats."""

    probes: dict[str, Any]  # as JSON, by the model's identity
    notes: tuple[str, ...]  # one sentence each


def try_templates(
    models: Mapping[str, BaseModel], *, chats: tuple[str, ...], trained: bool, online: bool, known: Mapping[str, Any]
) -> Templates:
    """Try what is not `known` (the probes of an earlier plan); `trained` says whether anything is to be finetuned.

    Raises DataError (one line) for a template that refuses a chat or ends no answer.
    """
    probes: dict[str, Any] = {}
    notes: list[str] = []
    for name, model in models.items():
        if hosted_name(model.location) or not model.pinned:
            continue
        told = known.get(model.identity)
        if told and set(chats) <= set(told["chats"]):
            found = Probe.from_json(told).of(chats)
        elif online or is_here(model.location):
            found = probe(model, chats, online=online)
        else:
            notes.append(f"model {name} is not on this machine: its chat template is tried when the sweep runs")
            continue
        probes[model.identity] = found.as_json()
        notes.extend(verdict(found, model=name, used=model, trained=trained))
    return Templates(probes, tuple(notes))


def roles_of(chats: Iterable[Messages]) -> tuple[str, ...]:
    """The distinct sequences of roles, as texts like "system user assistant"."""
    return tuple(sorted({" ".join(message.role for message in chat) for chat in chats}))


@lru_cache(maxsize=64)
def probe(model: BaseModel, chats: tuple[str, ...], *, online: bool) -> Probe:
    """Try a model's template with chats of these roles. Raises DataError when it has none, or it cannot be had."""
    chat = Chat(tokenizer_folder(model.location, online=online), rendering=model.rendering)
    seen = {roles: _try(chat, tuple(roles.split())) for roles in chats}
    end = None if chat.end is None else str(chat.tokenizer.convert_ids_to_tokens(chat.end))
    return Probe(end, chat.reads_clock, chat.turn.unclosed.strip(), seen)


def _try(chat: Chat, roles: tuple[str, ...]) -> Seen:
    messages = tuple(Message(role, f"Qzturn{number}z") for number, role in enumerate(roles))
    try:
        text = chat.answered(messages)[0] if roles[-1] == "assistant" else chat.prompt(messages)
    except DataError as error:
        return Seen(refused=str(error))
    expected = [m for m in messages if not (m.role == "system" and chat.rendering.system == "drop")]
    return Seen(lost=tuple(dict.fromkeys(m.role for m in expected if m.content not in text)))


def verdict(probe: Probe, *, model: str, used: BaseModel, trained: bool) -> tuple[str, ...]:
    """What should be known of a model, one sentence each. Raises DataError for what no study can do with it."""
    refused = [(roles, seen.refused) for roles, seen in probe.chats.items() if seen.refused]
    for roles, said in refused:
        remedy = "; set its system: merge (into the user's turn) or drop" if "system" in roles.split() else ""
        raise DataError(f"model {model}: {said}{remedy if used.rendering.system == 'as_is' else ''}")
    if probe.end is None and trained:
        raise DataError(f"model {model}: {NO_END}")
    return tuple(f"model {model}: {note}" for note in _notes(probe, used))


def _notes(probe: Probe, used: BaseModel) -> Iterable[str]:
    lost = sorted({role for seen in probe.chats.values() for role in seen.lost})
    for role in lost:
        remedy = "; system: merge puts it into the user's turn" if role == "system" else ""
        yield f"its chat template leaves out what {role} turns say{remedy}"
    if used.rendering.system == "drop" and any("system" in roles.split() for roles in probe.chats):
        yield "system turns are left out, as its system: drop says"
    if probe.date:
        yield f"its chat template writes a date, which is pinned to {used.rendering.date} (date)"
    if probe.end is None:
        yield NO_END
    if probe.unclosed and used.rendering.reasoning == "off":
        yield f"its chat template opens answers with {probe.unclosed}, which is left out (reasoning: off)"
