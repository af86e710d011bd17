"""LSTM and GRU as ONNX's own operators: torch's exporter may step through them instead, and freeze the time axis."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

# Where ONNX's gates stand in torch's weights: torch has input, forget, cell, output, ONNX input, output, forget, cell;
# of a GRU torch has reset, update, new, ONNX update, reset, new.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}

States = Tensor | tuple[Tensor, ...]


def replace_cells(module: nn.Module) -> nn.Module:
    """The module as the exporter gets it: a copy with operators in place of its LSTM and GRU, where it has some."""
    if not any(isinstance(part, nn.LSTM | nn.GRU) for part in module.modules()):
        return module  # a backbone may be too large to have twice
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LSTM | nn.GRU):
                setattr(parent, name, OnnxCells(child))
    return copied


class OnnxCells(nn.Module):
    """The layers of one module, one way, batch first: (B, T, P) and the states before -> (B, T, H) and those after.

    torch.onnx takes it and nothing else runs it.
    """

    def __init__(self, cells: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        plain = cells.batch_first and cells.bias and not cells.bidirectional and not cells.proj_size
        assert plain  # as the cells of all heads are
        self.kind, self.layers, self.hidden = cells.mode, cells.num_layers, cells.hidden_size
        for layer in range(cells.num_layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                self.register_buffer(f"{name}{layer}", self._reorder(getattr(cells, f"{name}_l{layer}")))

    def _reorder(self, weights: Tensor) -> Tensor:
        gates = weights.detach().chunk(len(GATES[self.kind]))
        return torch.cat([gates[place] for place in GATES[self.kind]]).unsqueeze(0)  # ONNX counts directions first

    def forward(self, frames: Tensor, before: States | None = None) -> tuple[Tensor, States]:
        """Without states before, they are zeros."""
        given = (before,) if isinstance(before, Tensor) else before
        rows, after = frames.transpose(0, 1), []  # (T, B, P)
        for layer in range(self.layers):
            states = None if given is None else [state[layer : layer + 1] for state in given]
            rows, *left = self._run_layer(layer, rows, states)
            after.append(left)
        joined = tuple(torch.cat(list(parts)) for parts in zip(*after, strict=True))  # (L, B, H) each
        return rows.transpose(0, 1), joined if self.kind == "LSTM" else joined[0]

    def _run_layer(self, layer: int, rows: Tensor, states: list[Tensor] | None) -> list[Tensor]:
        """Rows (T, B, H), and the states after (1, B, H)."""
        inward, onward, *biases = (
            getattr(self, f"{name}{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        count, attributes = 2, {"hidden_size": self.hidden}
        if self.kind == "GRU":
            count, attributes = 1, {**attributes, "linear_before_reset": 1}  # as torch computes it
        state = (1, rows.shape[1], self.hidden)
        found = torch.onnx.ops.symbolic_multi_out(
            self.kind,
            # The None is sequence_lens, which some runtimes ignore.
            (rows, inward, onward, torch.cat(biases, dim=1), None, *(states or [])),
            {**attributes},
            dtypes=(torch.float32,) * (1 + count),
            shapes=((rows.shape[0], 1, rows.shape[1], self.hidden),) + (state,) * count,
        )
        return [found[0].squeeze(1), *found[1:]]
