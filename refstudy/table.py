"""Tables in the terminal: the cells of a folder, and what `validate` says of references."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refstudy.texts import visible

COLUMNS = (
    ("cell", "cell_id", "{:.8}"),
    ("policy", "policy", "{}"),
    ("reference", "reference", "{}"),
    ("beta", "beta", "{:g}"),
    ("seed", "seed", "{}"),
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
"""Heading, field of a status row, format; a value that is not known stays blank."""

REFERENCES = (
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
MEASURES = (
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


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]] = COLUMNS) -> None:
    """Prints one line a row, then one for each alarm; a column that is empty in all rows is left out."""
    _print(cells(rows, columns))
    for row in rows:
        for words in row.get("alarms") or []:
            print(f"ALARM {row.get('cell_id')!s:.8} {row.get('reference')} beta={row.get('beta')} seed={row.get('seed')}: {words}")


def cells(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]] = COLUMNS) -> Table:
    """A table with one line a row; a column that is empty in all rows is left out."""
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
