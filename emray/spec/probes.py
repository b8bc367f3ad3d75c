"""`probes`: what else is asked of the adapters and answers that a sweep has, one section a probe.

Not for measuring (probes/). The invariant: a probe that is not named is not made, and costs nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from emray.spec.section import Section


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

    predictors: PredictorsSpec | None = Field(None, description="what predicts the misaligned rate, domain by domain")

    @property
    def named(self) -> tuple[str, ...]:
        """The probes that are made."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

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
