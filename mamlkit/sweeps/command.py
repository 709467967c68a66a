"""The commands `mamlkit rerun` and `mamlkit report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mamlkit.extras import extra


def add_parser(commands: Any) -> None:
    """Add both commands to the command line."""
    again = commands.add_parser("rerun", help="run notebooks over a grid of parameters and seeds")
    again.add_argument("sweep", type=Path, metavar="SWEEP.yml", help="what to run; notebooks/sweeps/ has examples")
    again.add_argument("--out", help="folder, or address of a store (default: runs/ and the sweep's name)")
    again.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster (default: one on this machine)")
    again.add_argument("--workers", type=int, help="processes on this machine (default: one a core)")
    again.add_argument("--threads", type=int, default=1, help="threads of each run's kernel (default: %(default)s)")
    again.add_argument("--dry-run", action="store_true", help="print the plan, its size and its time; run nothing")
    which = again.add_mutually_exclusive_group()
    which.add_argument("--force", action="store_true", help="do finished runs again as well")
    which.add_argument("--only", choices=["failed"], help="do those again that did not succeed, and nothing else")
    again.set_defaults(command=_rerun)

    report = commands.add_parser("report", help="tables, figures and pages from a sweep's results")
    report.add_argument("folder", type=Path, metavar="FOLDER", help="that `mamlkit rerun` wrote into")
    report.add_argument("--out", type=Path, help="the report's folder (default: report/ in FOLDER)")
    report.set_defaults(command=_report)


def _rerun(options: argparse.Namespace) -> int:
    with extra("sweeps"):
        from mamlkit.sweeps.driver import rerun

    settings = {
        name: getattr(options, name) for name in ("scheduler", "workers", "threads", "dry_run", "force", "only")
    }
    return int(rerun(options.sweep, options.out, **settings) > 0)


def _report(options: argparse.Namespace) -> int:
    with extra("sweeps"):
        from mamlkit.sweeps.report import report

    print(report(options.folder, options.out))
    return 0
