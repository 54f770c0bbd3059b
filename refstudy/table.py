"""Tables in the terminal: the cells of a folder, and what `validate` says of references."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refstudy.texts import visible

Column = tuple[str, str, str]
"""Heading, field of a row, format; a value that is not known stays blank."""

COLUMNS: tuple[Column, ...] = (
    ("cell", "cell_id", "{:.8}"),
    ("policy", "policy", "{}"),
    ("reference", "reference", "{}"),
    ("beta", "beta", "{:g}"),
    ("seed", "seed", "{}"),
    ("grid", "grid", "{}"),
    ("status", "status", "{}"),
    ("win rate", "win_rate", "{:.3f}"),
    ("+-", "win_rate_se", "{:.3f}"),
    ("length", "length_mean", "{:.1f}"),
    ("cut off", "truncation_rate", "{:.1%}"),
    ("gold", "gold_reward", "{:.2f}"),
    ("precision", "precision", "{:.2f}"),
    ("KL", "kl_start_nats", "{:.2f}"),
    ("s", "duration_s", "{:.0f}"),
    ("remark", "reason", "{}"),
)
"""Of status rows; `grid` names the cells of an earlier grid of the folder."""
WIN_RATES = 9
"""How many of COLUMNS stand before the win rates on evaluation sets."""

REFERENCES: tuple[Column, ...] = (
    ("policy", "policy", "{}"),
    ("reference", "reference", "{}"),
    ("setting", "setting", "{}"),
    ("kind", "kind", "{}"),
    ("family", "family", "{}"),
    ("size", "size", "{:>}"),
    ("tokens", "vocabulary", "{}"),
    ("template", "template", "{}"),
    ("chosen / rejected cut", "cut", "{:>}"),
    ("longest", "longest", "{:>}"),
    ("memory", "memory", "{:>}"),
    ("made", "made", "{:>}"),
    ("cost", "cost", "{:>}"),
    ("status", "status", "{}"),
)
MEASURES: tuple[Column, ...] = (
    ("reference", "reference", "{}"),
    ("policy", "policy", "{}"),
    ("setting", "setting", "{}"),
    ("intercept", "intercept_nats", "{:.2f}"),
    ("+-", "intercept_se_nats", "{:.2f}"),
    ("slope", "slope_nats_per_token", "{:.3f}"),
    ("spread", "residual_spread_nats", "{:.2f}"),
    ("by length", "explained_share", "{:.1%}"),
    ("gain", "intercept_over_residual_spread", "{:.3f}"),
    ("degen.", "abs_slope_nats_per_token", "{:.3f}"),
    ("accuracy", "pair_accuracy", "{:.1%}"),
    ("pessimistic", "pessimistic_share", "{:.1%}"),
    ("bits/byte", "bits_per_byte", "{:.3f}"),
    ("KL", "likelihood_kl_nats", "{:.2f}"),
)
"""The measures that tell references apart; all of them stand in --json."""

STYLES = {"done": "green", "failed": "red", "running": "cyan", "usable": "green", "refused": "red"}


def show_cells(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line a status row, then one for each alarm."""
    _print(of_cells(rows))
    for row in rows:
        for words in row.get("alarms") or []:
            print(f"ALARM {row.get('cell_id')!s:.8} {row.get('reference')} beta={row.get('beta')} seed={row.get('seed')}: {words}")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """Prints one line a row."""
    _print(_table(rows, columns))


def of_cells(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table with one line a status row: COLUMNS, a column for each evaluation set, and which cells are of an earlier grid."""
    sets = list(dict.fromkeys(name for row in rows for name in row.get("win_rate_on_sets", {})))
    of_sets = tuple((f"on {name}", f"on {name}", "{:.3f}") for name in sets)
    told = [
        {
            **row,
            **{f"on {name}": value for name, value in row.get("win_rate_on_sets", {}).items()},
            "grid": None if row.get("current", True) else "earlier",
        }
        for row in rows
    ]
    return _table(told, (*COLUMNS[:WIN_RATES], *of_sets, *COLUMNS[WIN_RATES:]))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """A column that is empty in all rows is left out."""
    table = Table(box=None, pad_edge=False)
    shown = [column for column in columns if any(row.get(column[1]) is not None for row in rows)]
    for heading, _, form in shown:
        table.add_column(heading, justify="left" if form in ("{}", "{:.8}") else "right", overflow="fold")
    for row in rows:
        texts = ["" if row.get(field) is None else form.format(row[field]) for _, field, form in shown]
        # Text, not str: a reason may hold a chat template's [/INST], which rich would read as its own markup.
        table.add_row(*(Text(visible(text)) for text in texts), style=STYLES.get(str(row.get("status"))))
    return table


def show_pairs(headings: tuple[str, str], rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints, for each (what is above, left, right), two texts side by side; the texts are safe to show already."""
    for above, left, right in rows:
        table = Table(title=Text(above), title_justify="left", title_style="bold", expand=True, show_lines=False)
        for heading in headings:
            table.add_column(Text(heading), ratio=1, overflow="fold")
        table.add_row(Text(left), Text(right))
        _print(table, width=120)


def _print(table: Table, width: int = 240) -> None:
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:
        print(_wide(table, width))


def _wide(table: Table, width: int) -> str:
    """The table as wide as it may be, for files and pipes."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
