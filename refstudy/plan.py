"""What must still be made before a sweep is done, in an order in which it can be made.

Invariant: what the store has is never planned again, nor anything below it that nothing missing needs.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refstudy import recipes
from refstudy.grid import Cell
from refstudy.identity import fingerprint, kind
from refstudy.recipes import Recipe
from refstudy.store import Store

GIVEN = (
    *(recipes.Hub, recipes.Local, recipes.Adapter, recipes.Rounded, recipes.GoldJudge, recipes.RewardJudge, recipes.LlmJudge),
    *(recipes.VotesJudge, recipes.AnnotationsJudge, recipes.PluginJudge),
    *(recipes.Constant, recipes.Prior, recipes.Column, recipes.Server, recipes.Mixture, recipes.Derived, recipes.ChatServer),
)
"""Recipes that name what exists elsewhere or only combine others: nothing is made for them."""


def missing(goals: Iterable[Recipe], store: Store, except_for: Callable[[Recipe], bool] = lambda recipe: False) -> list[Recipe]:
    """The recipes to make for `goals`, inputs first, each once; `except_for` says which are somebody else's to make.

    What a recipe somebody else makes needs is planned too.
    """
    seen: set[str] = set()

    def visit(recipe: Recipe) -> Iterator[Recipe]:
        if fingerprint(recipe) in seen:
            return
        seen.add(fingerprint(recipe))
        given = isinstance(recipe, GIVEN)
        if not given and store.has(recipe):
            return
        for each in needs(recipe):
            yield from visit(each)
        if not given and not except_for(recipe):
            yield recipe

    return [recipe for goal in goals for recipe in visit(goal)]


def is_from_file(recipe: Recipe) -> bool:
    """Whether the artefact is the text of a file, and needs nothing else."""
    match recipe:
        case recipes.Preferences() | recipes.Prompts() | recipes.Conversations():
            return isinstance(recipe.source, recipes.File)
        case _:
            return False


def needs(recipe: Recipe) -> tuple[Recipe, ...]:
    """What must exist to make `recipe`: its inputs, and what its making reads beside them."""
    direct = recipes.inputs(recipe)
    match recipe:
        case recipes.Verdicts():
            return (*direct, recipe.candidate.prompts)
        case recipes.Divergence():
            return (*direct, recipe.completions.source, recipe.completions.prompts)
        case recipes.Table(texts=recipes.Completions() as completions):
            source = completions.source
            return (*direct, completions.prompts, source.start if isinstance(source, recipes.Dpo) else source)
        case recipes.Table():
            return _needs_of_table(recipe, recipe.texts)
        case recipes.Selection():
            return (recipe.pairs, *(recipes.Table(scorer=each, texts=recipe.pairs) for each in (recipe.of, recipe.own)))
        case recipes.MiniaturePairs():
            return (*direct, *(each.prompts for each in recipe.candidates))
        case recipes.TrainingLog():
            return (recipe.model,)
        case recipes.Dpo():
            tables = [each.texts for each in (recipe.table, recipe.validation) if each]
            return (*direct, *tables, *along_needs(recipe.along))
        case _:
            return direct


def _needs_of_table(table: recipes.Table, texts: recipes.Recipe) -> tuple[Recipe, ...]:
    """What a table over pairs is made from: text and a model, or other tables over the same text."""
    if isinstance(texts, recipes.Selection):
        return (texts, recipes.Table(scorer=table.scorer, texts=texts.pairs))
    assert isinstance(texts, recipes.TokenPairs)
    match table.scorer:
        case recipes.Constant() | recipes.Column() | recipes.Server():
            return (texts, texts.policy)
        case recipes.Prior(model=model):
            return (texts, texts.policy, model)
        case recipes.Mixture(parts=parts):
            return (texts, *(recipes.Table(scorer=part.scorer, texts=texts) for part in parts))
        case recipes.Derived(of=of, own=own):
            return (texts, *(recipes.Table(scorer=each, texts=texts) for each in (of, own)))
        case model:
            return (texts, texts.policy, model)


def along_needs(along: recipes.Along | None) -> tuple[Recipe, ...]:
    """What evaluations along training read."""
    return () if along is None else (along.baseline.source, along.baseline.prompts, along.baseline, along.judge)


def cell_goals(cell: Cell) -> tuple[Recipe, ...]:
    """What a finished cell has in the store."""
    return cell.goals


def trial_goals(cell: Cell) -> list[Recipe]:
    """What its trial makes or reads, and those of the cells that it is judged against."""
    return [each for one in (cell, *cell.rivals) for each in (*one.goals, one.dpo, *along_needs(one.along))]


def is_made(cell: Cell, store: Store) -> bool:
    return all(store.has(goal) for goal in cell_goals(cell))


def is_judged(cell: Cell, store: Store) -> bool:
    """Whether all is made for the sweep's own prompts, whatever evaluation sets still lack."""
    return all(store.has(goal) for goal in (cell.log, cell.completions, cell.divergence, cell.verdicts))


