import json

from refstudy import recipes
from tests.bench import parts, scaling


def rows(count):
    return [{"prompt": "q" * number, "chosen": "yes", "rejected": "no"} for number in range(1, count + 1)]


def write(folder, lines):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def test_miniature_is_two_references_of_the_policys_tokenizer_and_twelve_betas():
    sweep, cells = parts.FULL[0].read()
    assert len(cells) == 24
    assert len({cell.beta for cell in cells}) == 12
    assert {entry.kind for entry in sweep.spec.references.values()} == {"policy", "miniature"}
    assert {cell.labels["family"] for cell in cells} == {"north"}


def test_real_text_is_six_cells_of_the_longest_rows_and_enough_steps_for_a_logged_loss(tmp_path):
    found = parts.full(tmp_path, write(tmp_path, rows(300)))[1]
    _, cells = found.read()
    assert len(cells) == 6
    train, pairs = cells[0].dpo.train, cells[0].dpo.table.texts.pairs
    assert pairs.limit * train.epochs / train.batch_size >= 10  # TRL logs every tenth step
    longest = (tmp_path / "longest.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["prompt"]) for line in longest] == list(range(51, 301))


def test_without_real_pairs_the_miniature_alone_is_timed_and_that_is_said(tmp_path, capsys):
    assert [part.name for part in parts.full(tmp_path, tmp_path / "nowhere.jsonl")] == ["miniature"]
    assert "the part on real text is left out" in capsys.readouterr().out


def test_few_cells_are_spread_over_every_reference_and_the_betas():
    _, cells = parts.FULL[0].read()
    few = parts.spread(cells, 8)
    assert [(cell.reference, cell.beta) for cell in few] == [
        (reference, beta) for reference in ("self", "larger-same") for beta in (10, 2, 0.3, 0.05)
    ]
    assert parts.spread(cells, 30) == cells


def test_growth_sweeps_have_the_cells_references_and_pairs_that_they_are_named_for(tmp_path):
    for what, count, sweep in scaling.POINTS:
        at = tmp_path / "growth.yaml"
        at.write_text(scaling.yaml.safe_dump(scaling.document(sweep), sort_keys=False))
        _, cells = parts.Part("growth", at, 0, 0, 0).read()
        pairs = cells[0].dpo.table.texts.pairs
        assert isinstance(pairs, recipes.MiniaturePairs)
        assert {"cells": len(cells), "references": len({cell.reference for cell in cells}), "pairs": pairs.count}[what] == count
