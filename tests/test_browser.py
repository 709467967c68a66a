"""What a reader sees in a browser: JupyterLab as `make lab` opens it, and the report of a run, from its files alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nbformat
import psutil
import pytest
import torch
from browser import WAIT, browser, check_site, programs
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from selenium.common.exceptions import (
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

import mamlkit as mk
from mamlkit import files
from mamlkit.ledger import CLAIM
from mamlkit.study import notebooks, pages, run

ROOT = Path(__file__).parents[1]
NOTEBOOK = "03_inner_adaptation"  # quick, with claims, records and figures
# The notebook that is in front, as the page shows it.
SHOWN = """
const front = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)");
const texts = selector => [...(front?.querySelectorAll(selector) ?? [])].map(found => found.textContent.trim());
return {
  name: document.querySelector("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current .lm-TabBar-tabLabel")?.textContent,
  kernel: texts(".jp-KernelName")[0],
  status: front?.querySelector(".jp-Notebook-ExecutionIndicator")?.dataset.status,
  prompts: texts(".jp-CodeCell .jp-InputPrompt").filter(prompt => prompt !== "[ ]:"),
  outputs: texts(".jp-OutputArea-output"),
  errors: texts("[data-mime-type='application/vnd.jupyter.error']"),
  figures: [...(front?.querySelectorAll(".jp-OutputArea-output img") ?? [])].map(image => image.naturalWidth),
};
"""


class Lab(NamedTuple):
    """JupyterLab as it runs: the address that it opened a browser at, and the folder that it serves."""

    address: str
    notebooks: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """What `make lab` starts, on a copy of the notebooks, for a user with another kernel of the same name.

    The copy of NOTEBOOK has no outputs: what its page shows has been computed there.
    """
    programs()
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".*"))
    bare = notebooks.load(home / "notebooks" / f"{NOTEBOOK}.ipynb")
    for cell in notebooks.code_cells(bare):
        cell.outputs, cell.execution_count = [], None
    files.write(home / "notebooks" / f"{NOTEBOOK}.ipynb", notebooks.dumps(bare))

    other = home / "data" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "Another", "language": "python"}')
    quiet = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"checkForUpdates": false, "fetchNews": "false"}')
    (home / "config" / "jupyter_server_config.py").write_text(f"c.ServerApp.root_dir = {str(home)!r}")
    opened = home / "opened"
    (home / "open").write_text('#!/bin/sh\nprintf %s "$1" > "$0.part" && mv "$0.part" "$0ed"\n')
    (home / "open").chmod(0o755)
    environment = os.environ | {
        "BROWSER": f"{home / 'open'} %s",
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_PATH": str(home / "data"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    ready = ["--old-file", f"{sys.prefix}/.ready", f"VENV={sys.prefix}"]
    arguments = "LAB_ARGS=--allow-root --ip=127.0.0.1"
    command = ["make", "-C", str(home), "-f", str(ROOT / "Makefile"), *ready, "lab", arguments]
    log = home / "log"
    with log.open("w") as written:
        server = subprocess.Popen(command, env=environment, stdout=written, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + WAIT
        while not opened.exists():
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"make lab opened nothing:\n{log.read_text()}")
            time.sleep(0.1)
        yield Lab(opened.read_text(), home / "notebooks")
    finally:
        family = []
        if server.poll() is None:  # else make has failed, and what it said must not be hidden by an error here
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()  # make does not always pass it on; the server ends its kernels
        _, left = psutil.wait_procs(family, 20)
        for process in left:
            process.kill()
        server.wait(WAIT)


def shown(chrome: Chrome) -> dict[str, Any]:
    found: dict[str, Any] = chrome.execute_script(SHOWN)
    return found


def wait_idle(chrome: Chrome, name: str) -> dict[str, Any]:
    """What is shown as soon as this notebook is in front, has a kernel, and its kernel is idle."""

    def idle(_: object) -> dict[str, Any] | Literal[False]:
        now = shown(chrome)  # before it has a kernel, its indicator says idle as well
        ready = now["status"] == "idle" and now["kernel"] not in (None, "", "No Kernel")
        return ready and now["name"] == f"{name}.ipynb" and now

    return WebDriverWait(chrome, WAIT).until(idle)


def press(chrome: Chrome, xpath: str, *, twice: bool = False) -> None:
    """A click, or a double one, on what is there; it is drawn anew now and then, or out of sight at first."""

    def pressed(_: object) -> bool:
        with suppress(StaleElementReferenceException, ElementNotInteractableException, NoSuchElementException):
            target = chrome.find_element(By.XPATH, xpath)
            chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
            (ActionChains(chrome).double_click(target) if twice else ActionChains(chrome).click(target)).perform()
            return True
        return False

    WebDriverWait(chrome, WAIT).until(pressed)


def open_notebook(chrome: Chrome, name: str) -> dict[str, Any]:
    """What is shown of a notebook after a double click on its name in the list of files."""
    press(chrome, f"//li[contains(@class, 'jp-DirListing-item')][.//span[text()='{name}.ipynb']]", twice=True)
    return wait_idle(chrome, name)


def run_all(chrome: Chrome, name: str, last: int) -> dict[str, Any]:
    """What is shown after Run All, when the last cell has the number `last` or a cell has failed."""
    press(chrome, "//div[contains(@class, 'lm-MenuBar-itemLabel')][text()='Run']")

    def entry(_: object) -> WebElement | Literal[False]:
        entries = chrome.find_elements(By.CSS_SELECTOR, "li[data-command='runmenu:run-all']")
        return next((found for found in entries if found.is_displayed()), False)

    WebDriverWait(chrome, WAIT).until(entry).click()

    def done(_: Chrome) -> bool:
        now = shown(chrome)
        return bool(now["errors"]) or now["prompts"][-1:] == [f"[{last}]:"]

    WebDriverWait(chrome, WAIT).until(done)
    return wait_idle(chrome, name)


def claims(outputs: list[str]) -> list[str]:
    return [text for text in outputs if text.startswith(("✓", "✗"))]


def test_make_lab_opens_the_first_notebook_with_the_kits_own_kernel(lab: Lab, tmp_path: Path) -> None:
    with browser(tmp_path) as chrome:
        chrome.get(lab.address)
        assert wait_idle(chrome, "00_map")["kernel"] == "Python 3 (ipykernel)"
        committed = notebooks.load(ROOT / "notebooks" / "00_map.ipynb")
        expected = [f"✓ {value['claim']}" for _, value in notebooks.displayed(committed, CLAIM)]
        WebDriverWait(chrome, WAIT).until(lambda _: claims(shown(chrome)["outputs"]) == expected)


def test_a_notebook_computes_in_jupyterlab_what_is_committed_and_follows_its_parameters(
    lab: Lab, tmp_path: Path
) -> None:
    committed = notebooks.load(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb")
    count = len(notebooks.code_cells(committed))
    expected = [f"✓ {value['claim']}" for _, value in notebooks.displayed(committed, CLAIM)]
    figures = len(list(notebooks.displayed(committed, "image/png")))
    with browser(tmp_path) as chrome:
        chrome.get(lab.address)
        wait_idle(chrome, "00_map")
        assert open_notebook(chrome, NOTEBOOK)["outputs"] == []

        first = run_all(chrome, NOTEBOOK, count)
        assert first["errors"] == []
        assert claims(first["outputs"]) == expected
        assert len(first["figures"]) == figures
        assert all(first["figures"])
        assert f"loss_at_start = {loss_at_start(0):.4g}" in first["outputs"]

        line = "//div[contains(concat(@class, ' '), 'jp-NotebookPanel ')][not(contains(@class, 'lm-mod-hidden'))]" + (
            "//div[@class='cm-line'][starts-with(., 'seed: int = 0')]"
        )
        press(chrome, line)
        ActionChains(chrome).send_keys(Keys.HOME).key_down(Keys.SHIFT).send_keys(Keys.END).key_up(Keys.SHIFT).perform()
        ActionChains(chrome).send_keys("seed: int = 1").perform()
        assert chrome.find_elements(By.XPATH, line.replace("seed: int = 0", "seed: int = 1"))
        second = run_all(chrome, NOTEBOOK, 2 * count)
        assert second["errors"] == []
        assert claims(second["outputs"]) == expected
        assert f"loss_at_start = {loss_at_start(1):.4g}" in second["outputs"]


def loss_at_start(seed: int) -> float:
    """The first value that NOTEBOOK puts on record, computed without it."""
    x, y = mk.Quadratics(shots=10, scales=(1.5, 0.7), seed=seed).batch(start=0, size=1, split="test").task(0).support
    return (x @ torch.tensor([[-2.0], [2.0]], dtype=x.dtype) - y).square().mean().item()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of `mamlkit run` on two small notebooks, one of which ends with a claim that does not hold."""
    programs()
    home = tmp_path_factory.mktemp("ran")
    text = (
        r"# All is well" + "\n\n" + r"$\theta' \in \mathcal{T} \subset \mathbb{R}$; next: [bad](01_bad.ipynb)."
        "\n\n| α | $\\beta$ |\n| --- | --- |\n| 1 | 2 |\n\n$$\\nabla F(\\theta) = (I - \\alpha H)\\,g \\tag{E1}$$"
    )
    start = "import matplotlib.pyplot as plt\nimport mamlkit as mk\nfrom mamlkit import figures"
    books = {
        "00_good": [
            "seed: int = 0  # nothing depends on it",
            start,
            'mk.claim("α < 1", seed < 1)\nmk.record("the loss", 0.1)\nprint("plain", f"{seed:>5}")',
            'figure, axis = plt.subplots()\naxis.plot([1, 2])\nmk.show(figure, "A line that rises.")',
        ],
        "01_bad": [start, "import warnings\nwarnings.warn('beware', stacklevel=1)", 'mk.claim("1 > 2", 1 > 2)'],
    }
    for name, cells in books.items():
        code = [new_code_cell(source) for source in cells]
        code[0].metadata["tags"] = ["parameters"] if name == "00_good" else []
        head = new_markdown_cell(text if name == "00_good" else "# All is not well")
        nbformat.write(new_notebook(cells=[head, *code]), home / f"{name}.ipynb")
    run.run([str(home / f"{name}.ipynb") for name in books], out=home / "report")
    return home / "report"