def shared(cells: Iterable[Cell], store: Store) -> list[Recipe]:
    """What must be made before the trials of `cells`: all that they need and do not make themselves."""
    cells = list(cells)
    tried = [*cells, *(rival for cell in cells for rival in cell.rivals)]
    own = {fingerprint(each) for cell in tried for each in (*cell_goals(cell), cell.dpo)} - _guides(cells)
    goals: list[Recipe] = [goal for cell in cells for goal in cell_goals(cell)]
    goals += [each for cell in cells if trains(cell, store) for each in along_needs(cell.along)]
    return missing(goals, store, except_for=lambda recipe: fingerprint(recipe) in own)


def rivals_first(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, those first whose answers others are judged against: no trial then waits for long, or trains another's policy."""
    cells = list(cells)
    rivals = {rival.id for cell in cells for rival in cell.rivals}
    return sorted(cells, key=lambda cell: cell.id not in rivals)


def _guides(cells: list[Cell]) -> set[str]:
    """Ids of DPO policies that serve as references: they are made before the trials, though a cell may be the same recipe."""
    below = recipes.closure([cell.dpo.table.scorer for cell in cells])
    return {fingerprint(each) for each in below if isinstance(each, recipes.Dpo)}


def trains(cell: Cell, store: Store) -> bool:
    """Whether the cell's trial has to train: its policy is gone and something that only the policy can give is missing."""
    return not store.has(cell.dpo) and not all(store.has(each) for each in (cell.log, *cell.answers, cell.divergence))


def retrained_for(cell: Cell, store: Store) -> list[str]:
    """The evaluation sets for whose answers alone the cell's policy is trained again: it was not kept."""
    if store.has(cell.dpo) or not all(store.has(each) for each in (cell.log, cell.completions, cell.divergence)):
        return []
    return [each.name for each in cell.evaluations if not store.has(each.completions)]


def reference_passes(cells: Iterable[Cell], store: Store) -> list[list[Recipe]]:
    """What is scored after the cells, grouped so that each group loads one reference once.

    A group holds the reference's own answers and verdicts (unless the judge knows given answers only) and its log-probs of every
    cell's answers (KL to the reference); of a server its own answers only where it is said to give some. Cells without answers,
    such as those that failed, are left out, and references that neither answer nor score new text.
    """
    groups: dict[str, list[Recipe]] = {}
    for cell in cells:
        reference = cell.dpo.table.scorer
        if not store.has(cell.completions) or not isinstance(reference, recipes.Model | recipes.Server):
            continue
        group = groups.setdefault(fingerprint(reference), [])
        if answers_itself(cell) and own_verdicts(cell) not in group:
            group += missing([own_verdicts(cell)], store)
        table = recipes.Table(scorer=reference, texts=cell.completions)
        if not store.has(table):
            group.append(table)
    return [list({fingerprint(each): each for each in group}.values()) for group in groups.values() if group]


def answers_itself(cell: Cell) -> bool:
    """Whether the cell's reference is judged too, on answers of its own."""
    return cell.answering is not None and not isinstance(cell.verdicts.judge, recipes.GIVEN_ONLY)


def own_verdicts(cell: Cell) -> recipes.Verdicts:
    """The verdicts on the cell's reference itself, which must be one that answers: its own answers against the cell's baseline."""
    reference = cell.answering
    assert reference is not None
    tokens_of = cell.dpo.start if isinstance(reference, recipes.ChatServer) else None
    answers = recipes.Completions(
        source=reference, prompts=cell.completions.prompts, sampling=cell.completions.sampling, tokens_of=tokens_of
    )
    return recipes.Verdicts(candidate=answers, baseline=cell.verdicts.baseline, judge=cell.verdicts.judge)


def title(recipe: Recipe) -> str:
    """A few words that tell the recipe from its like, for progress and messages."""
    match recipe:
        case recipes.Pretrained():
            return f"pretrained {_of_corpus(recipe)}"
        case recipes.Scratch():
            return f"pretrained {recipe.architecture} {recipe.hidden}x{recipe.layers}"
        case recipes.Hub():
            return recipe.model
        case recipes.Local():
            return Path(recipe.path).name
        case recipes.Adapter():
            return f"{title(recipe.base)} with adapter"
        case recipes.Rounded():
            return f"{title(recipe.model)} in {recipe.quantise or recipe.precision}"
        case recipes.Demonstrations():
            return f"demonstrations of {_of_corpus(recipe)}"
        case recipes.MiniaturePrompts():
            what = "evaluation prompts" if recipe.part == "evaluation" else f"prompts of pairs, {recipe.part}'s share"
            return f"{what} (world {recipe.world}{_of_seed(recipe.seed)})"
        case recipes.Prompts():
            return f"prompts of {_data_name(recipe.source)}"
        case recipes.OtherPrompts():
            return "prompts along training"
        case recipes.MiniaturePairs():
            return f"{recipe.annotator} pairs (world {recipe.world}{_of_seed(recipe.seed)})"
        case recipes.Sft(data=recipes.Demonstrations(statements=statements)):
            return f"SFT of {title(recipe.start)}" + ("" if statements == "all" else f" on {statements} statements")
        case recipes.Sft(data=recipes.Conversations() as conversations):
            return f"SFT of {title(recipe.start)} on {_data_name(conversations.source)}"
        case recipes.Sft():
            return f"SFT of {title(recipe.start)}"
        case recipes.Dpo():
            against = "itself" if recipe.table.scorer == recipe.start else title(recipe.table.scorer)
            return f"DPO of {title(recipe.start)} against {against} at beta {recipe.beta:g}{_of_seed(recipe.seed)}"
        case recipes.Table(texts=recipes.Completions() as answers):
            return f"log-probs of answers of {title(answers.source)} by {title(recipe.scorer)}"
        case recipes.Table(texts=recipes.Selection() as chosen):
            return f"reference table of {title(recipe.scorer)} over {title(chosen)}"
        case recipes.Table():
            return f"reference table of {title(recipe.scorer)}"
        case recipes.Constant():
            return "constant"
        case recipes.Prior():
            return f"prior of {title(recipe.model)}"
        case recipes.Column():
            return f"columns {recipe.chosen}, {recipe.rejected}"
        case recipes.Server():
            return f"{recipe.model} (server)"
        case recipes.Mixture():
            return " + ".join(f"{part.weight:.2g} {title(part.scorer)}" for part in recipe.parts)
        case recipes.Derived():
            return f"{recipe.keep} of {title(recipe.of)}"
        case recipes.Selection():
            return f"pairs selected by {title(recipe.of)}"
        case recipes.ChatServer():
            return f"{recipe.model} (server)"
        case recipes.Completions(prompts=recipes.MiniaturePrompts(part="policy" | "neutral")):
            return f"answers for pairs of {title(recipe.source)}"
        case recipes.Completions(prompts=recipes.OtherPrompts()):
            return f"answers along training of {title(recipe.source)}"
        case recipes.Completions(prompts=recipes.Prompts() as asked):
            return f"answers of {title(recipe.source)} to {_data_name(asked.source)}"
        case recipes.Completions():
            return f"answers of {title(recipe.source)}"
        case recipes.LlmJudge():
            return f"{recipe.model} (llm, server)"
        case recipes.Answers(source=source):
            return "chosen answers" if source is None else f"answers of {_data_name(source)}"
        case recipes.Verdicts():
            return f"verdicts on {title(recipe.candidate)}"
        case _:
            return kind(recipe).replace("_", " ")


def _of_corpus(recipe: recipes.Pretrained | recipes.Demonstrations) -> str:
    """Family and size, and what a corpus of the miniature is drawn by."""
    style = "" if recipe.family == "north" else f", {recipe.north_share:.4g} of it north"
    draw = f", corpus {recipe.corpus}" if recipe.corpus else ""
    return f"{recipe.family} {recipe.size} (world {recipe.world}, {recipe.false_share:g} false{style}{draw})"


def _of_seed(seed: int) -> str:
    return f", seed {seed}" if seed else ""


def _data_name(source: recipes.File | recipes.HubData) -> str:
    if isinstance(source, recipes.HubData) and not source.path:
        return source.dataset
    return Path(source.path).name
