"""Chromium without a window, for tests: where it is, what it asked the network for, what axe finds in its pages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"
BLANK = "about:blank"  # MathJax gives it as the address of a font that must not be there
WAIT = 120  # seconds, for what takes a few on an idle machine
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")

# Text that a reader sees and that still has a formula's dollars. Code may have them.
RAW_FORMULAS = r"""
const seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), raw = [];
while (seen.nextNode()) {
  const within = seen.currentNode.parentElement.closest("pre, code, script, style, .MathJax_Preview");
  if (!within && /\$[^$]+\$|\\[([]/.test(seen.currentNode.data)) raw.push(seen.currentNode.data.trim());
}
return raw;
"""
MATHJAX_DONE = "window.MathJax ? MathJax.Hub.Queue(arguments[0]) : arguments[0]()"
UNFOLD = "for (const fold of document.querySelectorAll('details')) fold.open = true"
AXE = """
const done = arguments[1];
const told = node => `${node.html} ${node.failureSummary}`;
axe.run({exclude: [[".MathJax"]]}, {runOnly: arguments[0], resultTypes: ["violations"]}).then(
  found => done(found.violations.map(rule => `${rule.id} (${rule.help}): ` + rule.nodes.map(told).join("; "))),
  error => done([`axe failed: ${error}`])
);
"""


def programs() -> tuple[str, str]:
    """Chromium and its driver. Skips the test where they are missing, or fails it where MAMLKIT_BROWSER=required."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if chromium and driver:
        return chromium, driver
    missing = " and ".join(name for name, found in (("chromium", chromium), ("chromedriver", driver)) if not found)
    reason = f"no {missing} on the PATH; on Debian: apt-get install chromium chromium-driver"
    if os.environ.get("MAMLKIT_BROWSER") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def browser(folder: Path, *, offline: bool = False) -> Iterator[Chrome]:
    """A fresh Chromium of 1400 × 1000 pixels; what fails while it is open leaves a picture of it in `folder`."""
    chromium, driver = programs()
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for argument in (*OPTIONS, f"--user-data-dir={folder / 'chromium'}", *([OFFLINE] if offline else [])):
        options.add_argument(argument)
    chrome = Chrome(options, ChromeService(driver))
    try:
        chrome.set_script_timeout(WAIT)
        yield chrome
    except BaseException as error:
        picture = folder / "failure.png"
        if chrome.save_screenshot(str(picture)):
            error.add_note(f"the page as it was then: {picture}")
        raise
    finally:
        chrome.quit()


def check_site(folder: Path, scratch: Path) -> dict[str, int]:
    """Open every page of a folder from its file, without a network; the number of formulas on each.

    Fails where a page asks for anything but files, or for a file that is not there; leaves a formula as it was typed;
    has a dead link; is wider than the window; or breaks a rule of WCAG A and AA, or good practice, that axe can check,
    with all that is folded open.
    """
    pages = sorted(folder.glob("*.html"))
    formulas, links, anchors = {}, {}, {}
    problems: list[str] = []
    axe = (files("axe_core_python") / "axe.min.js").read_text("utf-8")
    with browser(scratch, offline=True) as chrome:
        chrome.get(BLANK)
        _requests(chrome)  # those of the page that Chromium starts with
        for page in pages:
            chrome.get(page.as_uri())
            chrome.execute_async_script(MATHJAX_DONE)
            formulas[page.name] = len(chrome.find_elements("css selector", ".MathJax, mjx-container"))
            links[page] = chrome.execute_script("return [...document.links].map(a => a.href)")
            anchors[page] = set(chrome.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)"))
            chrome.execute_script(UNFOLD)
            chrome.execute_script(axe)
            found = {
                "typed formula": chrome.execute_script(RAW_FORMULAS),
                "failed formula": _texts(chrome, ".merror, .noError, .MathJax_Error, mtext[mathcolor=red]"),
                "picture not drawn": chrome.execute_script(
                    "return [...document.images].filter(i => !i.naturalWidth).map(i => i.alt)"
                ),
                "wider than the window": chrome.execute_script(
                    "const page = document.documentElement;"
                    "return page.scrollWidth > page.clientWidth ? [`${page.scrollWidth} pixels`] : []"
                ),
                "axe": chrome.execute_async_script(AXE, list(RULES)),
                "request": _requests(chrome),
                "console": [entry["message"] for entry in chrome.get_log("browser") if BLANK not in entry["message"]],
            }
            problems += [f"{page.name}: {kind}: {text}" for kind, texts in found.items() for text in texts]
        problems += [f"{page.name}: dead link {url}" for page in pages for url in links[page] if _dead(url, anchors)]
        assert not problems, "\n".join(problems)
    return formulas


def _texts(chrome: Chrome, selector: str) -> list[str]:
    return [element.get_attribute("textContent") or "" for element in chrome.find_elements("css selector", selector)]


def _requests(chrome: Chrome) -> list[str]:
    """The requests since the last call that went elsewhere than to files, or failed."""
    urls, wrong = {}, []
    for entry in chrome.get_log("performance"):
        event: dict[str, Any] = json.loads(entry["message"])["message"]
        details = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            urls[details["requestId"]] = url = details["request"]["url"]
            if urlsplit(url).scheme not in ("file", "data", "blob"):
                wrong.append(url)
        elif event["method"] == "Network.loadingFailed" and not details.get("canceled"):
            wrong.append(f"{urls.get(details['requestId'], 'unknown')} failed: {details['errorText']}")
    return [text for text in wrong if not text.startswith(BLANK)]


def _dead(url: str, anchors: dict[Path, set[str]]) -> bool:
    """Whether a link leads to a file that is not there, or to a place that its page has not."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return False
    target = Path(unquote(parts.path))
    anchor = unquote(parts.fragment)
    return not target.is_file() or bool(anchor and anchor not in anchors.get(target, {anchor}))
