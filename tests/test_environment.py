"""environment.yml and constraints.txt say the same as pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rattler import MatchSpec
from rattler.exceptions import InvalidMatchSpecError

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
SPECS = [spec for spec in ENVIRONMENT["dependencies"] if isinstance(spec, str)]
CONDA_NAMES = {"torch": "pytorch", "jupyter-server-mathjax": "jupyter_server_mathjax"}


def conda(requirement: str) -> str:
    """A requirement of pyproject.toml as conda-forge calls it."""
    found = Requirement(requirement)
    return f"{CONDA_NAMES.get(found.name, found.name)}{found.specifier}"


def with_extras(*extras: str) -> list[str]:
    """The requirements of extras and of the extras that they name, each once, sorted."""
    found: set[str] = set()
    for text in (text for extra in extras for text in PROJECT["optional-dependencies"][extra]):
        wanted = Requirement(text)
        found |= set(with_extras(*wanted.extras)) if wanted.name == PROJECT["name"] else {text}
    return sorted(found)


def test_the_environment_holds_the_same_packages_with_the_same_bounds() -> None:
    """The core's and every wing's."""
    packages = PROJECT["dependencies"] + with_extras("all")
    assert sorted(SPECS) == sorted([f"python{PROJECT['requires-python']}", *map(conda, packages), "pip"])


def test_all_is_all_but_the_tools_of_those_who_change_the_kit() -> None:
    tools = {"all", "test", "mutants", "data"}
    assert with_extras("all") == with_extras(*set(PROJECT["optional-dependencies"]) - tools)
    assert set(with_extras("all")) < set(with_extras("test"))


def test_every_dependency_says_what_it_is_here_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for wanted in PROJECT["dependencies"] + with_extras("all"):
        assert re.search(rf'^    "{re.escape(wanted)}", +# .', text, re.MULTILINE), wanted


def test_only_conda_forge_is_used_and_pip_installs_the_kit_alone() -> None:
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    assert ENVIRONMENT["dependencies"][-1] == {"pip": ["-e ."]}
    assert ENVIRONMENT["name"] == PROJECT["name"]


@pytest.mark.parametrize("spec", SPECS)
def test_every_spec_is_one_that_conda_reads(spec: str) -> None:
    assert MatchSpec(spec, strict=True).name is not None


@pytest.mark.parametrize("spec", ["numpy=>2.0", "numpy>=2.0 <", "numpy >=2.0,", "nu mpy>=2.0"])
def test_a_spec_that_conda_cannot_read_is_found(spec: str) -> None:
    with pytest.raises(InvalidMatchSpecError):
        MatchSpec(spec, strict=True)


def test_constraints_pin_every_direct_dependency_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"\S+==\S+", line) for line in lines)
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for text in PROJECT["dependencies"] + with_extras("mutants"):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted
    assert Requirement("jsonschema<4.25").specifier.contains(
        pins[canonicalize_name("jsonschema")]
    )  # for the reason in CONTRIBUTING.md
