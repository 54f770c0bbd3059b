"""What happened along training, as frames for figures and a table: logged curves, evaluations along the way, and alarms.

Invariant: a curve is a mean over the runs of one reference and beta, drawn only as far as all of them go: a mean over those that
went on would compare the survivors.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.frames import Results
from analysis.study import Study

KEY = ["panel", "reference", "beta"]
LOGGED = ("reward_accuracy", "policy_accuracy", "chosen_logp", "rejected_logp", "loss")
"""Of the curve frame, in the order in which they are shown; the loss last, for it compares nothing across beta or reference."""
ALONG = ("win_rate", "length_tokens_mean", "truncation_rate", "kl_start_nats")
ALARMS = ["panel", "reference", "beta", "seed", "settings", "limit", "value", "step", "stop", "cell_id"]


def logged(study: Study) -> pd.DataFrame:
    """A row for each policy (and setting), reference, beta and logged step: the mean of LOGGED over `runs` of `of_runs` runs.

    All numbers are of the pairs since the last logged row.
    """
    cells = study.done.assign(
        panel=[_title(policy, setting) for policy, setting in zip(study.done["policy"], study.done["setting"], strict=True)]
    )
    rows = study.curves.merge(cells[["sweep", "cell_id", *KEY]], on=["sweep", "cell_id"], how="inner")
    return _means(rows, LOGGED)


def along(results: Results, study: Study) -> pd.DataFrame:
    """As `logged`, of the evaluations along training that the records hold: the mean of ALONG. `alarms` counts the runs that raised
    one at this step, `stopped` those whose training it ended."""
    done = study.done
    cells = done.assign(panel=[_title(policy, setting) for policy, setting in zip(done["policy"], done["setting"], strict=True)])
    rows = [
        {**label, **row}
        for label in cells[["cell_id", *KEY]].to_dict("records")
        for row in _along(results.records.get(label["cell_id"], {}))
    ]
    names = ["cell_id", *KEY, "step", *ALONG, "alarms", "stopped"]
    frame = pd.DataFrame(rows, columns=names)
    counted = frame.groupby([*KEY, "step"], sort=False)[["alarms", "stopped"]].sum().reset_index()
    return _means(frame.drop(columns=["alarms", "stopped"]), ALONG).merge(counted, on=[*KEY, "step"])


def alarms(results: Results) -> pd.DataFrame:
    """A row for each alarm of each cell of the present grid, in the order of the cells; ALARMS. No step: of the finished cell."""
    rows = []
    for cell in results.done.to_dict("records"):
        for each in results.records[cell["cell_id"]].get("alarms") or []:
            if isinstance(each, dict):
                settings = ", ".join(f"{name} {value}" for name, value in cell["settings"].items())
                raised = {name: each.get(name) for name in ("limit", "value", "step", "stop")}
                rows.append({**{name: cell[name] for name in ALARMS if name in cell}, "settings": settings, **raised})
    return pd.DataFrame(rows, columns=ALARMS)


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn: those at which all runs of their curve still train."""
    return frame[frame["runs"] == frame["of_runs"]]


def _along(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The evaluations along a cell's training with what was raised at each step."""
    raised = [each.get("step") for each in record.get("alarms") or [] if isinstance(each, dict)]
    stopped = (record.get("stopped") or {}).get("step")
    for row in record.get("along") or []:
        step = row["step"]
        yield {name: row.get(name) for name in ("step", *ALONG)} | {"alarms": int(step in raised), "stopped": int(step == stopped)}


def _means(rows: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Means by step over the runs that were logged; references in the order of the rows."""
    columns = [*KEY, "step", *names, "runs", "of_runs"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    rows = rows.astype(dict.fromkeys(names, float))
    grouped = rows.groupby([*KEY, "step"], sort=False)
    means = grouped[list(names)].mean().assign(runs=grouped.size()).reset_index()
    runs = rows.groupby(KEY)["cell_id"].nunique().rename("of_runs").reset_index()
    places = {key: number for number, key in enumerate(dict.fromkeys(zip(rows["panel"], rows["reference"], strict=True)))}
    order = [places[key] for key in zip(means["panel"], means["reference"], strict=True)]
    means = means.merge(runs, on=KEY).assign(order=order).sort_values(["order", "beta", "step"], kind="stable")
    return means[columns].reset_index(drop=True)


def _title(policy: str, setting: str) -> str:
    return f"{policy} ({setting})" if setting else policy
