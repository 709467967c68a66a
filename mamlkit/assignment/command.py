"""The commands `mamlkit assignment` and `mamlkit grade`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mamlkit.extras import extra


def add_parser(commands: Any) -> None:
    """Add both commands to the command line."""
    copies = commands.add_parser("assignment", help="write students' copies of the assignment's sheets")
    copies.add_argument("out", type=Path, metavar="OUT", help="the folder for them")
    copies.add_argument("sheets", nargs="*", metavar="SHEET", help='a number ("1") or a name (default: all)')
    copies.set_defaults(command=_assignment)

    grade = commands.add_parser("grade", help="grade students' notebooks by checks that are not in their copies")
    grade.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION.ipynb")
    grade.add_argument("--out", type=Path, help="a folder for grades.json and a page for each submission")
    grade.add_argument("--limit", type=float, default=60, metavar="SECONDS",
                       help="that a cell or a call may take (default: %(default)g)")  # fmt: skip
    grade.add_argument("--sheet", help="the sheet that they answer, where they do not say it themselves")
    grade.set_defaults(command=_grade)


def _assignment(options: argparse.Namespace) -> int:
    with extra("study"):
        from mamlkit.assignment.sheets import write

    for path in write(options.out, options.sheets):
        print(path)
    return 0


def _grade(options: argparse.Namespace) -> int:
    with extra("study"):
        from mamlkit.assignment.grade import grade, table

    failed = 0
    for found in grade(options.submissions, limit=options.limit, out=options.out, sheet=options.sheet):
        print(table(found), flush=True)
        failed += found.error is not None
    return int(failed > 0)
