"""`sweep.json`: what a sweep is, so that only the same is continued, and what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from extract.cache import summarise_cache
from extract.documents import read_document
from extract.errors import UsageError
from extract.files import write_text
from extract.specs import Spec, require_same
from extract.versions import read_versions
from train.config import FitConfig, HeadShape
from train.sweep.space import Chosen, SearchSpace
from train.sweep.workers import SplitFacts

FORMAT: Literal["unmask-sweep/1"] = "unmask-sweep/1"
DOCUMENT, LOCK = "sweep.json", ".lock"
PACKAGES = ("unmask", "torch", "numpy", "optuna", "scikit-learn")


class SweepIdentity(Spec):
    """What must be equal for a sweep to be continued."""

    cache_sha256: str  # of the content
    fingerprint_sha256: str
    dim: int
    space: SearchSpace
    epochs: int
    seed: int

    def configure(self, chosen: Chosen) -> tuple[HeadShape, FitConfig]:
        """The head and the fit that a trial chose."""
        rates = {name: chosen[name] for name in ("learning_rate", "weight_decay")}
        return self.space.shape_head(chosen, self.dim), FitConfig(epochs=self.epochs, seed=self.seed, **rates)


class Leader(Spec):
    """The best trial so far."""

    trial: int
    value: float
    best_epoch: int
    head: HeadShape
    fit: FitConfig


class SweepDocument(Spec):
    """`sweep.json`; `versions` are those it was begun with."""

    format: Literal["unmask-sweep/1"] = FORMAT
    cache: str
    identity: SweepIdentity
    split: SplitFacts | None = None
    versions: dict[str, str]
    counts: dict[str, int] = Field(default_factory=dict)
    best: Leader | None = None
    importances: dict[str, float] = Field(default_factory=dict)
    importances_note: str = ""


def require_ours(out: Path) -> None:
    """Refuses a place that holds something else than a sweep."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()) and not (out / DOCUMENT).is_file():
        raise UsageError(f"{out} exists and is not a sweep of unmask; choose another --out")


def open_document(cache: Path, out: Path, space: SearchSpace, epochs: int, seed: int) -> SweepDocument:
    """The document of a new sweep, or of the one that is there: that must be the same."""
    facts = summarise_cache(cache)
    identity = SweepIdentity(
        cache_sha256=facts["content_sha256"],
        fingerprint_sha256=facts["fingerprint_sha256"],
        dim=facts["dim"],
        space=space,
        epochs=epochs,
        seed=seed,
    )
    if (out / DOCUMENT).is_file():
        document = load_document(out)
        _require_same(out, identity, document.identity)
        return document
    return write_document(out, SweepDocument(cache=cache.name, identity=identity, versions=read_versions(PACKAGES)))


def record_split(out: Path, document: SweepDocument, split: SplitFacts) -> SweepDocument:
    """Notes how the videos are divided; refuses another way than that of the trials so far."""
    if document.split is None:
        return write_document(out, document.model_copy(update={"split": split}))
    _require_same(out, split, document.split)
    return document


def load_document(out: Path) -> SweepDocument:
    """Reads `sweep.json`; one that is damaged or of another version is refused."""
    return read_document(out / DOCUMENT, SweepDocument, "choose another --out")


def write_document(out: Path, document: SweepDocument) -> SweepDocument:
    """Writes `sweep.json`, whole or not at all."""
    write_text(out / DOCUMENT, document.model_dump_json(indent=1) + "\n")
    return document


def _require_same(out: Path, found: Spec, expected: Spec) -> None:
    require_same(
        found,
        expected,
        f"{out} holds a sweep of something else",
        "continue it as it was begun, or choose another --out",
    )
