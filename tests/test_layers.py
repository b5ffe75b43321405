"""The order of the layers, and that facts and devices start without torch."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from edgenas import runner
from edgenas.emulator import PLUGIN
from edgenas.instructions import Counts

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgenas"
ON_THE_BOARD = {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
FACTS = [
    module
    for contract in CONTRACTS["contracts"]
    if contract.get("forbidden_modules") == ["torch"]
    for module in contract["source_modules"]
]
SHELF_FILES = [
    f"edgenas.{shelf}.{path.stem}"
    for shelf in ("runtimes", "transports")
    for path in sorted((PACKAGE / shelf).glob("[!_]*.py"))
]


def test_the_contracts_of_pyproject_hold() -> None:
    lint = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["edgenas", *FACTS, *SHELF_FILES])
def test_imported_without_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_the_counter_the_runner_and_a_table_name_the_classes_in_one_order() -> None:
    counter = re.search(r"enum \{ (.+), CLASSES \};", PLUGIN.read_text())
    assert counter is not None
    assert tuple(counter[1].lower().split(", ")) == runner.CLASSES
    assert tuple(f.name for f in fields(Counts)) == runner.CLASSES


def test_the_runner_stands_alone() -> None:
    tree = ast.parse((PACKAGE / "runner.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("" if node.level else (node.module or "").partition(".")[0])
    assert imported <= ON_THE_BOARD | sys.stdlib_module_names
