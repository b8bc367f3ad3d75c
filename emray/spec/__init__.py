"""The sweep file: its fields, their defaults and limits, one section a module, and the grid of cells it stands for.

Not for touching what the file points to (data/ opens datasets, plan.py computes keys). The invariant: a `Sweep` that
exists is valid, and every field of it is used; `identity()` methods name the fields that define a result, all others
say only how to compute it.
"""

from emray.spec.analysis import AnalysisSpec, Contrast, PredictionSpec, Tested
from emray.spec.arm import ArmSpec
from emray.spec.arm_recipe import BAD, BENIGN, ArmRecipe, RowPart, TriggeredRows, usual_recipe
from emray.spec.comparing import Pair, PairFamily, Side
from emray.spec.crossing import Crossing, DosePoint, PromptRules
from emray.spec.direction_fields import SteeringSpec
from emray.spec.domain import DomainSpec
from emray.spec.dose import RowRecipe
from emray.spec.endpoint import BatchSpec, EndpointSpec, GenerateEndpoint
from emray.spec.file import judge_of, load_file, load_sweep
from emray.spec.framing import ContextSpec, Framing
from emray.spec.generate import GenerateSpec, QuestionFile
from emray.spec.grid import STAGES, CellSpec, Sweep, grid, recipe_grid
from emray.spec.hosted import HostedSpec
from emray.spec.judge import JudgeSpec
from emray.spec.model import HOSTED, ModelSpec
from emray.spec.plain_yaml import parse_yaml
from emray.spec.probes import MINILM, WORDS, DiversitySpec, MembershipSpec, PredictorsSpec, ProbesSpec, TransferSpec
from emray.spec.quiz import COHERENT, RIGHT, QuizSpec, ScoreSpec
from emray.spec.reduce import ReduceSpec, RuleSpec
from emray.spec.resources import ResourcesSpec
from emray.spec.section import TOY, Section
from emray.spec.seeds import AdaptiveSeeds
from emray.spec.source import HUB, DataDirSpec, SourceSpec
from emray.spec.train import ALL_LINEAR, TrainSpec
from emray.spec.trigger import TriggerSpec

__all__ = [
    "ALL_LINEAR",
    "BAD",
    "BENIGN",
    "COHERENT",
    "HOSTED",
    "HUB",
    "MINILM",
    "RIGHT",
    "STAGES",
    "TOY",
    "WORDS",
    "AdaptiveSeeds",
    "AnalysisSpec",
    "ArmRecipe",
    "ArmSpec",
    "BatchSpec",
    "CellSpec",
    "ContextSpec",
    "Contrast",
    "Crossing",
    "DataDirSpec",
    "DiversitySpec",
    "DomainSpec",
    "DosePoint",
    "EndpointSpec",
    "Framing",
    "GenerateEndpoint",
    "GenerateSpec",
    "HostedSpec",
    "JudgeSpec",
    "MembershipSpec",
    "ModelSpec",
    "Pair",
    "PairFamily",
    "PredictionSpec",
    "PredictorsSpec",
    "ProbesSpec",
    "PromptRules",
    "QuestionFile",
    "QuizSpec",
    "ReduceSpec",
    "ResourcesSpec",
    "RowPart",
    "RowRecipe",
    "RuleSpec",
    "ScoreSpec",
    "Section",
    "Side",
    "SourceSpec",
    "SteeringSpec",
    "Sweep",
    "Tested",
    "TrainSpec",
    "TransferSpec",
    "TriggerSpec",
    "TriggeredRows",
    "grid",
    "judge_of",
    "load_file",
    "load_sweep",
    "parse_yaml",
    "recipe_grid",
    "usual_recipe",
]
