"""Results folders of several worlds with records and no store: what findings of a replicated study rest on. For tests only."""

import json

from refstudy import records

BETAS = (30.0, 3.0, 0.3, 0.03)
WORLDS = (201, 202, 203, 204)
REFERENCES = {
    "self": {"kind": "policy", "family": "north"},
    "same": {"kind": "miniature", "family": "north", "size": "large"},
    "cross": {"kind": "miniature", "family": "south", "size": "large"},
    "same-free": {"kind": "derived", "of": "same", "keep": "length_free"},
    "cross-free": {"kind": "derived", "of": "cross", "keep": "length_free"},
    "same-only": {"kind": "derived", "of": "same", "keep": "length_only"},
}
OWN = {"self": 0.5, "same": 0.85, "cross": 0.84}


def build(folder, measure, worlds=WORLDS, betas=BETAS, references=REFERENCES, seeds=(0,), settings=None, name="study", missing=()):
    """The folder; measure(world, reference, beta, seed) -> (win rate, length in tokens), the truth. missing: cells not yet run."""
    cells = []
    for world in worlds:
        for reference in references:
            for beta in betas:
                for seed in seeds:
                    setting = {"data.world": world, **(settings or {})}
                    row = {"policy": "small", "reference": reference, "beta": beta, "seed": seed, "settings": setting}
                    tail = "".join(f"-{value}" for value in (settings or {}).values())
                    cells.append({"cell_id": f"{world}-{reference}-{beta:g}-{seed}{tail}", **row})
                    if (world, reference, beta) not in missing:
                        records.write_record(
                            folder, {**cells[-1], **_done(world, reference, *measure(world, reference, beta, seed))}
                        )
    records.write_sweep(folder, {"name": name, "cells": cells})
    scores = [
        {"reference": each, "policy": "small", "seed": seed, "settings": {"data.world": world}, "own_win_rate": OWN[each]}
        for each in references
        for world in worlds
        for seed in seeds
        if each in OWN
    ]
    (folder / "references.json").write_text(json.dumps({"references": scores}))
    return folder


def _done(world, reference, win_rate, length):
    of = REFERENCES[reference]
    scorer = {"kind": "sft", "id": f"{reference}-{world}", "start": {"family": of.get("family"), "size": of.get("size", "small")}}
    if of["kind"] == "derived":
        scorer = {"kind": "derived", "id": f"{reference}-{world}", "of": {"recipe": f"sft:{of['of']}-{world}"}, "keep": of["keep"]}
    texts = {"kind": "token_pairs", "pairs": {"kind": "miniature_pairs", "world": world}}
    labels = {"reference_kind": of["kind"], "family": of.get("family", "derived"), "policy_family": "north"}
    return {
        "status": "done",
        "labels": labels,
        "degenerate": False,
        "measures": {
            "win_rate": win_rate,
            "length_tokens_mean": length,
            "policy_accuracy": 0.6,
            "judge_failures": 0,
            "prompts": 768,
        },
        "recipes": {"table": f"t{reference}{world}"},
        "recipe": {"candidate": {"source": {"kind": "dpo", "table": {"scorer": scorer, "texts": texts}}}},
        "provenance": {"versions": {}, "commit": "a" * 40},
    }
