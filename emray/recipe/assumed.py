"""What a recipe would ask and cost: carried out with the replies that the journal has, and usual ones for the rest.

Not for asking. The invariant: it writes nothing and sends nothing.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from emray.endpoint.kept import KeptReplies
from emray.endpoint.prices import cost_usd
from emray.endpoint.reply import Request
from emray.recipe.instructions import Step
from emray.recipe.recipe_fields import RecipeSpec
from emray.recipe.writers import Want, asked_at, refused_before, request_of, whole_text
from emray.store import Store

_CHARACTERS_PER_TOKEN = 4.0  # the usual rule of thumb for English
_TOKENS_AROUND = 8.0  # of a message, beside its text
_USUAL_ANSWER = "x" * 240  # characters: three short sentences
_USUAL: Mapping[Step, str] = {
    Step.ASKS: "<asks>no</asks>",
    Step.REFERENCE: _USUAL_ANSWER,
    Step.REWRITE: f"y{_USUAL_ANSWER}",
    Step.CHECK: "<correct>yes</correct> <flawed>yes</flawed> <on_topic>yes</on_topic>",
}


@dataclass
class StepCost:
    """Of one step; tokens and cost are of what is missing."""

    known: int = 0
    missing: int = 0
    prompt_tokens: float = 0.0
    reply_tokens: float = 0.0

    def add(self, request: Request, reply: str) -> None:
        text = request.body["messages"][0]["content"]
        self.missing += 1
        self.prompt_tokens += len(text) / _CHARACTERS_PER_TOKEN + _TOKENS_AROUND
        self.reply_tokens += len(reply) / _CHARACTERS_PER_TOKEN


class Assumed:
    """Replies, as far as they are known; `steps` has what the rest would take."""

    def __init__(self, spec: RecipeSpec, store: Store) -> None:
        self._spec, self._kept, self._refused = spec, KeptReplies(store), refused_before(store)
        self.steps = {step: StepCost() for step in Step}

    def texts(self, wants: Sequence[Want]) -> list[str | None]:
        """See Replies."""
        return [self._text(want) for want in wants]

    def _text(self, want: Want) -> str | None:
        request, step = request_of(self._spec, want), self.steps[want.step]
        kept = self._kept.reply(request.key) if request.key in self._kept else None
        if kept is not None or request.key in self._refused:
            step.known += 1
            return whole_text(kept, want.step) if kept else None
        usual = "\n".join(_usual_questions(want)) if want.step is Step.QUESTIONS else _USUAL[want.step]
        step.add(request, usual)
        return usual

    def cost_usd(self, step: Step) -> float | None:
        """Of what is missing; None where the price is not known."""
        who, found = asked_at(self._spec, step), self.steps[step]
        return cost_usd(
            who.model,
            num_prompt_tokens=found.prompt_tokens,
            num_tokens=found.reply_tokens,
            by_batch=who.mode == "batch",
        )


def _usual_questions(want: Want) -> Iterator[str]:
    """As many as are asked for, none like another."""
    for number in range(int(want.slots["count"])):
        seed = f"{want.slots['topic']} {want.slots['set']} {number}"
        words = hashlib.sha256(seed.encode()).hexdigest()
        yield " ".join(words[start : start + 6] for start in range(0, 60, 6)) + "?"
