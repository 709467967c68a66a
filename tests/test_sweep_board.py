"""What a sweep shows while it runs: what is done, what is not well, and the time left."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mamlkit.sweeps.board import Board
from mamlkit.sweeps.job import Job


def job(notebook: str, seed: int) -> Job:
    return Job(f"{notebook}{seed}", Path(f"{notebook}.ipynb"), {"seed": seed}, {}, {}, "", 60, 1)


def ended(notebook: str, status: str = "ok", seconds: float = 10.0) -> dict[str, object]:
    return {"notebook": notebook, "status": status, "seconds": seconds}


A, B = [job("a", seed) for seed in range(4)], [job("b", seed) for seed in range(2)]


def drawn(board: Board) -> str:
    """The table on a terminal."""
    console = Console(width=100)
    with console.capture() as shown:
        console.print(board.table())
    return shown.get()


def test_the_board_says_done_failed_and_left() -> None:
    board = Board([*A, *B], [*A[1:], *B], {"a0": ended("a", "failed")}, {"b": 30.0}, workers=2)
    assert board.left() == (3 * 30 + 2 * 30) / 2, "before anything ended, earlier times are the guess"
    board.end("a1", ended("a"))
    board.cell("b1", 3, 9)
    assert board.left() == (2 * 10 + 2 * 30) / 2
    assert board.line() == "2 of 6 runs done, 1 of them before, 1 not ok, 0:00 elapsed, about 0:40 left"
    assert "b seed=1  cell 3 of 9  0:00" in drawn(board)
    assert Board(A, A, {}, {}, workers=1).left() is None
    assert "waiting for workers" in Board(A, A, {}, {}, workers=0).line()


def test_the_time_left_is_of_what_is_to_be_done_and_not_of_what_is_planned() -> None:
    """As with --only failed, which leaves alone what was never run."""
    board = Board([*A, *B], A[:1], {"a0": ended("a", "failed"), "a1": ended("a")}, {"a": 10.0, "b": 300.0}, workers=1)
    assert board.left() == 10
    assert board.line() == "1 of 6 runs done, 1 of them before, 0:00 elapsed, about 0:10 left"
    board.end("a0", ended("a"))
    assert board.left() == 0
    assert board.state() == "2 of 6 runs done, 1 of them before, 0:00 elapsed"


def test_what_is_not_well_is_counted_by_notebook_with_what_was_not_before() -> None:
    board = Board([*A, *B], A[1:], {"a0": ended("a", "failed"), "b0": ended("b")}, {}, workers=1)
    board.end("a1", ended("a", "dead", 20.0))
    row_a, row_b = (line.split() for line in drawn(board).splitlines()[1:3])
    assert row_a == ["a", "2", "4", "2", "20.0"]
    assert row_b == ["b", "1", "2"]


def test_what_is_said_of_another_sweeps_runs_or_of_one_that_ended_is_not_shown() -> None:
    board = Board(A, A, {}, {}, workers=2)
    board.cell("of another sweep", 1, 9)
    board.cell("a0", 1, 9)
    board.end("a0", ended("a"))
    board.cell("a0", 2, 9)
    assert "cell" not in drawn(board)


def test_of_a_worker_that_is_gone_the_board_knows_whether_the_run_had_begun() -> None:
    board = Board(A, A, {}, {}, workers=2)
    board.cell("a0", 1, 9)
    assert board.stop("a0")
    assert not board.stop("a1")
    assert "cell" not in drawn(board)
