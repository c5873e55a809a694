"""The API reference held against the running system: every example runs as it stands, each problem has its page."""

import html
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shop.clients import create_key
from shop.web import documentation
from shop.web.explanations import EXPLANATIONS, Key
from shop.web.problems import Kind
from tests.builders import a_sku, the_sample_catalogue, wait_until
from tests.running import Answer, System

#: Of no order.
NOWHERE = "00000000-0000-4000-8000-000000000000"


def figures(page: str, caption: str) -> list[str]:
    """The examples on the page under this caption, in order, as somebody would copy them."""
    found = re.findall(rf"<figcaption>{caption}</figcaption><pre[^>]*><code>(.*?)</code>", page, re.DOTALL)
    return [html.unescape(example) for example in found]


@pytest.fixture(scope="module")
def page(system: System) -> str:
    the_sample_catalogue()
    return str(system.get("/api/docs").body)


# --- examples -------------------------------------------------------------------------------------


def test_every_command_on_the_page_runs_as_it_stands(system: System, page: str, tmp_path: Path) -> None:
    order = system.place(("MUG-002", 1)).body["id"]
    # curl writes the status of each answer after it: a setting of whoever runs it, the commands stay as they are.
    (tmp_path / ".curlrc").write_text('silent\nshow-error\nwrite-out="\\n%{http_code}"\n')
    env = {**os.environ, "CURL_HOME": str(tmp_path), "SHOP": system.url, "API_KEY": system.api_key}
    env |= {"ORDER": order, "no_proxy": "*"}

    def status(command: str) -> str:
        argv = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()[-1]

    commands = figures(page, "curl")

    assert len(commands) == 9
    assert {command: status(command) for command in commands} == {
        command: "200" if "-X POST" not in command else "201" if "stock" in command else "202"
        for command in commands
    }


@pytest.fixture(scope="module")
def installed(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has put the client, as the page says, but for what it needs, which is here already."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
    pip += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(folder)]
    subprocess.run(
        [*pip, f"{system.url}/api/{documentation.WHEEL}"],
        check=True,
        timeout=120,
        env={**os.environ, "no_proxy": "*", "TMPDIR": str(folder)},
    )
    return folder


