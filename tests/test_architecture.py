"""The shape of the code: imports in one direction, one door for each heavy library, no dumping grounds, no long files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = 450
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "misc", "tools"}

TORCH = (
    *("models", "chat", "scoring", "generation", "divergence", "pretraining", "shelf"),
    *("policies", "make", "training", "judges.reward_model"),
    "token_shifts",
    "line",
    "line_attention",
    "shared_prompt",
    "caches",
    "along",
    *("miniature.zoo", "miniature.architecture", "miniature.tokenizer"),
)
DOORS = {
    "torch": TORCH,
    "transformers": TORCH,
    "peft": TORCH,
    "accelerate": TORCH,
    "tokenizers": TORCH,
    "trl": ("training",),
    "deepspeed": ("training",),
    "ray": ("driver", "feed", "session", "tasks", "together"),
    "wandb": ("tracking",),
    "datasets": ("data", "training"),
    "pydantic": ("spec", "spec_along", "spec_judges", "spec_models", "spec_values", "spec_eval", "spec_run"),
    "typer": ("cli", "options", "outcomes"),
    "rich": ("cli", "progress", "table", "watch"),
    "matplotlib": (),
    "pandas": (),
    "jinja2": (),
    "boto3": ("objects",),
    "botocore": ("objects",),
}
"""Heavy library -> modules of refstudy that may import it; whatever else stands under a package named here may too."""

MEASURES = {"numpy", "scipy"}
ANALYSIS = {"numpy", "scipy", "pandas", "matplotlib", "jinja2", "markupsafe"}
ANALYSIS_READS = {"measures", "recipes", "identity", "store", "records", "texts", "errors"}

LAYERS = (
    *("errors", "identity", "processes", "provenance", "measurement", "objects", "copies", "disk", "far_states", "depot", "claims"),
    *("recipes", "hub", "texts", "content", "sweepfile", "endpoint", "journal"),
    *("measures", "memory", "checkpoints", "turns", "datafiles", "store", "records"),
    *(
        "alarms",
        "webhook",
        "spec_values",
        "spec_along",
        "spec_models",
        "spec_judges",
        "spec_eval",
        "spec_run",
        "spec",
        "miniature",
        "data",
        "chat",
        "models",
        "token_pairs",
        "tables",
        "pretraining",
    ),
    *(
        "passes",
        "partial_scores",
        "line",
        "line_attention",
        "shared_prompt",
        "caches",
        "scoring",
        "generation",
        "divergence",
        "judges",
        "training",
        "served_answers",
        "composed",
        "server_form",
        "server",
        "artefacts",
        "outputs",
        "shelf",
        "along",
        "reference_tables",
        "outlines",
        "renderings",
        "token_shifts",
    ),
    *(
        "entries",
        "judge_entries",
        "scorers",
        "evaluations",
        "oversight",
        "grid",
        "results",
        "runs",
        "plan",
        "schedule",
        "judging_cost",
        "cost",
        "explain",
        "export",
        "model_outputs",
        "progress",
        "guard",
        "table",
        "reference_scores",
        "reference_compatibility",
        "demand",
        "room",
    ),
    *(
        "scorer_checks",
        "policies",
        "make",
        "validation",
        "verdict",
        "imports",
        "sides",
        "watch",
        "targets",
        "tracking",
        "trial",
        "work",
        "alone",
        "session",
        "together",
        "tasks",
        "feed",
        "driver",
        "options",
        "outcomes",
        "cli",
        "__main__",
    ),
)
"""Modules and packages of refstudy, the lower ones first: none imports one that stands later."""

TORCH_FREE = (
    "spec",
    "grid",
    "store",
    "plan",
    "records",
    "cost",
    "results",
    "explain",
    "measures.cell",
    "schedule",
    "artefacts",
    "room",
)
"""What `status` and `plan` rest on: they answer at once."""


@cache
def _modules() -> list[Path]:
    return sorted([*(ROOT / "refstudy").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _imports(path: Path, within_functions: bool = True) -> tuple[str, ...]:
    """Dotted names that a module imports; `from a import b` counts as a.b, for b may be a module."""
    return tuple(_imported(path, within_functions))


def _imported(path: Path, within_functions: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if within_functions else _outside_functions(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_typing:
            yield node
            yield from _outside_functions(node)


def _is_under(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == f"refstudy.{each}" or name.startswith(f"refstudy.{each}.") for each in allowed)


def _layer(name: str) -> str | None:
    """The module or package of refstudy that a dotted name belongs to."""
    parts = name.split(".")
    return parts[1] if parts[0] == "refstudy" and len(parts) > 1 else None


def test_modules_are_found():
    assert len(_modules()) > 30


@pytest.mark.parametrize("library", DOORS)
def test_heavy_library_comes_in_by_its_door_only(library):
    strangers = [
        _name(path)
        for path in _modules()
        if _name(path).startswith("refstudy")
        and any(each.split(".")[0] == library for each in _imports(path))
        and not _is_under(_name(path), DOORS[library])
    ]
    assert strangers == []


def test_matplotlib_stands_in_plots_alone():
    users = [_name(path) for path in _modules() if any(each.startswith("matplotlib") for each in _imports(path))]
    assert users
    assert all(user.startswith("analysis.plots.") for user in users)


def test_measures_know_only_numpy_and_scipy():
    for path in (ROOT / "refstudy" / "measures").glob("*.py"):
        foreign = {each.split(".")[0] for each in _imports(path)} & (set(DOORS) | {"pyarrow", "yaml", "fsspec"})
        assert foreign == set(), path
        inner = {_layer(each) for each in _imports(path)} - {None}
        assert inner <= {"measures", "texts", "errors"}, path


def test_analysis_reads_measures_store_and_records_only():
    for path in (ROOT / "analysis").rglob("*.py"):
        foreign = {each.split(".")[0] for each in _imports(path)} & (set(DOORS) | {"pyarrow", "yaml"})
        assert foreign <= ANALYSIS, path
        inner = {_layer(each) if each != "refstudy" else None for each in _imports(path)} - {None}
        assert inner <= ANALYSIS_READS, path


def test_refstudy_meets_analysis_at_its_edge_only():
    """Only what runs a sweep or talks to the user may ask for a report."""
    users = {_name(path) for path in _modules() if any(each.split(".")[0] == "analysis" for each in _imports(path))}
    assert {user for user in users if user.startswith("refstudy")} <= {"refstudy.cli", "refstudy.outcomes", "refstudy.driver"}


def test_imports_go_in_one_direction():
    place = {name: number for number, name in enumerate(LAYERS)}
    backwards = []
    for path in _modules():
        own = _layer(_name(path))
        if own is None:
            continue
        assert own in place, f"{_name(path)} has no place in LAYERS"
        used = {_layer(each) for each in _imports(path)} & set(place)
        backwards += [f"{_name(path)} imports {each}" for each in used if place[each] > place[own]]
    assert backwards == []


def test_analysis_imports_go_in_one_direction():
    order = [
        "frames",
        "gate",
        "checks",
        "study",
        "estimates",
        "length_control",
        "controlled",
        "alpaca_eval",
        "evidence",
        "grids",
        "published",
        "findings",
        "experiment",
        "simulation",
        "samples",
        "browser",
        "compare",
        "judges",
        "summary",
        "compatibility",
        "token_shifts",
        "effects",
        "training_curves",
        "answer_lengths",
        "tables",
        "plots",
        "evaluation_sets",
        "figures",
        "beside_paper",
        "frame_files",
        "content",
        "markdown",
        "report",
    ]
    for path in (ROOT / "analysis").rglob("*.py"):
        own = _name(path).split(".")[1] if path.parent.name != "analysis" or path.stem != "__init__" else None
        if own is not None:
            used = {each.split(".")[1] for each in _imports(path) if each.startswith("analysis.")} & set(order) - {own}
            assert all(order.index(each) < order.index(own) for each in used), path


@pytest.mark.parametrize("start", TORCH_FREE)
def test_what_status_and_plan_rest_on_never_imports_torch(start):
    files = {_name(path): path for path in _modules()}
    seen, waiting = set(), [f"refstudy.{start}"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        imported = set(_imports(files[name], within_functions=False))
        heavy = {each.split(".")[0] for each in imported} & {"torch", "transformers", "trl", "ray", "wandb", "peft", "datasets"}
        assert heavy == set(), f"{name}, which {start} imports"
        for each in imported:
            parts = each.split(".")
            waiting += [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    assert f"refstudy.{start}" in seen


def test_no_module_is_a_dumping_ground():
    assert [_name(path) for path in _modules() if path.stem in VAGUE] == []


def test_no_file_is_longer_than_a_reader_bears():
    files = [*_modules(), *(ROOT / "tests").rglob("*.py")]
    assert {str(path.relative_to(ROOT)): lines for path in files if (lines := path.read_text().count("\n")) > LINES} == {}
