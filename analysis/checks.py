"""What a reader must know before any figure: what is missing, mixed or unequal, each as one sentence.

Invariant: checks only speak; nothing is left out of the figures because of them.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from analysis.frames import Results

SHOWN = 4
"""Names listed in a sentence before the rest is counted."""
RETOKENISED = 0.01
"""Share of answers above which it is said that they were tokenised anew."""


def run(results: Results) -> list[str]:
    """All that is wrong with the results, the most consequential first; empty if nothing is."""
    checks: tuple[Callable[[Results], Iterator[str]], ...] = (
        _missing,
        _prompts,
        _baselines,
        _seeds,
        _judge,
        _sampling,
        _retokenised,
        _versions,
        _commits,
    )
    return [*(sentence for check in checks for sentence in check(results)), *results.faults]


def of_set(results: Results) -> list[str]:
    """What is wrong with the results on one evaluation set, beside what `run` says of all cells."""
    checks = (_prompts, _baselines, _judge)
    return [*(sentence for check in checks for sentence in check(results)), *results.faults]


def _missing(results: Results) -> Iterator[str]:
    current = results.cells[results.cells["current"]]
    for status in ("failed", "running", "planned"):
        cells = current[current["status"] == status]
        if len(cells):
            yield f"{len(cells)} of {len(current)} cells are {status}: {_names(cells)}."


def _prompts(results: Results) -> Iterator[str]:
    """Cells of one panel must have been asked the same prompts."""
    panel_of = results.done.set_index("cell_id")["panel"]
    sets = results.prompts.groupby("cell_id")["prompt_id"].agg(frozenset)
    for panel, group in sets.groupby(panel_of):
        if group.nunique() > 1:
            common = len(frozenset.intersection(*group))
            yield f"The cells of {panel} answered unequal prompts; cells are compared on those that both have (at least {common})."


def _baselines(results: Results) -> Iterator[str]:
    """Cells of one panel and seed must share their baseline answers; each seed draws its own."""
    several = results.done["seed"].nunique() > 1
    for (panel, seed), group in results.done.groupby(["panel", "seed"]):
        count = group["baseline_id"].nunique()
        if count > 1:
            which = f"{panel} with seed {seed}" if several else panel
            yield f"The cells of {which} were judged against {count} different sets of baseline answers."


def _seeds(results: Results) -> Iterator[str]:
    """Compared cells must rest on the same seeds: another data order can hide the effect of beta."""
    for panel, group in results.done.groupby("panel"):
        seeds = group.groupby(["reference", "beta"])["seed"].agg(frozenset)
        if seeds.nunique() > 1:
            yield (
                f"The points of {panel} rest on different seeds: win rates may differ by them alone; paired differences "
                "are over the seeds that both have."
            )


def _judge(results: Results) -> Iterator[str]:
    failing = results.done[results.done["judge_failures"] > 0]
    if len(failing):
        total, asked = int(failing["judge_failures"].sum()), int(failing["prompts"].sum())
        yield f"The judge gave no verdict on {total} of {asked} answers, which are left out: {_names(failing)}."


def _sampling(results: Results) -> Iterator[str]:
    """Only answers drawn at temperature 1 from all tokens make a mean over them an estimate of the sequence KL."""
    measured = results.done.dropna(subset=["kl_start_nats", "kl_reference_nats"], how="all")
    changed = measured[(measured["temperature"] != 1) & measured["temperature"].notna() | (measured["top_p"] < 1)]
    if len(changed):
        drawn = changed[["temperature", "top_p"]].drop_duplicates()
        how = "; ".join(f"temperature {row.temperature:g}, top_p {row.top_p:g}" for row in drawn.itertuples())
        yield (
            f"The answers of {len(changed)} of {len(results.done)} cells were drawn otherwise than at temperature 1 from all "
            f"tokens ({how}): their KL figures are means over such answers, not the KL between policy and reference over sequences."
        )


def _retokenised(results: Results) -> Iterator[str]:
    """A reference reads an answer's text, and cannot see which of several tokenisations the policy drew."""
    found = results.done[results.done["retokenised_share"] > RETOKENISED]
    if len(found):
        yield (
            f"In {len(found)} of {len(results.done)} cells more than {RETOKENISED:.0%} of the answers (at most "
            f"{found['retokenised_share'].max():.1%}) were drawn as other tokens than their text is split into; the KL to the "
            f"reference is an estimate over texts there: {_names(found)}."
        )


def _versions(results: Results) -> Iterator[str]:
    found: dict[str, set[str]] = {}
    for cell_id in results.done["cell_id"]:
        for package, version in (results.records[cell_id]["provenance"].get("versions") or {}).items():
            found.setdefault(package, set()).add(str(version))
    for package, versions in sorted(found.items()):
        if len(versions) > 1:
            yield f"The cells were made with several versions of {package}: {', '.join(sorted(versions))}."


def _commits(results: Results) -> Iterator[str]:
    commits = {str(results.records[cell_id]["provenance"].get("commit") or "") for cell_id in results.done["cell_id"]} - {""}
    if len(commits) > 1:
        yield f"The cells were made at {len(commits)} commits: {', '.join(sorted(each[:12] for each in commits))}."
    if any(commit.endswith("-dirty") for commit in commits):
        yield "Some cells were made with uncommitted changes of refstudy."


def _names(cells: pd.DataFrame) -> str:
    names = [f"{row.reference} at beta {row.beta:g}" for row in cells.itertuples()]
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
