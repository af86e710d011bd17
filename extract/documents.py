"""JSON documents of ours: one of another version, or that does not fit its model, is refused with the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from extract.errors import FormatError
from extract.specs import Spec

Document = TypeVar("Document", bound=Spec)


def read_document(path: Path, model: type[Document], remedy: str) -> Document:
    """Reads a document whose field `format` says what it is; `remedy` ends every refusal."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path} is missing or cannot be read: {error}; {remedy}") from error
    except ValueError as error:
        raise FormatError(f"{path} is damaged: {error}; {remedy}") from error
    version, expected = _get_format(found), model.model_fields["format"].default
    if version != expected:
        raise FormatError(f"{path} has the format {version!r}, expected {expected!r}; {remedy}")
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{path} is damaged at {place}: {first['msg']}; {remedy}") from error


def is_document(path: Path, kind: str) -> bool:
    """Whether a file is a document of one kind, of whichever version: its format begins with `kind` and a slash."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return str(_get_format(found)).startswith(f"{kind}/")


def _get_format(found: object) -> object:
    return found.get("format") if isinstance(found, dict) else None
