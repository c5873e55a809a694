"""The live API against its own OpenAPI document: what it promises is what it does, for good data and for bad."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import System


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_api_does_what_its_document_says(system: System, tmp_path: Path, mode: str) -> None:
    argv = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{system.url}/api/openapi.json"]
    argv += ["--header", f"Authorization: Bearer {system.api_key}", "--mode", mode, "--seed", "20261123"]
    argv += ["--max-examples", "15", "--no-shrink", "--phases", "examples,fuzzing"]
    env = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
        "SCHEMATHESIS_MODE": mode,
        "PYTHONPATH": os.getcwd(),
    }

    done = subprocess.run(
        argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
