"""The contract: what a model was made of and how it must be fed, one JSON document inside `scorer.onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from extract.errors import FormatError
from extract.session import Session
from extract.specs import AggregateSpec, BackboneSpec, EvenSampling, Fingerprint, Spec
from train.calibrate import Calibration
from train.config import HeadConfig, Purpose
from train.thresholds import Threshold

FORMAT = "unmask-contract/4"
KEY = "unmask.contract"


class Replacement(Spec):
    """A backbone of lower precision in place of its parent, whose features the head was fitted on.

    `exceeded` are the limits of loss that were passed and allowed all the same.
    """

    backbone: BackboneSpec
    exceeded: tuple[str, ...] = ()


class TrainingFacts(Spec):
    """What the head was fitted on; `protocol` says where its split came from, `counts` what each split held."""

    run: str
    datasets: tuple[str, ...]
    protocol: str
    folds: int | None
    seed: int
    counts: dict[str, dict[str, int]]


class Contract(Spec):
    """Everything that scoring needs to know; stages differ in nothing that this document does not say.

    `fingerprint` is that of the features that the head was fitted on; `replaced` is set where the backbone inside is
    another than the one named there.
    """

    format: Literal["unmask-contract/4"] = "unmask-contract/4"
    unmask_version: str
    purpose: Purpose
    untrained_backbone: bool
    fingerprint: Fingerprint
    head: HeadConfig
    aggregate: AggregateSpec = Field(default_factory=AggregateSpec)
    calibration: Calibration
    thresholds: dict[str, Threshold]
    default_preset: str
    training: TrainingFacts
    replaced: Replacement | None = None

    @property
    def backbone(self) -> BackboneSpec:
        """The backbone inside."""
        return self.fingerprint.backbone if self.replaced is None else self.replaced.backbone

    @property
    def clip_frames(self) -> int:
        """Frames of a full clip; a shorter one is padded and says its length where T is fixed."""
        sampling = self.fingerprint.sampling
        if isinstance(sampling, EvenSampling):
            return sampling.count
        return len(sampling.sample_instants(0.0, sampling.clip_s))

    def choose_threshold(self, preset: str | None) -> tuple[str, Threshold]:
        """A preset's name and threshold; the default one for None. Raises FormatError for one it has not."""
        name = preset or self.default_preset
        if name not in self.thresholds:
            raise FormatError(f"the model has no preset {name!r}; it has {', '.join(sorted(self.thresholds))}")
        return name, self.thresholds[name]


def read_contract(session: Session) -> Contract:
    """The contract of a loaded scorer; a model without one is refused."""
    path: Path = session.path
    document = session.read_document(KEY)
    if document is None:
        raise FormatError(f"{path} carries no contract; only a model made by `unmask export` can be scored with")
    if document.get("format") != FORMAT:
        raise FormatError(f"{path} has the contract {document.get('format')!r}, expected {FORMAT!r}; export it again")
    try:
        return Contract.model_validate(document)
    except ValueError as error:
        text = " ".join(str(error).split())
        raise FormatError(f"{path}: its contract is not understood ({text[:300]}); export it again") from error
