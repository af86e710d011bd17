"""What every request passes: whose it is, what its body calls itself, and where its bytes go."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serve.service.access import CHALLENGE, INVALID, LOCAL, Keys
from serve.service.engine import Engine
from serve.service.problems import ProblemError
from serve.service.uploads import Upload

TYPES = re.compile(r"video/[\w.+-]+|application/octet-stream|application/mp4|application/mxf", re.IGNORECASE)
BEARER = HTTPBearer(auto_error=False, description="An API key.")

Name = Annotated[str, Query(max_length=1000, description="What the file is called; shown, and nothing else.")]


def get_engine(request: Request) -> Engine:
    """The engine that the app was made with."""
    engine: Engine = request.app.state.engine
    return engine


Given = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


def get_owner(request: Request, given: Given) -> str:
    """Whose request this is; raises ProblemError without a key where one is needed."""
    keys: Keys | None = request.app.state.keys
    if keys is None:
        return LOCAL
    owner = keys.find_owner(given.credentials) if given else None
    if owner is None:
        detail = "This key is not known." if given else "A key is needed: Authorization: Bearer KEY."
        raise ProblemError(401, "no-key", detail, INVALID if given else CHALLENGE)
    return owner


Served = Annotated[Engine, Depends(get_engine)]
Owner = Annotated[str, Depends(get_owner)]


def require_type(request: Request) -> None:
    """Refuses a body that does not call itself a video, or is one behind a coding such as gzip."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        detail = f"The Content-Encoding says {coding[:80]!r}; send the bytes of the file as they are."
        raise ProblemError(415, "encoded", detail, {"Accept-Encoding": "identity"})
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if not TYPES.fullmatch(kind):
        said = f"{kind[:80]!r}" if kind else "nothing"
        raise ProblemError(
            415, "not-video", f"The Content-Type says {said}; expected video/* or application/octet-stream."
        )


async def receive(engine: Engine, request: Request, most_bytes: int) -> Upload:
    """The body of a request, on the disk."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else None
    return await engine.uploads.receive(
        request.stream(), size, most_bytes, engine.settings.patience_s, engine.stopping.is_set
    )
