"""Versions of installed packages, as files record them and the doctor prints them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def read_versions(packages: Iterable[str], absent: str = "unknown") -> dict[str, str]:
    """The version of each package; `absent` for one that is not there, or comes under another name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = absent
    return found
