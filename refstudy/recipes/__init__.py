"""Every kind of artefact as a frozen value: the recipe says what a result is, and its id names the result everywhere.

Invariant: only what changes the result stands in a recipe; paths, devices and names for people are marked `execution_only`, with
the reason. RESULT_VERSION of a kind rises when its code gives other results than by rounding; a field that a kind gains later is
marked `added_later`, so that results which its default describes keep their names.
"""

from collections.abc import Iterable, Iterator

from refstudy.identity import fingerprint, nested
from refstudy.recipes.along import Along as Along
from refstudy.recipes.along import AlongCurve as AlongCurve
from refstudy.recipes.along import OtherPrompts as OtherPrompts
from refstudy.recipes.judges import GIVEN_ONLY as GIVEN_ONLY
from refstudy.recipes.judges import AnnotationsJudge as AnnotationsJudge
from refstudy.recipes.judges import GoldJudge as GoldJudge
from refstudy.recipes.judges import Judge as Judge
from refstudy.recipes.judges import LlmJudge as LlmJudge
from refstudy.recipes.judges import PluginJudge as PluginJudge
from refstudy.recipes.judges import RewardJudge as RewardJudge
from refstudy.recipes.judges import VotesJudge as VotesJudge
from refstudy.recipes.models import Adapter as Adapter
from refstudy.recipes.models import Dpo as Dpo
from refstudy.recipes.models import Hub as Hub
from refstudy.recipes.models import Local as Local
from refstudy.recipes.models import Pretrained as Pretrained
from refstudy.recipes.models import RewardModel as RewardModel
from refstudy.recipes.models import Rounded as Rounded
from refstudy.recipes.models import Scratch as Scratch
from refstudy.recipes.models import Sft as Sft
from refstudy.recipes.references import Column as Column
from refstudy.recipes.references import Constant as Constant
from refstudy.recipes.references import Derived as Derived
from refstudy.recipes.references import Mixture as Mixture
from refstudy.recipes.references import Part as Part
from refstudy.recipes.references import Prior as Prior
from refstudy.recipes.references import Selection as Selection
from refstudy.recipes.references import Server as Server
from refstudy.recipes.references import Table as Table
from refstudy.recipes.references import TokenPairs as TokenPairs
from refstudy.recipes.texts import Conversations as Conversations
from refstudy.recipes.texts import Demonstrations as Demonstrations
from refstudy.recipes.texts import HeldOutPrompts as HeldOutPrompts
from refstudy.recipes.texts import MiniaturePairs as MiniaturePairs
from refstudy.recipes.texts import MiniaturePrompts as MiniaturePrompts
from refstudy.recipes.texts import Preferences as Preferences
from refstudy.recipes.texts import Prompts as Prompts
from refstudy.recipes.values import PATH_REASON as PATH_REASON
from refstudy.recipes.values import WORLD_VERSION as WORLD_VERSION
from refstudy.recipes.values import File as File
from refstudy.recipes.values import HubData as HubData
from refstudy.recipes.values import Lora as Lora
from refstudy.recipes.values import Sampling as Sampling
from refstudy.recipes.values import Training as Training
from refstudy.recipes.verdicts import Answers as Answers
from refstudy.recipes.verdicts import ChatServer as ChatServer
from refstudy.recipes.verdicts import Completions as Completions
from refstudy.recipes.verdicts import Divergence as Divergence
from refstudy.recipes.verdicts import TokenShifts as TokenShifts
from refstudy.recipes.verdicts import TrainingLog as TrainingLog
from refstudy.recipes.verdicts import Verdicts as Verdicts

Model = Hub | Local | Adapter | Rounded | Pretrained | Scratch | Sft | Dpo
Scorer = Model | Constant | Prior | Column | Server | Mixture | Derived
AnyAnswers = Completions | Answers
AnyPrompts = MiniaturePrompts | HeldOutPrompts | Prompts | OtherPrompts
Recipe = (
    MiniaturePrompts
    | MiniaturePairs
    | Demonstrations
    | Preferences
    | HeldOutPrompts
    | Prompts
    | OtherPrompts
    | Conversations
    | Hub
    | Local
    | Adapter
    | Rounded
    | Pretrained
    | Scratch
    | Sft
    | RewardModel
    | Dpo
    | Constant
    | Prior
    | Column
    | Server
    | Mixture
    | Derived
    | TokenPairs
    | Selection
    | Table
    | ChatServer
    | Completions
    | Answers
    | TrainingLog
    | AlongCurve
    | Divergence
    | TokenShifts
    | Judge
    | Verdicts
)


def inputs(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipes that must exist before `recipe` can be made, in field order, without repeats."""
    return tuple({fingerprint(each): each for each in nested(recipe)}.values())


def closure(goals: Iterable[Recipe]) -> Iterator[Recipe]:
    """The goals and all that stands below them, inputs before what is made from them, each once."""
    seen: set[str] = set()

    def visit(recipe: Recipe) -> Iterator[Recipe]:
        if fingerprint(recipe) in seen:
            return
        seen.add(fingerprint(recipe))
        for each in inputs(recipe):
            yield from visit(each)
        yield recipe

    for goal in goals:
        yield from visit(goal)
