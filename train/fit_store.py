"""Where a fit leaves its state so that a killed run continues: a file of its own for each stage, whole or absent.

Tensors lie in safetensors; the rest is JSON in its metadata. States of another run (data, configuration, software) are
never used: the key says which run they are of.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from extract.files import translate_os_errors, write_aside
from extract.lock import Lock

SAVE_S = 5.0  # between two states of one stage; a shorter stage leaves its end alone


@dataclass(frozen=True)
class FitState:
    """Everything that the next epoch depends on, by name, and what is told of the epochs so far."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class FitStore:
    """The states of one run, beside the place where the run will be."""

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out.with_name(f".{out.name}.fit")
        self._key = key
        with translate_os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self._folder / "lock", f"is training {out}; wait for it, or choose another --out")

    def stage(self, name: str) -> StageStore:
        """The place of one stage's state, such as that of a fold."""
        return StageStore(self._folder / f"{name}.safetensors", self._key)

    def remove(self) -> None:
        """Forgets all states, once the run is written."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Lets another process go on from here; a folder without any state goes."""
        if self._lock.is_held and self._folder.is_dir() and not any(self._folder.glob("*.safetensors")):
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


class StageStore:
    """The state of one stage."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._saved_s = time.monotonic()

    def load(self) -> FitState | None:
        """The state that was saved last, if it is of this run and whole."""
        try:
            with safe_open(self._path, framework="pt") as file:
                document = json.loads(file.metadata()["state"])
                if document.pop("key") != self._key:
                    return None
                return FitState({name: file.get_tensor(name) for name in file.keys()}, document)  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def is_due(self) -> bool:
        """Whether the last state is so old that another is worth its writing."""
        return time.monotonic() - self._saved_s >= SAVE_S

    def save(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Replaces the state."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with write_aside(self._path) as temporary:
            temporary.write_bytes(save(plain, metadata={"state": json.dumps({**facts, "key": self._key})}))
        self._saved_s = time.monotonic()
