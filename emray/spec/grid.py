"""The sweep: every section of the file together, and the grid of cells it stands for.

Not for touching what the file points to (data/ opens datasets, plan.py computes keys). The invariant: a `Sweep` that
exists is valid, and every field of it is used.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PlainSerializer, field_validator, model_validator

from emray.records import NO_DOMAIN, USUAL_CONDITIONS, Arm, Condition, Place, key_of
from emray.spec.analysis import AnalysisSpec, MarginsSpec, PredictionSpec
from emray.spec.arm import ArmSpec, locate_arm
from emray.spec.comparing import PairFamily, pair_families
from emray.spec.crossing import ARMS_GIVEN, Crossing, PromptRules, arms_said, crossed
from emray.spec.deepspeed import read_settings
from emray.spec.domain import DomainSpec
from emray.spec.dose import RowRecipe
from emray.spec.framing import ContextSpec
from emray.spec.generate import GenerateSpec
from emray.spec.hosted import HostedSpec, without_a_word
from emray.spec.judge import JudgeSpec
from emray.spec.model import HOSTED, ModelSpec
from emray.spec.presets import PROMPTING
from emray.spec.probes import PROBES_OF_WEIGHTS, Probes, ProbesSpec
from emray.spec.quiz import Quizzes, unfit
from emray.spec.reduce import ReduceSpec
from emray.spec.resources import ResourcesSpec
from emray.spec.section import TOY, Section, absolute, one_or_more
from emray.spec.seeds import MOST_SEEDS, AdaptiveSeeds, Seeds
from emray.spec.source import DataDirSpec, located
from emray.spec.train import TrainSpec
from emray.spec.trigger import TriggerSpec

STAGES = ("train", "generate", "mark", "judge", "probe", "reduce", "report")

MOST_CELLS = 100_000  # finetunes of one sweep: more is a slip, and its plan would not fit memory


class Sweep(Section):
    """One study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run folder")
    model: Annotated[list[ModelSpec], one_or_more(ModelSpec)] = Field(
        min_length=1, description="one, or a list of them"
    )
    data_dir: DataDirSpec = Field(DataDirSpec(path=TOY), description="a folder, or {path, member, ...} of an archive")
    domains: list[DomainSpec] = Field(min_length=1, description="names, or {name, path, ...} each")
    arms: Annotated[dict[Arm, ArmSpec], ARMS_GIVEN, PlainSerializer(arms_said)] = Field(
        dict.fromkeys((Arm.BASE, Arm.PLAIN, Arm.BACKDOOR), ArmSpec()),
        min_length=1,
        description="what is trained on: names, or {name: {mix, trigger, inoculate, ...}} for arms of your own",
        json_schema_extra={"default": ["base", "plain", "backdoor"]},
    )
    seeds: Seeds = Field([0, 1, 2], description="a count, a list, or {min, max, half_width} to add until it is enough")
    trigger: TriggerSpec = Field(TriggerSpec(), description="the backdoor's text and its place in a prompt")
    contexts: dict[Condition, ContextSpec] = Field({}, description="further conditions, by names of your own")
    prompting: Literal["as_written", "paper"] = Field(
        "as_written", description="paper: as its script prompts (presets.py says how); fields beside it win"
    )
    train: TrainSpec = Field(TrainSpec(), description="the LoRA finetune of every cell")
    hosted: HostedSpec = Field(HostedSpec(), description="how a service finetunes models that are hosted there")
    generate: GenerateSpec = Field(GenerateSpec(), description="what is asked, and how answers are sampled")
    judge: JudgeSpec = Field(JudgeSpec(), description="who scores the answers, and for what")
    reduce: ReduceSpec = Field(ReduceSpec(), description="when an answer counts as misaligned")
    analysis: AnalysisSpec | None = Field(None, description="what was decided before the answers were seen")
    probes: Probes = Field(
        ProbesSpec(),
        description="what may predict or explain misalignment",
    )
    quizzes: Quizzes = Field({}, description="further questions, scored by a rule: what else did a finetune change")
    resources: ResourcesSpec = Field(ResourcesSpec(), description="how to compute: never part of a key")

    @field_validator("seeds", mode="before", json_schema_input_type=int | Seeds)
    @classmethod
    def _count_to_list(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= MOST_SEEDS:
                raise ValueError(f"a count of seeds is 1 to {MOST_SEEDS}; name single ones in a list: [{value}]")
            return list(range(value))
        return value

    @model_validator(mode="before")
    @classmethod
    def _headline_is_as_planned(cls, fields: Any) -> Any:
        analysis = fields.get("analysis") if isinstance(fields, Mapping) else None
        planned = analysis.get("rule") if isinstance(analysis, Mapping) else None
        reduce = (fields.get("reduce") or {}) if isinstance(planned, str) else None
        if not isinstance(reduce, Mapping):
            return fields
        if reduce.get("rule", planned) != planned:
            raise ValueError(
                f"analysis.rule is {planned!r} and reduce.rule {reduce['rule']!r}: the headline has one rule; "
                "leave reduce.rule out, or write another plan"
            )
        return {**fields, "reduce": {**reduce, "rule": planned}}

    @model_validator(mode="before")
    @classmethod
    def _from_prompting(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or fields.get("prompting") not in list(PROMPTING):
            return fields
        preset = PROMPTING[fields["prompting"]]
        given = {name: fields.get(name, {}) for name in preset}
        return {**fields} | {n: preset[n] | dict(said) for n, said in given.items() if isinstance(said, Mapping)}

    @model_validator(mode="after")
    def _arms_meet_conditions(self) -> "Sweep":
        self.crossing()
        self.pair_families()
        return self

    @model_validator(mode="after")
    def _predictions_are_of_this_sweep(self) -> "Sweep":
        domains = [domain.name for domain in self.domains]
        for number, one in enumerate(self.analysis.predicted if self.analysis else []):
            unknown = [name for name in one.domains if name not in domains]
            if unknown:
                raise ValueError(
                    f"analysis.predicted.{number} names domain {unknown[0]!r}, which is not in domains: "
                    f"{', '.join(domains)}"
                )
            if one.arm not in (arms := self.crossing().recipes):
                raise ValueError(
                    f"analysis.predicted.{number} is about arm {str(one.arm)!r}, which is not in arms: "
                    f"{', '.join(arms)}"
                )
            if one.condition not in (known := (*USUAL_CONDITIONS, *self.contexts)):
                raise ValueError(
                    f"analysis.predicted.{number} is about condition {str(one.condition)!r}, which is none of "
                    f"{', '.join(known)}"
                )
            if one.against is not None and not self._compares(one):
                raise ValueError(
                    f"analysis.predicted.{number} is about {one.test} that are not compared ({one.arm}, "
                    f"{one.condition}, against {one.against}); put them into analysis.compare"
                )
        return self

    def _compares(self, prediction: PredictionSpec) -> bool:
        """Whether its two sides are among the pairs."""
        asked = (prediction.test, (prediction.arm, prediction.condition), prediction.against)
        pairs = [pair for family in self.pair_families() for pair in family.pairs]
        return asked in [(pair.test, pair.first, pair.against) for pair in pairs]

    @model_validator(mode="after")
    def _probes_are_of_this_sweep(self) -> "Sweep":
        domains = [domain.name for domain in self.domains]
        for field, unknown in self.probes.unknown_domains(domains).items():
            raise ValueError(f"{field} names domain {unknown!r}, which is not in domains: {', '.join(domains)}")
        names = [model.name for model in self.model]
        for name in self.probes.membership.reference if self.probes.membership else ():
            if name not in names:
                raise ValueError(f"probes.membership.reference names {name!r}, which is no model: {', '.join(names)}")
        for arm, _ in self.probes.recipes(domains):
            if arm not in self.crossing().trained:
                raise ValueError(f"probes.dose, probes.mixture: no cell of this sweep trains as arm {str(arm)!r}")
            if self.crossing().recipes[arm].after:
                raise ValueError(
                    f"probes.dose, probes.mixture: arm {str(arm)!r} trains in several stages, and a dose is of one"
                )
        return self

    @model_validator(mode="after")
    def _directions_can_be_seen(self) -> "Sweep":
        if self.probes.directions:
            for problem in self.probes.directions.unfit(
                arms=list(self.crossing().recipes),
                metrics=self.judge.metrics,
                conditions=self.generate.conditions,
                own_weights=self.generate.engine != "openai",
            ):
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _quizzes_are_of_this_sweep(self) -> "Sweep":
        meets = {arm: recipe.conditions for arm, recipe in self.crossing().recipes.items()} if self.quizzes else {}
        here = self.generate.engine != "openai" and not any(one.path.startswith(HOSTED) for one in self.model)
        for name, quiz in self.quizzes.items():
            if problem := unfit(name, quiz, meets=meets, own_weights=here):
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _hosted_models_have_no_weights_here(self) -> "Sweep":
        hosted = [model.path for model in self.model if model.path.startswith(HOSTED)]
        if not hosted:
            if self.hosted != HostedSpec():
                raise ValueError("hosted says how a service finetunes, and no model is hosted; leave it out")
            return self
        alone, trains = len(hosted) == len(self.model), bool(self.crossing().trained)
        if alone and self.generate.engine not in ("auto", "openai"):
            raise ValueError(f"model {hosted[0]} is asked over HTTP: set generate.engine: openai")
        for probe in PROBES_OF_WEIGHTS:
            if probe in self.probes.named:
                raise ValueError(f"probes.{probe} needs weights, which {hosted[0]} has not here: study it without")
        for field in without_a_word(self.train) if alone and trains else ():
            raise ValueError(
                f"train.{field}: a finetuning service has no word for it; leave it out, and set hosted: "
                "epochs, batch_size, learning_rate_multiplier"
            )
        for recipe in self.crossing().recipes.values():
            if not recipe.is_usual:
                raise ValueError(
                    f"arms.{recipe.arm}: a finetuning service has no word for start, then, epochs, steps, "
                    f"learning_rate and regularise of an arm; leave them out for model {hosted[0]}"
                )
        return self

    @model_validator(mode="after")
    def _no_duplicates(self) -> "Sweep":
        names: dict[str, list[Any]] = {
            "model": [model.name for model in self.model],
            "domains": [domain.name for domain in self.domains],
            "seeds": self.seeds if isinstance(self.seeds, list) else [],
            "generate.conditions": list(self.generate.conditions),
            "judge.metrics": list(self.judge.metrics),
        }
        for field, values in names.items():
            repeated = sorted(str(value) for value, times in Counter(values).items() if times > 1)
            if repeated:
                raise ValueError(f"{field} names {repeated[0]!r} twice")
        return self

    @model_validator(mode="after")
    def _not_too_many(self) -> "Sweep":
        seeds = self.seeds.max if isinstance(self.seeds, AdaptiveSeeds) else len(self.seeds)
        arms = len(self.crossing().trained)
        if (cells := len(self.model) * len(self.domains) * arms * seeds) > MOST_CELLS:
            raise ValueError(
                f"model x domains x arms x seeds are {cells:,} finetunes; a sweep has at most {MOST_CELLS:,}: split it"
            )
        return self

    @property
    def prompt_rules(self) -> PromptRules:
        """How questions are put, whoever is asked."""
        conditions = (*self.generate.conditions, *self.contexts)
        return PromptRules(self.trigger, self.contexts, conditions, self.generate.system_prompts == "sent")

    def crossing(self) -> Crossing:
        """Its arms one by one, and the conditions that each of them meets."""
        return crossed(self.arms, self.prompt_rules, course=self.train.course)

    def pair_families(self) -> tuple[PairFamily, ...]:
        """Which arms and conditions are held against one another."""
        return pair_families(self.analysis, self.arms, self.crossing())

    @property
    def margins(self) -> MarginsSpec:
        return self.analysis.margins if self.analysis else MarginsSpec()

    def analysis_hash(self) -> str | None:
        """Names the analysis plan, the definition of its headline rule included; None without a plan."""
        if self.analysis is None:
            return None
        rule = self.reduce.rules[self.reduce.rule].model_dump(mode="json")
        told = {"rule": self.reduce.rule, "rule_is": rule, "confidence": self.reduce.confidence}
        return key_of("analysis", self.analysis.document | told)

    def seeds_at(self, place: Place, num_seeds: Mapping[Place, int]) -> list[int]:
        """The seeds of a place: those named, or the first so many of an adaptive sweep."""
        if isinstance(self.seeds, list):
            return self.seeds
        return list(range(num_seeds.get(place, self.seeds.min)))

    def resolved(self, folder: Path) -> "Sweep":
        """The same sweep with relative paths made absolute, as seen from the sweep file's folder, and with what its
        DeepSpeed JSON holds in place of that file's path.

        Raises SpecError for a DeepSpeed JSON that is none or says more than how to compute.
        """
        fields = self.model_dump(mode="json")
        fields["data_dir"] = located(fields["data_dir"], folder)
        asked = [fields["generate"], *fields["quizzes"].values()]
        for questions in (file for one in asked for file in one["questions"]):
            questions["file"] = absolute(questions["file"], folder)
        if isinstance(self.train.deepspeed_config, str):
            fields["train"]["deepspeed_config"] = read_settings(absolute(self.train.deepspeed_config, folder))
        fields["probes"] = self.probes.resolved(folder).model_dump(mode="json")
        fields["domains"] = [self._found(domain, folder) for domain in self.domains]
        for arm in fields["arms"].values() if isinstance(fields["arms"], dict) else ():
            locate_arm(arm, folder)
        membership, diversity = fields["probes"]["membership"] or {}, fields["probes"]["diversity"]
        for model in [*fields["model"], *membership.get("reference", {}).values()]:
            model["path"] = _located(model["path"], folder)
        if diversity:
            diversity["kernel"] = _located(diversity["kernel"], folder)
        return Sweep.model_validate(fields)

    def _found(self, domain: DomainSpec, folder: Path) -> dict[str, Any]:
        """A domain's fields, its files where they are: members of the data archive, unless it names its own."""
        given = domain.sources
        if self.data_dir.says_members and domain.path is None:
            given = {**self.data_dir.sources, **given}
        found = {name: source.of(domain.name).model_dump(mode="json") for name, source in given.items()}
        fields = domain.model_dump(mode="json")
        return fields | {name: located(source, folder) for name, source in found.items()}


def _located(location: str, folder: Path) -> str:
    """A folder that is there as an absolute path; a hub id and `toy` as they are."""
    here = location != TOY and (folder / Path(location).expanduser()).is_dir()
    return absolute(location, folder) if here else location


class CellSpec(NamedTuple):
    """One point of the grid, before its data are opened."""

    model: ModelSpec
    domain: DomainSpec | None  # None for base
    arm: Arm
    seed: int
    recipe: RowRecipe | None = None  # what else than the whole domain is trained on

    @property
    def domain_name(self) -> str:
        if self.recipe:
            return self.recipe.label
        return self.domain.name if self.domain else NO_DOMAIN


def grid(sweep: Sweep, *, num_seeds: Mapping[Place, int] | None = None) -> Iterator[CellSpec]:
    """Every cell of the sweep: base once a model, the other arms over domain x seed.

    `num_seeds` holds how many seeds an adaptive sweep has come to, where that is not its `min`.
    """
    arms, trained = sweep.crossing().recipes, sweep.crossing().trained
    for model in sweep.model:
        for arm in arms:
            if arm not in trained:
                yield CellSpec(model, None, arm, 0)
        for domain in sweep.domains:
            for arm in trained:
                for seed in sweep.seeds_at(Place(model.name, domain.name, arm), num_seeds or {}):
                    yield CellSpec(model, domain, arm, seed)


def recipe_grid(sweep: Sweep) -> Iterator[CellSpec]:
    """Every cell that a dose or a mixture adds: model x arm x recipe x seed, an adaptive sweep's first seeds."""
    domains = {domain.name: domain for domain in sweep.domains}
    seeds = sweep.seeds if isinstance(sweep.seeds, list) else list(range(sweep.seeds.min))
    for model in sweep.model:
        for arm, recipe in sweep.probes.recipes(list(domains)):
            for seed in seeds:
                yield CellSpec(model, domains[recipe.parts[0][0]], arm, seed, recipe)
