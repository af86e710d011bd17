"""A verdict in plain words: what an outcome means and does not mean, why a file has no score, what rates promise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from extract.errors import Reason
from serve.verdict import Outcome, Rates, Verdict
from train.thresholds import Target


@dataclass(frozen=True)
class Meaning:
    """What an outcome says, and what must not be read into it."""

    says: str
    caution: str


MEANINGS = {
    Outcome.FAKE: Meaning(
        "The model takes a face in this video for manipulated.",
        "This is a reason to look closer, not a proof: real videos are flagged too.",
    ),
    Outcome.REAL: Meaning(
        "The model sees no sign of manipulation that is strong enough for its threshold.",
        "REAL does not prove that the video is authentic: some fakes are missed, and only faces were looked at, not "
        "sound, text or context.",
    ),
    Outcome.UNCERTAIN: Meaning(
        "The model does not decide about this video.",
        "Treat the file as unchecked: with slightly different test videos the same score would have been called REAL "
        "or FAKE.",
    ),
    Outcome.NOT_SCORABLE: Meaning(
        "The model gives no answer about this file.",
        "That says nothing about whether the video is real or fake.",
    ),
}
SUSPECT = (
    "Treat the file as unchecked: the faces that count look real, but another face passes the threshold, and nobody "
    "measured how often that happens by mistake."
)
REASONS = {
    Reason.NO_FACE: "No face was found in the frames that were looked at, and the model judges nothing but faces.",
    Reason.TOO_SHORT: "No face is seen in enough frames for a score: the video is too short, or the face shows too "
    "rarely.",
    Reason.DECODE_ERROR: "The file is damaged, incomplete, or no video of a known kind: its pictures cannot be read.",
    Reason.DECODER_CRASHED: "The program that reads videos broke down on this file. It may be damaged, or made to "
    "attack programs that open it; handle it with care.",
    Reason.TOO_LARGE: "The file claims more pixels, frames, streams or hours than a video may have here, so nothing of "
    "it was read.",
    Reason.OUT_OF_MEMORY: "Reading the file took more memory than one video may take.",
    Reason.TIMED_OUT: "Reading the file took longer than a video of its length may take.",
    Reason.WORKER_DIED: "The process that worked on the file ended before it had a result; score the file again.",
    Reason.NO_VIDEO_STREAM: "The file holds no moving picture, only sound or other streams.",
    Reason.NOT_FOUND: "There is no file at this path.",
    Reason.NOT_FINITE: "The model's arithmetic gives no number for the faces in this file.",
}
SOURCES = {
    "validation": "videos held out of training, on which the threshold was chosen",
    "out-of-fold": "cross-validation: each video scored by a head that was trained without it",
}
PURPOSES = {
    "demo": "demonstration",
    "research": "research: not reviewed for decisions about people",
    "production": "production, as whoever trained it declared",
}
UNKNOWN_RATES = (
    "Error rates are not known: this threshold is none of the model's own, so nobody measured how many fakes it misses "
    "and how many real videos it flags."
)
EVEN_ODDS = (
    "P(fake) is stated for even odds, as if every second video were fake. Where fakes are rare, most alarms are false."
)
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def explain_outcome(verdict: Verdict) -> Meaning:
    """What a verdict means."""
    meaning = MEANINGS[verdict.outcome]
    low, high = verdict.uncertain
    if verdict.outcome is Outcome.UNCERTAIN and verdict.p_fake is not None and not low <= verdict.p_fake < high:
        return Meaning(meaning.says, SUSPECT)
    if verdict.outcome is Outcome.FAKE or verdict.outcome is Outcome.REAL:
        known = "How often in tests is said below." if verdict.rates else "How often is not known for this threshold."
        return Meaning(meaning.says, f"{meaning.caution} {known}")
    return meaning


def explain_reason(reason: str | None) -> str:
    """Why a file has no score; a reason that is not known is given as it is."""
    return REASONS[Reason(reason)] if reason in list(Reason) else str(reason)


def describe_target(target: str) -> str:
    """What a threshold was chosen for."""
    aim = Target.parse(target)
    value = aim.value or 0.0
    if aim.kind == "recall":
        return f"chosen to find at least {format_share(value)} of fakes"
    if aim.kind == "fpr":
        return f"chosen to flag at most {format_share(value)} of real videos"
    if aim.kind == "balanced":
        return "chosen for the best balance between fakes found and real videos flagged"
    return (
        f"chosen for the lowest cost where a missed fake costs {value:g} times a false alarm and "
        f"{format_share(aim.prevalence)} of videos are fake"
    )


def describe_promise(rates: Rates) -> str:
    """Whether that holds on new videos."""
    if Target.parse(rates.target).kind not in ("recall", "fpr"):
        return "It promises no rate."
    if rates.guaranteed:
        return "Guaranteed with 95 % confidence, on new videos of the same kind and on no others."
    counts = f"{rates.n_fake} fake and {rates.n_real} real videos"
    if rates.source == "out-of-fold":
        return f"Not guaranteed: it was chosen on {counts} that other heads scored, those of a cross-validation."
    return (
        f"Not guaranteed: the {counts} it was chosen on do not suffice to promise it for new ones; they are too few, "
        "or nobody said which persons they show."
    )


def describe_scale(prob: float, threshold: float, low: float, high: float) -> str:
    """Where a score lies, for who cannot see its drawing; `low` and `high` bound what is UNCERTAIN."""
    band = f", between them UNCERTAIN; the threshold is {format_prob(threshold)}" if low < high else ""
    return (
        f"P(fake) of this file is {format_prob(prob)} on a scale from 0 to 1; below {format_prob(low)} the outcome is "
        f"REAL, from {format_prob(high)} on FAKE{band}"
    )


def describe_place(right: float, down: float) -> str:
    """Where something is in a picture, to a third of it; both from 0 to 1."""
    words = ROWS[min(int(3 * down), 2)], COLUMNS[min(int(3 * right), 2)]
    return " ".join(word for word in words if word) or "centre"


def list_limits(verdict: Verdict) -> Iterator[str]:
    """What a reader of any score must know."""
    model = verdict.model
    trained = f" ({', '.join(model.datasets)})" if model.datasets else ""
    yield (
        f"Only faces that {model.detector} finds are judged, and only their pixels: not sound, text, background, "
        "metadata, nor where the file comes from."
    )
    yield (
        f"The model knows forgeries like those it was trained on{trained}. Newer ones may pass, and real footage "
        "unlike its training (other cameras, light, make-up, strong compression) may be flagged."
    )
    if verdict.outcome is Outcome.NOT_SCORABLE:
        return
    frames = len({frame.time_s for track in verdict.tracks for frame in track.frames})
    if frames and verdict.file is not None:
        yield (
            f"It looked at {frames} of the file's {verdict.file.frames} frames; what happens between them is not seen."
        )
    yield EVEN_ODDS
    yield "The rates hold for videos like those they were measured on. On other material nobody knows them."
    yield "A score says nothing about who made a video, how or why, and alone proves nothing about a person."


def format_prob(prob: float) -> str:
    """A probability; what is not 0 or 1 is never shown as such."""
    if 0 < prob < 0.001:
        return "below 0.001"
    return "above 0.999" if 0.999 < prob < 1 else f"{prob:.3f}"


def format_share(share: float | None) -> str:
    """A share in hundredths; near 0 and 1 with a digit more, so that what is not all is never called 100 %."""
    if share is None:
        return "not known"
    if share in (0, 1) or 0.1 <= share <= 0.99:
        return f"{100 * share:.0f}\xa0%"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}\xa0%".replace(".0\xa0", "\xa0")


def format_bound(share: float | None, *, least: bool) -> str:
    """The same for a bound, `at least` or `at most`, which rounding must not make better than it is."""
    if share is None:
        return "not known"
    step = 0.01 if 0.1 <= share <= 0.99 else 0.001
    steps = math.floor(share / step + 1e-9) if least else math.ceil(share / step - 1e-9)
    return f"at {'least' if least else 'most'} {100 * steps * step:.{1 if step < 0.01 else 0}f}\xa0%".replace(
        ".0\xa0", "\xa0"
    )


def format_clock(time_s: float, exact: bool = True) -> str:
    """`3:07` or `1:03:07`, with a tenth of a second where it is to be exact."""
    tenths = round(10 * time_s)
    minutes, rest = divmod(tenths if exact else 10 * round(time_s), 600)
    seconds = f"{rest / 10:04.1f}" if exact else f"{rest // 10:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds}" if minutes >= 60 else f"{minutes}:{seconds}"


def format_bytes(size: int) -> str:
    """A size for people, and exactly."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit} ({size:,} bytes)"


def show_signs(text: str) -> str:
    """The same with signs that cannot be seen, that move a terminal's cursor, or that turn the text, written out."""
    return "".join(
        sign if sign.isprintable() or sign == "\xa0" else sign.encode("unicode_escape").decode() for sign in text
    )
