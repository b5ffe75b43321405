"""What is built from this folder is what is installed: types, version, devices."""

import ast
import email
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgenas

ROOT = Path(__file__).parent.parent
DEVICES = {path.name for path in (ROOT / "devices").glob("*.yaml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built by the backend itself: no isolated environment, so no download."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def _metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (n for n in wheel.namelist() if n.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_metadata(wheel: zipfile.ZipFile) -> None:
    facts = email.message_from_string(_metadata(wheel, "METADATA"))
    assert facts["Version"] == edgenas.__version__
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["Requires-Python"] == ">=3.11"
    assert "edgenas = edgenas.cli:main" in _metadata(wheel, "entry_points.txt")
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in wheel.namelist())


def test_every_source_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgenas").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    data = {f"edgenas/_data/devices/{path.name}" for path in (ROOT / "devices").iterdir()}
    data.add("edgenas/_data/demo.yaml")
    assert "edgenas/py.typed" in source
    assert {n for n in wheel.namelist() if ".dist-info/" not in n} == source | data


def test_an_installed_copy_finds_its_devices(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    code = (
        "import json; from edgenas.device import device_files; "
        "print(json.dumps([str(path) for path in device_files().values()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {Path(path) for path in json.loads(done.stdout)}
    assert {"cpu-onnxruntime.yaml", "cpu-litert.yaml"} <= DEVICES
    assert found == {site / "edgenas" / "_data" / "devices" / name for name in DEVICES}


def test_an_installed_copy_writes_its_example(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, home = tmp_path / "site", tmp_path / "home"
    home.mkdir()
    wheel.extractall(site)
    done = subprocess.run(
        [sys.executable, "-m", "edgenas", "init"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (home / "demo.yaml").read_bytes() == (ROOT / "docs" / "demo.yaml").read_bytes()


def test_pins_name_no_build_and_no_place() -> None:
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert name and version, line
        assert not set("+@/: ") & set(line), line


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(r).name) for r in project["dependencies"]}
    extras = {
        folder: {canonicalize_name(Requirement(r).name) for r in extra}
        for folder, extra in project["optional-dependencies"].items()
    }
    homes = metadata.packages_distributions()
    sources = {path: path.read_text() for path in sorted((ROOT / "edgenas").rglob("*.py"))}

    for path, source in sources.items():
        for module in _imports(source) - {"edgenas"} - sys.stdlib_module_names:
            owners = {canonicalize_name(home) for home in homes.get(module, [module])}
            folder = path.relative_to(ROOT / "edgenas").parts[0]
            known = declared | extras.get(folder, set())
            assert owners & known, f"{path.name} imports {module}, which is not a dependency"

    text = "".join(sources.values())
    for name in declared:
        modules = [m for m, homes_of in homes.items() if name in map(canonicalize_name, homes_of)]
        used = rf"""(import |from |["'])({"|".join(modules)})\b"""  # the runner imports by name
        assert re.search(used, text), f"{name} is a dependency that nothing imports"


def _imports(source: str) -> set[str]:
    """Top-level names; those of ``try`` too, since a fallback is a need as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_public_names_stay_what_they_are() -> None:
    """A public name that is a submodule too would change its meaning once that is imported."""
    code = (
        "import edgenas, pkgutil;"
        "modules = {m.name for m in pkgutil.iter_modules(edgenas.__path__)};"
        "assert not modules & set(edgenas.__all__), modules & set(edgenas.__all__);"
        "assert all(getattr(edgenas, n) is getattr(edgenas, n) for n in edgenas.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
