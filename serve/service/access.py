"""Who asks: API keys, of which the service knows the hashes only."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from pathlib import Path

from extract.errors import FormatError, UsageError

LOCAL = "local"  # the owner of everything where no keys are
# What a refusal asks for (RFC 6750), and what it says of a key or ticket that came and does not hold.
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="unmask"'}
INVALID = {"WWW-Authenticate": 'Bearer realm="unmask", error="invalid_token"'}
LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


class Keys:
    """Owners by the sha256 of their keys."""

    def __init__(self, owners: dict[str, str]) -> None:
        """`owners` maps the hex of a hash to a name."""
        self._owners = [(bytes.fromhex(digest), name) for digest, name in owners.items()]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Reads `name:sha256` lines; a name may have several keys. Raises for a file without any."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"the keys file {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FormatError(f"the keys file {path} is not text; expected lines name:sha256 of the key") from error
        owners: dict[str, str] = {}
        for number, text in enumerate(lines, start=1):
            line = text.strip()
            if not line or line.startswith("#"):
                continue
            found = LINE.fullmatch(line)
            if found is None:
                raise FormatError(f"{path}, line {number}: expected name:sha256 of the key in hex")
            if found[2] in owners:
                raise FormatError(f"{path}, line {number}: this key is there already; give everybody one of their own")
            owners[found[2]] = found[1]
        if not owners:
            raise FormatError(f"the keys file {path} holds no key; expected lines name:sha256 of the key")
        return cls(owners)

    def find_owner(self, key: str) -> str | None:
        """Whose key this is; takes the same time whichever it is."""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = None
        for known, name in self._owners:
            if hmac.compare_digest(known, digest):
                found = name
        return found


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is one that other machines cannot reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def choose_keys(host: str, path: Path | None) -> Keys | None:
    """The keys of a service; refuses one that other machines could reach without any."""
    if path is not None:
        return Keys.read(path)
    if not is_loopback(host):
        raise UsageError(f"{host} can be reached by other machines; give --keys FILE with lines name:sha256 of a key")
    return None
