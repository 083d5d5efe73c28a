"""Locks that end with their process, and what their files prove of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmaas.storage.file_locks import FileLock, LifeFiles

HOLD = """
import sys
from pathlib import Path
from llmaas.storage.file_locks import LifeFiles

LifeFiles(Path(sys.argv[1])).begin("other")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "folder" / "lock"), FileLock(tmp_path / "folder" / "lock")
    assert first.take()
    assert not second.take()
    assert not second.is_free()
    first.free()
    assert second.is_free()
    assert second.take()


def test_a_worker_is_left_behind_when_its_process_was_killed(tmp_path: Path) -> None:
    lives = LifeFiles(tmp_path)
    lives.begin("own")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert lives.left_behind() == []
    process.kill()
    process.communicate()
    assert lives.left_behind() == ["other"]
    lives.bury("other")
    assert lives.left_behind() == []
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_folder_that_is_not_there_has_nobody_in_it(tmp_path: Path) -> None:
    assert LifeFiles(tmp_path / "workers").left_behind() == []
