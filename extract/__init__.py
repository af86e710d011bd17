"""From videos to cached features: decode, find faces, crop, run the frozen backbone once."""

import os

# ONNX Runtime 1.31 tells its maker what it runs, on Linux too, unless this is said before any of its modules is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
