"""`probes`: what else is asked of the adapters and answers that a sweep has, one section a probe.

Not for measuring (probes/). The invariant: a probe that is not named is not made, and costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from emray.spec.generate import QuestionFile
from emray.spec.section import Section, absolute, as_list


class TransferSpec(Section):
    """Every finetune asked every domain's own questions."""

    questions: Annotated[list[QuestionFile], BeforeValidator(as_list)] = Field(
        [], description="question files whose questions name their domain; default: those of generate.questions that do"
    )
    hold_out: float = Field(
        0, ge=0, le=0.5, description="in place of files: the share of each domain's questions that nothing trains on"
    )
    per_domain: int | None = Field(20, ge=1, description="questions of each domain, at most")
    samples: int = Field(5, ge=1, le=1_000_000, description="answers per question, paraphrase and condition")
    near: float = Field(
        0.8, gt=0, le=1, description="a question this like a training row's (shared words) leaked and is left out"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "TransferSpec":
        if self.questions and self.hold_out:
            raise ValueError("questions come from files or from hold_out, not from both; leave one out")
        return self


class PredictorsSpec(Section):
    """The misaligned rate of each domain against what may predict it."""

    values: dict[str, dict[str, float]] = Field(
        {}, description="further predictors by name: a number for each domain, {stealth: {gore_movie_trivia: 0, ...}}"
    )


def _named(value: Any) -> Any:
    """A list of names stands for those probes as they are by default."""
    return {name: {} for name in value} if isinstance(value, list) else value


class ProbesSpec(Section):
    """The probes of a sweep; `{}` takes one as it is by default."""

    transfer: TransferSpec | None = Field(None, description="every finetune on every domain's own questions")
    predictors: PredictorsSpec | None = Field(None, description="what predicts the misaligned rate, domain by domain")

    @property
    def named(self) -> tuple[str, ...]:
        """The probes that are made."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    def resolved(self, folder: Path) -> "ProbesSpec":
        """The same with paths made absolute, as seen from the sweep file's folder."""
        if self.transfer is None:
            return self
        files = [file.model_copy(update={"file": absolute(file.file, folder)}) for file in self.transfer.questions]
        return self.model_copy(update={"transfer": self.transfer.model_copy(update={"questions": files})})

    def unknown_domains(self, domains: list[str]) -> Mapping[str, str]:
        """By field, a domain it names that is not one of these."""
        given = self.predictors.values if self.predictors else {}
        return {
            f"probes.predictors.values.{name}": domain
            for name, values in given.items()
            for domain in values
            if domain not in domains
        }


Probes = Annotated[ProbesSpec, BeforeValidator(_named)]
