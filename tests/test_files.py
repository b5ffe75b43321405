import errno
import os
from pathlib import Path

import pytest

from edgenas.errors import CorruptFile, UsageError
from edgenas.files import aside, folder_aside, read_json, write_json


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError), aside(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    with pytest.raises(ValueError):
        write_json(path, {"nan": float("nan")})
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, aside(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.bin")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError), folder_aside(tmp_path / "stage") as folder:
        (folder / "x").write_text("half")
        raise ValueError
    assert os.listdir(tmp_path) == []
    for content in ("one", "two"):
        with folder_aside(tmp_path / "stage") as folder:
            (folder / content).write_text(content)
    assert os.listdir(tmp_path / "stage") == ["two"]


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        read_json(tmp_path / "absent")
    (tmp_path / "bad").write_text("{")
    with pytest.raises(CorruptFile, match="bad cannot be read as JSON"):
        read_json(tmp_path / "bad")
