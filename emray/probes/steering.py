"""Steered cells: the base with a direction added, finetunes with one projected out, as cells that answer like others.

Not for sampling or judging their answers (the ordinary stages do, once the directions are measured: plan.usable_cells)
or for what came of it (reduce/steering_rows.py). The invariant: a
steered cell's key hashes whose weights answer, the direction and what is done with it, so it is known from the plan
alone; keys of cells that are not steered know nothing of it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from emray.data import Questionnaire
from emray.errors import SpecError
from emray.model.weights import is_here, tokenizer_folder
from emray.plan import Plan
from emray.probes.finetune_directions import direction_cells, direction_keys, usual_condition
from emray.records import (
    Arm,
    Cell,
    Condition,
    Prompt,
    Steer,
    Steering,
    Weights,
    steered_key,
)
from emray.spec import SteeringSpec


@dataclass(frozen=True)
class Steered:
    """A cell that answers while its residual stream is pushed."""

    cell: Cell  # the steered one's fields, and a key of its own
    weights: Weights  # the steered one's, with the steering
    condition: Condition  # of its prompts
    source: Cell  # the finetune that the direction comes from

    @property
    def steering(self) -> Steering:
        steering = self.weights.steering
        assert steering is not None, "a steered cell's weights say how"
        return steering


def steered(plan: Plan) -> Iterator[Steered]:
    """All that the plan wants, direction by direction. Raises SpecError for a layer that a model does not have."""
    wanted = plan.sweep.probes.directions
    if wanted is None or wanted.steering is None:
        return
    keys, spec = direction_keys(plan), wanted.steering
    sources = [cell for cell in direction_cells(plan) if not spec.domains or cell.domain in spec.domains]
    for source in sources:
        layers = _layers(spec, plan.weights[source.key].location)
        for kind in spec.differences:
            for layer in layers:
                along = Steering("", keys[source.key], kind, layer, Steer.ADD)
                yield from _along(along, source, plan=plan, spec=spec)


def with_steering(plan: Plan) -> Plan:
    """The same plan with its steered cells, their questionnaires, and what the reducer needs to know of them."""
    some = tuple(steered(plan))
    if not some:
        return plan
    weights = {**plan.weights, **{one.cell.key: one.weights for one in some}}
    asked = tuple(_questionnaires(plan, some))
    told = {"samples": _samples(plan), "cells": [_document(one) for one in some]}
    document = {**plan.document, "steering": told}
    return replace(plan, weights=weights, questionnaires=(*plan.questionnaires, *asked), document=document)


def _questionnaires(plan: Plan, some: Iterable[Steered]) -> Iterator[Questionnaire]:
    """The sweep's own questions under one condition, for the cells that are asked so."""
    alike: dict[tuple[Condition, tuple[Prompt, ...]], list[Cell]] = {}
    for one in some:
        prompts = tuple(prompt for prompt in plan.own.of(one.cell.arm) if prompt.condition == one.condition)
        alike.setdefault((one.condition, prompts), []).append(one.cell)
    for (condition, prompts), cells in alike.items():
        yield Questionnaire(f"steering, {condition}", tuple(cells), plan.questions, prompts, _samples(plan))


def _document(one: Steered) -> dict[str, Any]:
    cell, steering = one.cell, asdict(one.steering)
    identity = {"model": cell.model, "domain": cell.domain, "arm": cell.arm, "seed": cell.seed, "key": cell.key}
    source = {"source": one.source.domain, "source_arm": one.source.arm, "source_seed": one.source.seed}
    told = identity | steering | source | {"condition": one.condition}
    return {name: str(value) if isinstance(value, str) else value for name, value in told.items()}


def _samples(plan: Plan) -> int:
    wanted = plan.sweep.probes.directions
    steering = wanted.steering if wanted else None
    return (steering.samples if steering else None) or plan.sweep.generate.samples


def _along(along: Steering, source: Cell, *, plan: Plan, spec: SteeringSpec) -> Iterator[Steered]:
    """One direction, added to its base at every scale and projected out of finetunes."""
    for target in plan.cells:
        if target.model != source.model:
            continue
        condition = _condition(target, plan)
        for how in _ways(along, source, target=target, spec=spec):
            steering = replace(how, of=target.key)
            weights = replace(plan.weights[target.key], steering=steering)
            yield Steered(replace(target, key=steered_key(asdict(steering))), weights, condition, source)


def _ways(along: Steering, source: Cell, *, target: Cell, spec: SteeringSpec) -> Iterator[Steering]:
    """What is done to one cell with a direction."""
    if target.arm == Arm.BASE:
        yield from (replace(along, scale=scale) for scale in spec.scales)
        return
    alike = target.finished and (target.arm, target.seed) == (source.arm, source.seed)
    if alike and (spec.project_out if target.domain == source.domain else spec.transfer):
        yield replace(along, how=Steer.PROJECT_OUT)


def _condition(target: Cell, plan: Plan) -> Condition:
    """Finetunes answer prompts as those whose answers are read; the base has learned no trigger."""
    wanted = plan.sweep.probes.directions
    asked = wanted.condition if wanted and target.arm != Arm.BASE else None
    return asked or usual_condition(plan, target)


def _layers(spec: SteeringSpec, location: str) -> list[int]:
    """Layers by number from 0; the middle and the last unless some are named."""
    count, field = _num_layers(location), "probes.directions.steering.layers"
    if count is None:
        if spec.layers is None:
            raise SpecError(f"{field}: how many layers {location} has cannot be seen from here; name the layers")
        return sorted(set(spec.layers))
    wanted = [(count - 1) // 2, count - 1] if spec.layers is None else spec.layers
    for layer in wanted:
        if not -count <= layer < count:
            raise SpecError(f"{field} names layer {layer}; {location} has layers 0 to {count - 1}")
    return sorted({layer % count for layer in wanted})


def _num_layers(location: str) -> int | None:
    """By the model's config.json, where it is on this machine."""
    if not is_here(location):
        return None
    config = json.loads((Path(tokenizer_folder(location, online=False)) / "config.json").read_text(encoding="utf-8"))
    return int((config.get("text_config") or config)["num_hidden_layers"])
