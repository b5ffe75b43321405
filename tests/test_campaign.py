"""The short form of benchmarks/campaign.py: a kill, a full disk, odd files for a few readers.

Whole in the benchmark alone: kills in a row, run, compress and deploy, all readers, 10^6 cases.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import campaign
import fuzz_readers


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> campaign.Bench:
    folder = tmp_path_factory.mktemp("campaign")
    return campaign.Bench(folder, str(folder))


def test_what_was_killed_goes_on_to_the_same_files_and_leaves_nothing_running(
    bench: campaign.Bench, tmp_path: Path
) -> None:
    state = campaign.State.of(tmp_path / "state.json")
    campaign.kills(bench, state, 1, 0, ("profile",))
    for row in state.rows["kills"]:
        assert row["resumed"] and row["told"] and row["compared"] > 1, row
        assert not row["differing"] and not row["survivors"], row
    assert campaign.State.of(tmp_path / "state.json").rows == state.rows
    campaign.kills(bench, campaign.State.of(tmp_path / "state.json"), 1, 0, ("profile",))


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
def test_what_a_full_disk_stopped_goes_on_to_the_same_files(
    bench: campaign.Bench, tmp_path: Path
) -> None:
    state = campaign.State.of(tmp_path / "state.json")
    try:
        campaign.disks(bench, state, 1, 0, ("profile",))
    except campaign.NoMount as e:
        pytest.skip(str(e))
    (row,) = state.rows["disks"]
    assert row["told"] and row["resumed"] and not row["differing"], row


@pytest.mark.parametrize("reader", ["config", "ledger", "tflite"])
def test_odd_files_are_read_or_refused_in_a_line(reader: str, tmp_path: Path) -> None:
    row = fuzz_readers.chunk(reader, 1, 200, tmp_path)
    assert row["cases"] == 200 and not row["faults"], row
    assert row["by"] in ("atheris", "mutation")
    assert row["read"] and sum(row["refused"].values()), row
    assert row["slowest_s"] < fuzz_readers.LIMIT_S and row["most_mb"] < 1024, row
