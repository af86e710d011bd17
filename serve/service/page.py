"""The web page: a document, scripts and a style sheet of the service's own, under a policy that allows no others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from serve.words import PURPOSES, REASONS

STATIC = Path(__file__).parent / "static"
DOCUMENT = "index.html"
WORDS = "words.json"  # sentences of reports, so that page and report say the same
SCRIPTS = (
    "app.js", "charts.js", "elements.js", "result.js", "rows.js", "service.js", "uploads.js", "words.js",
)  # fmt: skip
TYPES = {
    DOCUMENT: "text/html; charset=utf-8",
    **dict.fromkeys(SCRIPTS, "text/javascript; charset=utf-8"),
    "app.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    WORDS: "application/json",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its ETag
}


@dataclass(frozen=True)
class Asset:
    """A file of the page as it is sent."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content and with nothing else."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def load_assets() -> dict[str, Asset]:
    """Every file of the page by its name; nothing else can be asked for."""
    return {name: Asset(_read(name), media_type) for name, media_type in TYPES.items()}


def list_words() -> dict[str, dict[str, str]]:
    """The sentences that the page needs without a verdict, which comes explained."""
    return {"reasons": {reason.value: text for reason, text in REASONS.items()}, "purposes": PURPOSES}


def make_page_router() -> APIRouter:
    """`/` and `/static/NAME`."""
    assets = load_assets()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def send_page(request: Request) -> Response:
        return send_asset(assets[DOCUMENT], request.headers.get("if-none-match", ""))

    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    async def send_static(name: str, request: Request) -> Response:
        if name not in assets or name == DOCUMENT:
            raise HTTPException(404, "The page has no file of this name.")
        return send_asset(assets[name], request.headers.get("if-none-match", ""))

    return router


def send_asset(asset: Asset, known: str) -> Response:
    """The file, or word that the one the browser knows is still right; `known` is its If-None-Match."""
    headers = {**HEADERS, "ETag": asset.etag}
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _read(name: str) -> bytes:
    if name == WORDS:
        return json.dumps(list_words(), ensure_ascii=False, sort_keys=True).encode()
    return (STATIC / name).read_bytes()
