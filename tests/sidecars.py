"""Runs of a sweep as they stand in its folder, for tests: any number, of any end, with or without a notebook."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit.ledger import CLAIM

EVIL = "<script>alert('θ')</script>"
ALPHA = "α < 1"


def sidecar(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A run that went well, with these changes."""
    given = {"seed": seed} | changes.pop("given", {})
    notebook = changes.get("notebook", "06_update")
    key = changes.pop("key", sha256(json.dumps([notebook, given]).encode()).hexdigest()[:16])
    return {
        "format": 1,
        "key": key,
        "notebook": notebook,
        "title": "06 · Update",
        "executed": None,
        "status": "ok",
        "cell": None,
        "error": None,
        "given": given,
        "parameters": {"alpha": 0.01, "phase": [0.0, 3.14], "order": "second"} | given,
        "claims": [{"claim": ALPHA, "holds": True, "cell": "cell-12"}],
        "records": [
            {"name": "loss", "value": 0.5 + 0.1 * seed, "cell": "cell-14"},
            {"name": "loss by step", "value": [3.0 + seed, 2.0, 1.0], "cell": "cell-15"},
        ],
        "identity": {"notebook": "n" * 64, "kit": "0.1.0+abc", "data": "d" * 64},
        "provenance": {"python": "3.11.7", "packages": {"torch": "2.13.0"}, "threads": 1, "device": None},
        "started": "2026-11-24T05:10:22+00:00",
        "seconds": 65.0,
        "peak_bytes": None,
        "attempts": 1,
    } | changes


def put(folder: Path, *runs: dict[str, Any]) -> list[Path]:
    """Write sidecars into a folder as a sweep does."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{run['notebook']}-{run['key']}.json" for run in runs]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run, allow_nan=False), encoding="utf-8")
    return paths


def executed(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The run with an executed notebook in the folder."""
    claim = {"output_type": "display_data", "metadata": {}}
    claim["data"] = {"text/plain": f"✓ {EVIL}", CLAIM: {"claim": EVIL, "holds": True}}
    cells = [
        new_markdown_cell("# 06 · Update\n\n## A part\n\nSee [the next](07_next.ipynb), $\\theta'$."),
        new_code_cell("claim()", execution_count=1, outputs=[nbformat.from_dict(claim)]),
        new_code_cell("print(1)", execution_count=2, outputs=[new_output("stream", text="1\n")]),
    ]
    folder.mkdir(exist_ok=True)
    name = f"{run['notebook']}-{run['key']}.ipynb"
    nbformat.write(new_notebook(cells=cells), folder / name)
    return run | {"executed": name}


ENDS = [
    sidecar(0),
    sidecar(1),
    sidecar(
        2, status="failed", cell=7, error=f"ValueError: {EVIL}", claims=[{"claim": EVIL, "holds": False, "cell": "c"}]
    ),
    sidecar(3, status="dead", cell=4, error="its kernel died", claims=[], records=[]),
    sidecar(4, status="timeout", cell=9, error="this cell ran longer than 60 s"),
    sidecar(5, status="incomplete", cell=2, error="this cell ended the notebook with sys.exit()"),
    sidecar(0, given={"order": EVIL}, records=[{"name": "α", "value": {"a": ["nan", "inf", -1]}, "cell": "c"}]),
    sidecar(0, notebook="07 näch%ste's", title="Nächste & letzte", given={"alpha": 0.5}),
]


def ends(folder: Path) -> Path:
    """A folder with runs of every end, one of which left a notebook, and one that is still to come."""
    put(folder, *ENDS[1:], executed(folder, ENDS[0]))
    waiting = {"key": "f" * 16, "notebook": "06_update", "given": {"seed": 9, "order": EVIL}}
    planned = [{name: run[name] for name in ("key", "notebook", "given")} for run in ENDS]
    plan = {"format": 1, "name": f"ends {EVIL}", "planned": [*planned, waiting]}
    (folder / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    (folder / ".half.json").write_text("{", encoding="utf-8")
    return folder
