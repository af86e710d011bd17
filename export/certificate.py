"""`certificate.json`: what an exported model was proved to compute, what a lower precision costs it, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from extract.documents import read_document
from extract.specs import Spec
from train.measures.metrics import Estimate, format_estimate

CERTIFICATE = "certificate.json"
FORMAT: Literal["unmask-certificate/3"] = "unmask-certificate/3"

UNSEEN = ("test", "new")  # parts that videos may have had in training without being seen there

Status = Literal["passed", "failed", "accepted", "not measured"]


class Check(Spec):
    """One comparison and what it found.

    `status` is `not measured` where its material was missing, and `accepted` where a limit was passed and the loss was
    allowed. `detail` is the limit, or the reason why nothing was measured.
    """

    name: str
    status: Status
    detail: str
    clips: int = 0
    frames: int = 0
    largest_logit: float | None = None
    logit_error: float | None = None
    logit_error_p95: float | None = None
    prob_error: float | None = None
    feature_error: float | None = None
    typical_error: float | None = None

    def describe(self) -> str:
        """The check in words."""
        errors = {
            "probabilities differ by {}": self.prob_error,
            "logits differ by {}": self.logit_error,
            "95 % of frame logits differ by {} at most": self.logit_error_p95,
            "features differ by {} deviations at most": self.feature_error,
            "features typically differ by {} deviations": self.typical_error,
        }
        found = ", ".join(
            words.format(f"{value:.1e}" if value else "0") for words, value in errors.items() if value is not None
        )
        return f"{found} over {self.frames} crops (accepted: {self.detail})" if found else self.detail


class Footage(Spec):
    """The exported model on videos, against features of the cache and the head that training saved.

    `auc` is that of the exported model on all scored videos; the comparison is on those that the cache holds too.
    `agreed` of `decided` videos got the same verdict, of those that neither side calls UNCERTAIN; `moved` went into or
    out of that band. `roles` says what part the videos had in training.
    """

    manifest: str
    status: Status
    detail: str
    n_fake: int
    n_real: int
    clusters: int
    cluster: str
    not_scorable: dict[str, int]
    roles: dict[str, int]
    auc: Estimate
    compared: int
    auc_change: Estimate
    decided: int
    agreed: int
    moved: int
    prob_error: float | None
    preset: str

    @property
    def agreement(self) -> float | None:
        """Share of equal verdicts."""
        return self.agreed / self.decided if self.decided else None

    def describe(self) -> str:
        """The measurement in words."""
        scored = self.n_fake + self.n_real
        seen = sum(count for role, count in self.roles.items() if role not in UNSEEN)
        told = [f"{scored} videos scored ({self.n_fake} fake, {self.n_real} real), AUC {format_estimate(self.auc)}"]
        told += [f"{seen} of them training or validation has seen, which flatters that AUC"] * (seen > 0)
        if not self.compared:
            return "; ".join([*told, self.detail])
        told.append(f"on the {self.compared} that the cache holds, AUC moves by {format_estimate(self.auc_change)}")
        told.append(
            f"{self.agreed} of {self.decided} verdicts outside the UNCERTAIN band are equal, {self.moved} videos "
            "move into or out of it"
        )
        return "; ".join([*told, f"accepted: {self.detail}"])


class Recorded(Spec):
    """What the scorer gave for a seeded synthetic batch: calibrated logits of its clips."""

    clips: int
    frames: int
    logits: tuple[float, ...]


class Tensor(Spec):
    """An input or output: `shape` names the axes that are open."""

    name: str
    type: str
    shape: tuple[int | str, ...]
    meaning: str = ""


class FileFacts(Spec):
    """A file of the model; what only an ONNX file has is empty for others."""

    sha256: str
    bytes: int
    opset: int | None = None
    ir_version: int | None = None
    operators: dict[str, int] = Field(default_factory=dict)
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Certificate(Spec):
    """The document; `streaming` says why there is no head_stream.onnx, and nothing where there is one."""

    format: Literal["unmask-certificate/3"] = FORMAT
    checks: tuple[Check, ...]
    footage: Footage | None
    recorded: tuple[Recorded, ...]
    streaming: str
    provider: str
    machine: str
    versions: dict[str, str]
    files: dict[str, FileFacts]


def read_certificate(folder: Path) -> Certificate:
    """Reads the certificate of a model folder; one that is missing, damaged or older is refused."""
    return read_document(folder / CERTIFICATE, Certificate, "export the model again")
