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


def test_a_file_that_cannot_be_made_or_replaced_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / ("long" * 63), tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(OSError) as caught, aside(path):
            pass
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["folder"]


def test_what_another_file_lacks_is_not_said_of_ours(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError) as caught, aside(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(other.read_bytes())
    assert caught.value.filename == str(other)


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
