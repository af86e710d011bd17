"""From backbone file and head to one ONNX model that carries its contract and proves its parity."""