def test_a_report_needs_no_network_and_is_accessible(ran: Path, tmp_path: Path) -> None:
    assert check_site(ran, tmp_path) == {"00_good.html": 3, "01_bad.html": 0, "index.html": 0}


def test_the_index_is_read_with_a_keyboard_and_on_a_narrow_screen(ran: Path, tmp_path: Path) -> None:
    focus, folds = "document.activeElement", "document.querySelectorAll('details')"
    with browser(tmp_path, offline=True) as chrome:
        size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chrome.get((ran / "index.html").as_uri())
        assert chrome.execute_script(f"return [...{folds}].map(fold => fold.open)") == [False, True]
        reached: list[str] = []
        while len(reached) < 20 and not (reached and reached[-1].startswith("00 All is well\n")):
            ActionChains(chrome).send_keys(Keys.TAB).perform()
            reached.append(chrome.execute_script(f"return {focus}.innerText"))
        assert reached[:3] == ["00 All is well", "A line that rises.", "01 All is not well"]
        ActionChains(chrome).send_keys(Keys.ENTER).perform()
        assert chrome.execute_script(f"return [...{folds}].map(fold => fold.open)") == [True, True]
        width = "document.documentElement.scrollWidth"
        assert chrome.execute_script(f"return {width}") == 400
        chrome.get((ran / "00_good.html").as_uri())
        chrome.execute_async_script("window.MathJax.Hub.Queue(arguments[0])")
        assert chrome.execute_script(f"return {width}") == 400


def test_every_page_of_the_walkthrough_shows_its_formulas_and_is_accessible(tmp_path: Path) -> None:
    programs()
    out = tmp_path / "walkthrough"
    pages.prepare(out)
    books = {path.stem: notebooks.load(path) for path in notebooks.select([])}
    titles = {name: notebooks.title(book, name) for name, book in books.items()}
    for name, book in books.items():
        files.write(out / f"{name}.html", pages.page(book, name, titles))
    (out / "index.html").write_text('<html lang="en"><title>Index</title><main><h1>Index</h1></main></html>')
    formulas = check_site(out, tmp_path)
    assert all(formulas[f"{name}.html"] for name in books)