def run_python(system: System, installed: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where nothing of this project is but the installed client."""
    env = {"PYTHONPATH": str(installed), "PYTHONWARNINGS": "error", "no_proxy": "*"}
    env |= {"SHOP": system.url, "API_KEY": system.api_key, "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", program]
    return subprocess.run(
        argv, env=env, cwd=installed, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_s_python_runs_as_it_stands_with_the_client_that_pip_installs(
    system: System, page: str, installed: Path
) -> None:
    examples = [documentation.PYTHON, *figures(page, "Python")[1:]]

    done = run_python(system, installed, "\n".join(examples))

    assert len(examples) == 10
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "cancelled"
    assert "MUG-SET4 42.00" in done.stdout
    assert figures(page, "Python")[0] == documentation.PYTHON


def test_the_installed_client_is_typed_and_of_the_api_s_release(system: System, installed: Path) -> None:
    program = """
import importlib.metadata, pathlib, reserva
print(importlib.metadata.version("reserva"))
print((pathlib.Path(reserva.__file__).parent / "py.typed").exists())
print(all(hasattr(reserva, name) for name in reserva.__all__))
"""
    done = run_python(system, installed, program)

    assert done.stdout.split() == [documentation.VERSION, "True", "True"], done.stderr
    assert "shop" not in {path.name for path in installed.iterdir()}


def test_a_wrong_example_would_be_noticed(system: System, installed: Path) -> None:
    done = run_python(system, installed, documentation.PYTHON + "\nshop.product('MUG-000')\n")

    assert "reserva.NotFound: GET /api/v1/products/MUG-000: 404" in done.stderr


# --- problems -------------------------------------------------------------------------------------

every_kind = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.slug)


@every_kind
def test_each_problem_has_a_page_that_says_what_to_do(system: System, kind: Kind) -> None:
    answer = system.get(kind.page)

    assert answer.status == 200
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for words in (kind.title, "What happened", "What to do", "The idempotency key", "Send it again?"):
        assert words in answer.body
    assert html.escape(f'"type": "{kind.slug}"') in answer.body
    assert "`" not in re.sub("<pre.*?</pre>", "", answer.body, flags=re.DOTALL)


def test_there_is_no_page_about_what_is_no_problem(system: System) -> None:
    assert system.get("/api/problems/nothing-like-it").status == 404


def follow(system: System, address: str, link: str) -> str:
    """Where a browser ends up that follows a link from an answer of this address."""
    url = urllib.parse.urljoin(system.url + address, link)
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.url).removeprefix(system.url)


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("POST", "/api/v1/orders"),
        ("GET", f"/api/v1/orders/{NOWHERE}"),
        ("POST", f"/api/v1/orders/{NOWHERE}/cancel"),
        ("GET", "/api/v1/products?limit=0"),
        ("GET", "/api/v1/products/nothing"),
        ("POST", "/api/v1/products/nothing/stock-movements"),
        ("POST", "/healthz"),
        ("GET", "/nothing/here"),
    ],
)
def test_from_every_answer_its_type_and_its_link_lead_to_its_page(
    system: System, method: str, address: str
) -> None:
    problem = system.send(method, address)
    page = f"/api/problems/{problem.body['type']}"

    assert problem.status >= 400
    assert follow(system, address, problem.body["type"]) == page
    assert problem.headers["Link"] == f'<{page}>; rel="help"'


def test_who_sends_a_key_gets_an_answer_and_not_a_page(system: System) -> None:
    sku = a_sku(stock=3, sku="not-found")

    assert system.get(f"/api/v1/products/{sku}").body["available"] == 3
    assert system.get("/api/v1/orders/not-found").body["status"] == 404


def order(sku: str, quantity: Any = 1) -> bytes:
    return json.dumps({"items": [{"sku": sku, "quantity": quantity}]}).encode()


JSON = {"Content-Type": "application/json"}
TOO_LARGE = b" " * 1_048_577

#: For each kind of problem that says a key is unused, what brings it about: body and headers of an order.
REFUSED_ORDERS: dict[Kind, Callable[[str], tuple[bytes, dict[str, str]]]] = {
    Kind.MALFORMED_JSON: lambda sku: (b'{"items": [', JSON),
    Kind.UNAUTHORIZED: lambda sku: (order(sku), {**JSON, "Authorization": "Bearer no-such-key"}),
    Kind.PAYLOAD_TOO_LARGE: lambda sku: (TOO_LARGE, JSON),
    Kind.UNSUPPORTED_MEDIA_TYPE: lambda sku: (order(sku), {"Content-Type": "text/plain"}),
    Kind.INVALID_ORDER: lambda sku: (order(sku, 0), JSON),
}


@pytest.mark.parametrize("kind", list(REFUSED_ORDERS), ids=lambda kind: kind.slug)
def test_a_refused_order_leaves_its_key_unused_as_the_page_says(system: System, kind: Kind) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    body, headers = REFUSED_ORDERS[kind](sku)

    refused = system.send("POST", "/api/v1/orders", body, {**headers, "Idempotency-Key": key})
    placed = system.place((sku, 2), key=key)

    assert (refused.status, refused.body["type"]) == (kind.status, kind.slug)
    assert EXPLANATIONS[kind].key is Key.UNUSED
    assert placed.status == 202
    assert "Idempotency-Replayed" not in placed.headers


def moved(system: System, sku: str, delta: int, key: str, api_key: str | None = None) -> Answer:
    path = f"/api/v1/products/{urllib.parse.quote(sku, safe='')}/stock-movements"
    body = {"delta": delta, "reason": "a reason"}
    return system.send("POST", path, body, {"Idempotency-Key": key}, api_key=api_key)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (Kind.INSUFFICIENT_STOCK, lambda system, sku, key: moved(system, sku, -11, key)),
        (Kind.INVALID_STOCK_MOVEMENT, lambda system, sku, key: moved(system, sku, 0, key)),
        (Kind.NOT_FOUND, lambda system, sku, key: moved(system, f"no {sku}", 1, key)),
        (
            Kind.FORBIDDEN,
            lambda system, sku, key: moved(
                system, sku, 1, key, api_key=create_key(f"o-{uuid.uuid4().hex[:8]}", ["orders"])
            ),
        ),
    ],
    ids=lambda value: value.slug if isinstance(value, Kind) else "",
)
def test_a_refused_movement_leaves_its_key_unused_as_the_page_says(
    system: System, kind: Kind, act: Callable[[System, str, str], Answer]
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex

    refused = act(system, sku, key)
    done = moved(system, sku, -10, key)

    assert (refused.status, refused.body["type"]) == (kind.status, kind.slug)
    assert EXPLANATIONS[kind].key is Key.UNUSED
    assert (done.status, done.body["available"]) == (201, 0)


def test_a_key_in_use_is_told_to_be_in_use(system: System) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    system.place((sku, 1), key=key)

    assert system.place((sku, 2), key=key).body["type"] == "idempotency-key-reused"
    assert EXPLANATIONS[Kind.IDEMPOTENCY_KEY_REUSED].key is Key.TAKEN


# --- the stories under Idempotency ----------------------------------------------------------------


def test_the_stories_that_the_page_tells_are_true_of_this_system(system: System, page: str) -> None:
    """Lost answers: tests/test_client.py; copies, forgotten keys: tests/test_orders_api.py. Here: that each is told."""
    stories = re.findall(r"<li>\s*<h3>(.*?)</h3>", page)

    assert [html.unescape(story) for story in stories] == [
        "The answer is lost",
        "A double tap",
        "You crash in between",
        "A key is used for something else",
        "A day later, or a year",
    ]


def test_who_crashed_before_noting_the_answer_finds_the_order_by_its_key(
    system: System, installed: Path
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    program = "\n".join([
        documentation.PYTHON,
        f"placed = shop.place_order([({sku!r}, 4)], key={key!r})",
        "os._exit(1) if not placed.replayed else print(placed.order.id, placed.replayed)",
    ])  # fmt: skip

    crashed = run_python(system, installed, program)
    after_restart = run_python(system, installed, program)

    assert (crashed.returncode, crashed.stdout) == (1, "")
    assert after_restart.returncode == 0, after_restart.stderr
    assert system.end_of(after_restart.stdout.split()[0]).body["status"] == "confirmed"
    path = f"/api/v1/products/{urllib.parse.quote(sku, safe='')}"
    wait_until(lambda: system.get(path).body["available"] == 6)
