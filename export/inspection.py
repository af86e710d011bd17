"""What an exported model is, told from its folder: contract, files, inputs and outputs, operators, certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from export.bundle import open_model_folder
from export.certificate import Certificate, FileFacts, Tensor
from export.contract import Contract, read_contract
from extract.session import open_session

MB = 1e6


@dataclass(frozen=True)
class Inspection:
    """A model folder as it was found."""

    path: Path
    contract: Contract
    certificate: Certificate

    def to_document(self) -> dict[str, Any]:
        """A JSON document."""
        return {
            "path": str(self.path),
            "contract": self.contract.model_dump(mode="json"),
            "certificate": self.certificate.model_dump(mode="json"),
        }

    def print_on(self, console: Console) -> None:
        """Tables for people."""
        console.print(_tabulate(f"Model {self.path}", self._list_facts()))
        console.print(_tabulate("Thresholds", {name: t.describe() for name, t in self.contract.thresholds.items()}))
        console.print(_tabulate_files(self.certificate.files))
        for name, facts in self.certificate.files.items():
            if facts.opset is not None:
                console.print(_tabulate_tensors(name, facts))
        checks = {check.name: f"{check.status}: {check.describe()}" for check in self.certificate.checks}
        console.print(_tabulate("Certificate", {**checks, **self._tell_footage()}))

    def _list_facts(self) -> dict[str, str]:
        contract, prints = self.contract, self.contract.fingerprint
        head = contract.head
        facts = {
            "purpose": contract.purpose + (", UNTRAINED BACKBONE" if contract.untrained_backbone else ""),
            "contract": contract.format,
            "backbone": f"{contract.backbone.name}, {contract.backbone.precision}, {contract.backbone.weights}",
            "head": f"{head.encoder}, {head.pooling} pooling, {head.dim}-d features",
            "detector": prints.detector.name,
            "sampling": prints.sampling.model_dump_json(),
            "crop": prints.crop.model_dump_json(),
            "calibration": f"{contract.calibration.slope:.4g} * logit + {contract.calibration.intercept:.4g}",
            "default preset": contract.default_preset,
            "trained as": f"{contract.training.run}, split {contract.training.protocol}",
            "made by": f"unmask {contract.unmask_version}",
        }
        if contract.replaced:
            facts["fitted on"] = f"{prints.backbone.precision} features, sha256 {prints.backbone.sha256[:12]}..."
        if contract.replaced and contract.replaced.exceeded:
            facts["loss accepted"] = "; ".join(contract.replaced.exceeded)
        return facts

    def _tell_footage(self) -> dict[str, str]:
        footage, streaming = self.certificate.footage, self.certificate.streaming
        told = {"videos": f"{footage.status}: {footage.describe()}" if footage else "not measured"}
        return told | ({"no head_stream.onnx": streaming} if streaming else {})


def inspect_model(path: Path) -> Inspection:
    """Opens a model folder; one that is damaged or older is refused. Nothing is run, and onnx is not needed."""
    folder = open_model_folder(path)
    return Inspection(path, read_contract(open_session(folder.scorer, "cpu")), folder.certificate)


def _tabulate(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _tabulate_files(files: dict[str, FileFacts]) -> Table:
    table = Table("file", "MB", "opset", "IR", "sha256", title="Files", title_justify="left")
    for name, facts in files.items():
        versions = ["" if number is None else str(number) for number in (facts.opset, facts.ir_version)]
        table.add_row(name, f"{facts.bytes / MB:.2f}", *versions, facts.sha256[:16])
    return table


def _tabulate_tensors(name: str, facts: FileFacts) -> Table:
    operators = ", ".join(f"{operator} {count}" for operator, count in facts.operators.items())
    table = Table("", "name", "type", "shape", "what it is", title=name, title_justify="left", caption=operators)
    for kind, tensors in (("in", facts.inputs), ("out", facts.outputs)):
        for tensor in tensors:
            table.add_row(kind, tensor.name, tensor.type, _format_shape(tensor), tensor.meaning)
    return table


def _format_shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
