"""The web tier under another server: the API's tests once more, each of them, against `shop.web.asgi` and uvicorn."""

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests import test_orders_api, test_products_api
from tests.running import System

#: As docs/go-live.md starts it.
UVICORN = "uvicorn shop.web.asgi:application --lifespan=on --ws=none --no-proxy-headers --no-server-header"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """In the place of the one that these tests have elsewhere."""
    from shop.stores import redis_client

    redis_client().flushdb()
    with System(tmp_path_factory.mktemp("asgi"), web_module=UVICORN) as running:
        yield running.start("web", "worker")


def _over_http(module: ModuleType) -> dict[str, object]:
    """The tests of a module that speak to the system, by name."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_") and "system" in inspect.signature(test).parameters
    }


globals().update(_over_http(test_orders_api))
globals().update(_over_http(test_products_api))
