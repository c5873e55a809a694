"""The system behind a proxy: what clients reach, and the ways that lead past what is closed to them."""

import http.client
import json
import uuid
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Final, Protocol

from tests.running import Answer

HOST: Final = "shop.example.com"
#: Addresses of this machine that stand for those of our own network and for any other.
OURS, ANY_OTHER = "127.0.0.2", "127.0.0.3"

#: How somebody may try to name a closed page so that the proxy does not know it and the web tier does. `{}`: its name,
#: `{%}`: the same with a letter encoded, `{%%}`: encoded twice.
_WAYS: Final = (
    "/{}/", "/{}", "/{%}/", "/{%}", "/{%%}/", "//{}/", "///{}//", "/./{}/", "/{}/.", "/{}/./", "/x/../{}/", "/x/..//{}/",
    "/{}//", "/{}%2f", "/%2f{}/", "/%2F%2F{}/", "/%2e/{}/", "/x/%2e%2e/{}/", "/x/..%2f{}/", "/x%2f..%2f{}/", "/{}/%2e",
    "/{}%00", "/{}/%00", "/%00/{}/", "/{}%00/", "/{}%0a", "/{}%20", "/{}%09/",
    "/{};x=1/", "/{}/;x", "/;/{}/", "/{}/..;/{}/", "/.;/{}/", "/{}.", "/{}../", "/{}/..%2f{}/",
    "/{}?x", "/{}/?x", "/{}/#x", "/{}#/", "/{}%23", "/{}%3fx", "/{}/%zz", "/{%}/%zz", "/{%}/%", "/%zz/../{}/", "/{%}/%c0%af",
    "/{}\\", "/\\{}/", "/x/..\\{}/", "/x/..%5c{}/", "/{}%5c",
    "http://shop.example.com/{}/", "http://shop.example.com/{%}/", "HTTP://shop.example.com//{}/", "https://x/{}/", "http:///{}/",
    "http://x:1@y/{}/", "{}/", "*/{}/",
)  # fmt: skip
_CLOSED: Final = ("admin", "metrics", "live", "readyz", "healthz")


def _encoded(name: str, percent: str) -> str:
    return f"{name[0]}{percent}{ord(name[1]):02x}{name[2:]}"


WAYS_ROUND: Final = [
    way.replace("{%%}", _encoded(name, "%25")).replace("{%}", _encoded(name, "%")).replace("{}", name)
    for name, way in product(_CLOSED, _WAYS)
]


class Proxy(Protocol):
    """A proxy that runs."""

    def connect(self, address: str = OURS) -> http.client.HTTPConnection:
        """A connection as from another address."""


class Behind:
    """The system as clients reach it: through a proxy."""

    def __init__(self, proxy: Proxy, api_key: str) -> None:
        self.proxy = proxy
        self.api_key = api_key

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        address: str = OURS,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.proxy.connect(address)
        try:
            raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            sent = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
            connection.request(method, path, raw, {**sent, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(
                status=response.status, headers=response.headers, body=json.loads(text) if is_json else text
            )
        finally:
            connection.close()

    def status(self, target: str, address: str = OURS, **headers: str) -> int:
        """The status of the answer to GET for any target at all, 0 where there was none."""
        fields = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines = [f"GET {target} HTTP/1.1", f"Host: {HOST}", "Connection: close", *fields, "", ""]
        connection = self.proxy.connect(address)
        try:
            connection.sock.sendall("\r\n".join(lines).encode())
            answer = connection.sock.makefile("rb").readline().split(b" ")
            return int(answer[1]) if len(answer) > 1 else 0
        finally:
            connection.close()

    def place(
        self, sku: str, quantity: int = 1, key: str = "", address: str = OURS, **headers: str
    ) -> Answer:
        """Place an order."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        order = {"items": [{"sku": sku, "quantity": quantity}]}
        return self.send(
            "POST", "/api/v1/orders", order, {"Idempotency-Key": key or uuid.uuid4().hex, **named}, address
        )

    def poll(self, order_id: str, wait_s: int = 20) -> Answer:
        """Ask what became of an order."""
        return self.send("GET", f"/api/v1/orders/{order_id}", headers={"Prefer": f"wait={wait_s}"})


def opened(shop: Behind, targets: Sequence[str], **headers: str) -> dict[str, int]:
    """The targets for which the answer is no refusal, with its status.

    They are asked for from several addresses, because of the limits.
    """
    addresses = cycle(f"127.0.0.{last}" for last in range(10, 20))
    statuses = {
        target: shop.status(target, address, **headers)
        for target, address in zip(targets, addresses, strict=False)
    }
    return {target: status for target, status in statuses.items() if status not in {400, 403, 404}}
