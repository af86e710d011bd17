"""What a service tells of itself: the model it scores with, its presets and its limits."""

from __future__ import annotations

from typing import Any

from serve.service.engine import Engine
from serve.verdict import DEMONSTRATION, UNTRAINED


def describe_model(engine: Engine) -> dict[str, Any]:
    """What the service scores with and what it takes, but for who may ask."""
    scorer, settings = engine.scorer, engine.settings
    contract = scorer.contract
    shown = ("value", "low", "high", "recall", "fpr", "recall_bound", "fpr_bound", "guaranteed", "n_fake", "n_real")
    return {
        "model": vars(scorer.facts),
        "provider": scorer.provider,
        "purpose": contract.purpose,
        "untrained_backbone": contract.untrained_backbone,
        "notices": list(list_notices(contract.purpose, untrained=contract.untrained_backbone)),
        "presets": {
            name: {
                "target": threshold.target.name,
                "source": threshold.source,
                **{key: getattr(threshold, key) for key in shown},
            }
            for name, threshold in contract.thresholds.items()
        },
        "default_preset": scorer.ruling.preset,
        "threshold": scorer.ruling.value,
        "uncertain": [scorer.ruling.low, scorer.ruling.high],
        "prevalence": scorer.ruling.prevalence,
        "tracks": scorer.tracks,
        "limits": {
            "max_size_bytes": settings.most_bytes,
            "max_duration_s": settings.most_duration_s,
            "max_pixels": settings.most_pixels,
            "max_queued": settings.most_queued,
            "sync_max_size_bytes": settings.sync_bytes,
            "sync_max_duration_s": settings.sync_s,
        },
    }


def list_notices(purpose: str, *, untrained: bool) -> tuple[str, ...]:
    """What must stand beside every outcome of a model."""
    return ((DEMONSTRATION,) if purpose == "demo" else ()) + ((UNTRAINED,) if untrained else ())
