"""Grades submissions: each in a kernel of its own, judged in this process by numbers that the student's code returns.

What is trusted: this process, the sheets' sources, the references and inputs that checks compute and draw here. What is
not: everything that a kernel says. It may print, patch, overwrite or raise what it likes; it is asked for values at
inputs drawn after its cells have run, and its numbers are compared with ours. So a forged answer must be the right one.

What remains possible, and is said to whoever grades: a student may answer by any code that computes the right numbers,
also code copied from elsewhere (functions of the kit that a sheet asks to write are closed in its kernels); and the
fence around a kernel is Python's own (see `kernel`).
"""

from __future__ import annotations

import ast
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from mamlkit import files
from mamlkit.assignment import sheets
from mamlkit.assignment.points import Check, LostError, plain
from mamlkit.assignment.student import DiedError, Student
from mamlkit.study import RefusedError, notebooks, pages
from mamlkit.study.lock import lock
from mamlkit.study.result import dumps

ENDINGS = 3  # cells that may end a kernel before the notebook is given up


@dataclass(frozen=True)
class Mark:
    """What one check came to; `reason` says why its points are lost, and is empty where they are not."""

    question: str
    text: str
    points: int
    out_of: int
    reason: str


@dataclass(frozen=True)
class Grade:
    """What one submission came to.

    notes   cells that raised or did not end
    error   why it could not be graded at all, else None
    """

    submission: str
    sheet: str | None
    title: str
    points: int
    out_of: int
    marks: list[Mark]
    notes: list[str]
    error: str | None
    seconds: float


class Submission:
    """A student's notebook at work: a kernel in which its cells have run.

    A cell or a call that ends the kernel, or takes too long, is left out and the kernel started again, so that the
    other answers keep their points.
    """

    def __init__(self, notebook: NotebookNode, closed: tuple[str, ...], limit: float) -> None:
        self.cells = [cell.source for cell in notebooks.code_cells(notebook)]
        self.closed, self.limit = closed, limit
        self.student: Student | None = None
        self.faults: dict[int, str] = {}  # what became of a cell, by its number
        self.fatal: set[int] = set()  # cells that ended a kernel
        self.ended: dict[str, str] = {}  # functions whose call did

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the notebook answers. Raises LostError where it does not."""
        name = request["name"]
        if name in self.ended:
            raise LostError(self.ended[name])
        while self.student is None:
            self._run()
        try:
            answer = self.student.ask(request, self.limit)
        except DiedError as error:
            self.student = None
            self.ended[name] = f"{name} {error}"
            raise LostError(self.ended[name]) from None
        if "missing" in answer:
            raise LostError(self._missing(name))
        return answer

    def close(self) -> None:
        """End its kernel."""
        if self.student:
            self.student.close()

    def _run(self) -> None:
        if len(self.fatal) >= ENDINGS:
            raise LostError(f"{ENDINGS} cells ended their kernel or took too long; the notebook was given up")
        try:
            student = Student(self.closed)
        except DiedError as error:  # the machine's fault, but the next submission may fare better
            raise LostError(f"its kernel did not start: it {error}") from None
        for number, source in enumerate(self.cells, 1):
            if number in self.fatal:
                continue
            try:
                found = student.ask({"cell": source}, self.limit)
            except DiedError as error:
                self.fatal.add(number)
                self.faults[number] = str(error)
                return
            except BaseException:
                student.close()
                raise
            if "error" in found and found["error"] != "NotImplementedError":
                self.faults[number] = f"raised {plain(found['error'])}: {plain(found.get('text'))}"
        self.student = student

    def _missing(self, name: str) -> str:
        for number, source in enumerate(self.cells, 1):
            if number in self.faults and (name in _bound(source)):
                return f"{name} is not there: cell {number}, which should define it, {self.faults[number]}"
        return f"{name} is not there; was its cell deleted, or the name changed?"


def _bound(source: str) -> set[str]:
    """The names that a cell defines at its top; any word of it, where it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set("".join(c if c.isalnum() or c == "_" else " " for c in source).split())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return found


_sheet = cache(sheets.load)


