"""The Python client as a package that pip installs from the shop itself, so that client and API are of one release.

It is `shop.client` and what that imports, under the name `reserva`: the system uses the client that it hands out.
"""

import base64
import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files
from typing import Final

#: Our files, and what they are in the package.
_MODULES: Final = {
    "client.py": "reserva/__init__.py",
    "http_connection.py": "reserva/http_connection.py",
    "domain.py": "reserva/domain.py",
    "web/schemas.py": "reserva/schemas.py",
}
#: How these files name each other, here and there.
_NAMES: Final = {
    "shop.client": "reserva",
    "shop.http_connection": "reserva.http_connection",
    "shop.domain": "reserva.domain",
    "shop.web.schemas": "reserva.schemas",
}
_METADATA: Final = """\
Metadata-Version: 2.1
Name: reserva
Version: {version}
Summary: Client of the Reserva API.
Requires-Python: >=3.11
Requires-Dist: msgspec>=0.19
"""
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: reserva\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def name(version: str) -> str:
    """The file's name (Binary distribution format, PyPA)."""
    return f"reserva-{version}-py3-none-any.whl"


@cache
def wheel(version: str) -> bytes:
    """The file; equal sources give equal bytes."""
    info = f"reserva-{version}.dist-info"
    parts = {there: _source(here) for here, there in _MODULES.items()}
    parts |= {
        "reserva/py.typed": "",
        f"{info}/METADATA": _METADATA.format(version=version),
        f"{info}/WHEEL": _WHEEL,
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in parts.items()]
    parts[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in parts.items():
            archive.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _source(path: str) -> str:
    text = (files("shop") / path).read_text("utf-8")
    for here, there in _NAMES.items():
        text = text.replace(here, there)
    return text


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
