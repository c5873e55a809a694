"""The live API against its own OpenAPI document: what it promises is what it does, for good data and for bad."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import a_sku
from tests.running import System


def run_against(
    system: System, folder: Path, mode: str, *more: str, examples: int = 5
) -> subprocess.CompletedProcess[str]:
    """A run of schemathesis with every check it has; the same requests each time."""
    sku = a_sku(stock=1_000_000)
    order = system.end_of(system.place((sku, 1)).body["id"]).body
    argv = [str(Path(sys.executable).parent / "schemathesis"), "run", *more, "--url", system.url]
    argv += ["--header", f"Authorization: Bearer {system.api_key}", "--mode", mode, "--checks", "all"]
    argv += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--no-shrink"]
    argv += ["--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    env = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
        "SCHEMATHESIS_MODE": mode,
        "SCHEMATHESIS_SKU": sku,
        "SCHEMATHESIS_ORDER_ID": order["id"],
        "PYTHONPATH": os.getcwd(),
    }
    return subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("examples", [5, pytest.param(25, marks=pytest.mark.depth)])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_api_does_what_its_document_says(
    system: System, tmp_path: Path, mode: str, examples: int
) -> None:
    done = run_against(system, tmp_path, mode, f"{system.url}/api/openapi.json", examples=examples)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_document_that_says_something_else_would_be_noticed(system: System, tmp_path: Path) -> None:
    document = system.get("/api/openapi.json").body
    del document["paths"]["/api/v1/products/{sku}/stock-movements"]["post"]["responses"]["422"]
    (tmp_path / "wrong.json").write_text(json.dumps(document))

    done = run_against(system, tmp_path, "negative", "wrong.json", "--include-operation-id", "moveStock")

    assert done.returncode == 1
    assert "Undocumented status code" in done.stdout