def graded(path: Path, found: dict[str, Path], *, limit: float, name: str | None = None) -> Grade:
    """The grade of one submission, whatever it is; `name` is its sheet where it does not say so itself."""
    began = time.monotonic()

    def grade(sheet: sheets.Sheet | None, marks: list[Mark], notes: list[str], error: str | None) -> Grade:
        out_of, seconds = sheet.points if sheet else 0, round(time.monotonic() - began, 2)
        known, title = (sheet.name, sheet.title) if sheet else (None, path.stem)
        return Grade(str(path), known, title, sum(m.points for m in marks), out_of, marks, notes, error, seconds)

    try:
        notebook = notebooks.load(path)
        sheet = _sheet(found[name or sheet_of(notebook, path, found)])
    except (RefusedError, RecursionError) as error:
        return grade(None, [], [], plain(error) if isinstance(error, RecursionError) else str(error))
    submission = Submission(notebook, sheet.closed, limit)
    try:
        marks = [mark(check, submission) for check in sheet.checks]
    finally:
        submission.close()
    notes = [f"cell {number} {what}" for number, what in sorted(submission.faults.items())]
    return grade(sheet, marks, notes, None)


def mark(check: Check, submission: Submission) -> Mark:
    """Judge one answer, by inputs that are drawn now."""
    reason = check.judged(submission, secrets.randbits(62))
    return Mark(check.question, check.text, 0 if reason else check.points, check.points, reason)


def sheet_of(notebook: NotebookNode, path: Path, found: dict[str, Path]) -> str:
    """The sheet that a submission answers: as its metadata says, else its title or its file's name."""
    says = notebook.metadata.get("mamlkit")
    name = says.get("sheet") if isinstance(says, dict) else None
    if isinstance(name, str) and name in found:
        return name
    title = notebooks.title(notebook, "")
    for known, source in found.items():
        if known in path.stem or title == notebooks.title(notebooks.load(source), known):
            return known
    raise RefusedError(
        f"{path} does not say which sheet it answers{f' ({plain(name)!r} is none)' * bool(name)}; "
        f"there are {', '.join(found)}: say it by --sheet"
    )


def grade(
    paths: Sequence[Path],
    *,
    limit: float = 60,
    out: Path | None = None,
    sheet: str | None = None,
    home: Path | None = None,
) -> Iterator[Grade]:
    """Grade submissions one after the other; each gets its grade, whatever the others do.

    limit  seconds that a cell or a call of a function may take
    out    a folder for grades.json and a page for each submission, whole after each of them; None for none
    sheet  the sheet that all of them answer, where they do not say so themselves

    Raises RefusedError, before any kernel starts, for a path that is no file, a limit that is not positive, an unknown
    sheet, and a folder that cannot be written.
    """
    found = sheets.sources(home)
    if lacking := [str(path) for path in paths if not path.is_file()]:
        raise RefusedError(f"there is no file {', '.join(lacking)}; give the paths of students' notebooks")
    if not limit > 0:
        raise RefusedError(f"the limit is {limit:g} s; it must be positive")
    name = sheets.named(sheet, found) if sheet else None
    if out is None:
        yield from (graded(path, found, limit=limit, name=name) for path in paths)
        return
    with lock(out):
        grades: list[Grade] = []
        for path in paths:
            grades.append(graded(path, found, limit=limit, name=name))
            _write(out, grades)
            yield grades[-1]


def _write(out: Path, grades: Sequence[Grade]) -> None:
    try:
        notebook, last = None, grades[-1]
        with suppress(RefusedError):
            notebook = notebooks.load(Path(last.submission))
        cells = [cell.source for cell in notebooks.code_cells(notebook)] if notebook else []
        files.write(out / page_of(len(grades), last), pages.render("submission.html", grade=last, cells=cells))
        files.write(out / "grades.json", dumps({"grades": [asdict(grade) for grade in grades]}))
        listed = [(page_of(number, one), one) for number, one in enumerate(grades, 1)]
        files.write(out / "index.html", pages.render("grades.html", grades=listed))
    except (OSError, UnicodeError) as error:
        raise RefusedError(f"the grades cannot be written into {out}: {error}; choose another --out") from error


def page_of(number: int, grade: Grade) -> str:
    """The name of a submission's page: its number, as two students' files may have one name."""
    return f"submission-{number:03d}.html"


def table(grade: Grade) -> str:
    """A grade as lines for a terminal."""
    lines = [f"{grade.submission}  {grade.title}  {grade.points} of {grade.out_of}"]
    if grade.error:
        return f"{lines[0]}\n  not graded: {grade.error}"
    wide = max(len(mark.question) for mark in grade.marks)
    for mark in grade.marks:
        lines.append(f"  {mark.points}/{mark.out_of}  {mark.question:{wide}}  {mark.text}")
        lines += [f"       {'':{wide}}  → {mark.reason}"] if mark.reason else []
    return "\n".join([*lines, *(f"  note: {note}" for note in grade.notes)])
