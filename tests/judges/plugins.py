"""A tiny package with judges as entry points, really installed: metadata, version and all."""

import subprocess
import sys
from pathlib import Path

SOURCE = '''
import math


def brevity(prompts, completions, completion_ids, **options):
    """Shorter is better; what has more than `most` characters has no score."""
    CALLS.append(len(completions))
    texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
    return [None if len(text) > options.get("most", 1000) else -float(len(text)) for text in texts]


def echo(prompts, completions, **kw):
    SEEN.append((prompts, completions, kw))
    return [0.0] * len(completions)


def short(prompts, completions, **kw):
    return [1.0]


def nan(prompts, completions, **kw):
    return [math.nan] * len(completions)


def words(prompts, completions, **kw):
    return ["good"] * len(completions)


def mapping(prompts, completions, **kw):
    return {"score": 1.0}


async def later(prompts, completions, **kw):
    return [1.0] * len(completions)


def raising(prompts, completions, **kw):
    raise ValueError("a column is missing:\\n  answer")


CALLS, SEEN = [], []
number = 3
'''
NAMES = ("brevity", "echo", "short", "nan", "words", "mapping", "later", "raising", "number")


def install(folder: Path, version: str = "1.2.3", name: str = "refstudy-test-judges") -> Path:
    """A folder for sys.path in which the package is installed by pip, without any index."""
    source, target = folder / f"source-{name}-{version}", folder / f"installed-{name}-{version}"
    module = name.replace("-", "_")
    source.mkdir(parents=True)
    (source / f"{module}.py").write_text(SOURCE)
    lines = [f'{each} = "{module}:{each}"' for each in NAMES] + ['absent = "no_such_module:f"']
    (source / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n[project]\nname = "{name}"\n'
        f'version = "{version}"\n\n[tool.setuptools]\npy-modules = ["{module}"]\n\n'
        '[project.entry-points."refstudy.judges"]\n' + "\n".join(lines) + "\n"
    )
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)], check=True)
    return target
