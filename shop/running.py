"""The system that `make up` runs with this `DATA_DIR`, as its `up.json` describes it."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where its API is, a key for it with all scopes, and whom its pages for staff let in."""

    url: str
    api_key: str
    staff_user: str
    staff_password: str


def find(data_dir: Path) -> Running | None:
    """The system that runs here, None where none does. A killed one leaves its file, but listens no more."""
    try:
        status = json.loads((data_dir / "up.json").read_text())
    except FileNotFoundError:
        return None
    running = Running(
        url=status["web_url"],
        api_key=status["api_key"],
        staff_user=status.get("staff_user", ""),
        staff_password=status.get("staff_password", ""),
    )
    return running if _listens(running.url) else None


def _listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=2).close()
    except OSError:
        return False
    return True
