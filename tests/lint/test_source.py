"""What the source never does: run text as code, unpickle, or put values into SQL as text.

SQL assembled from our own names alone says so where it stands: `# noqa: S608 - why`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS_TEXT = frozenset({"eval", "exec"})
UNPICKLES = frozenset({"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"})
TAKES_SQL = frozenset({"exec_driver_sql", "execute", "executemany", "executescript", "fetch", "fetchrow", "fetchval"})
SQL = re.compile(
    r"\s*(?:SELECT\s|INSERT\s+(?:INTO|OR)\s|REPLACE\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|"
    r"WITH\s+\S+\s+AS\s|(?:CREATE|ALTER|DROP)\s+(?:TABLE|INDEX|UNIQUE|VIEW|TRIGGER|ROLE|SCHEMA)\s)"
)


EXEMPT = re.compile(r"# noqa: S608 - \w")


def violations(source: str) -> Iterator[str]:
    """`line: what`, for each use of what is forbidden."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in RUNS_TEXT:
                yield f"{node.lineno}: {name}()"
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in RUNS_TEXT:
                yield f"{node.lineno}: builtins.{name}"
            case ast.Import(names=names):
                yield from (f"{node.lineno}: import {a.name}" for a in names if a.name.split(".")[0] in UNPICKLES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNPICKLES:
                yield f"{node.lineno}: from {module} import"
            case ast.Call(func=function, args=[first, *_]) if _takes_sql(function) and _assembled(first) is not None:
                yield from _unless_exempt(first, source)
            case ast.expr() if SQL.match(_assembled(node) or ""):
                yield from _unless_exempt(node, source)


def _unless_exempt(node: ast.expr, source: str) -> Iterator[str]:
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    if not any(EXEMPT.search(line) for line in lines):
        yield f"{node.lineno}: SQL with values in its text"


def _takes_sql(function: ast.expr) -> bool:
    match function:
        case ast.Name(id="text") | ast.Attribute(value=ast.Name(id="sa" | "sqlalchemy"), attr="text"):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in TAKES_SQL
    return False


def _assembled(node: ast.expr) -> str | None:
    """The literal beginning of a string that is put together at run time by f"", %, + or .format(); None: it is not."""
    match node:
        case ast.JoinedStr(values=parts) if any(isinstance(part, ast.FormattedValue) for part in parts):
            return "".join(_literal(part) or "?" for part in parts)
        case ast.BinOp(left=left, op=ast.Mod() | ast.Add()):
            return _literal(left) if _literal(left) is not None else _assembled(left)
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            return _literal(text)
    return None


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "llmaas").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_A18_no_eval_no_pickle_no_sql_from_strings(path: Path) -> None:
    assert list(violations(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(text)",
        "import builtins\nbuiltins.eval(text)",
        "import pickle",
        "from pickle import loads",
        "def f():\n    import shelve",
        "db.execute(f'SELECT * FROM keys WHERE kid = {kid}')",
        "db.execute('SELECT * FROM keys WHERE kid = %s' % kid)",
        "db.execute('SELECT * FROM keys WHERE kid = ' + kid + ' LIMIT 1')",
        "db.execute('SELECT * FROM {}'.format(table))",
        "db.execute(f'{verb} x')",
        "connection.execute(text(f'{statement} LIMIT 1'))",
        "statement = f'DELETE FROM {table}'",
        "statement = 'UPDATE keys SET ' + assignments",
        "statement = 'INSERT INTO %s VALUES (1)' % table",
        "statement = f'DELETE FROM {table}'  # noqa: S608",
    ],
)
def test_A18_the_check_finds(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    "source",
    [
        "db.execute('SELECT * FROM keys WHERE kid = ?', (kid,))",
        "connection.execute(text('SELECT 1'))",
        "connection.execute(select(keys).where(keys.c.kid == kid))",
        "statement = f'DELETE FROM {TABLE}'  # noqa: S608 - our own name",
        "message = f'Delete {name}?'",
        "executor = pool.submit(run, f'{name}')",
        "total = price + 1",
    ],
)
def test_A18_the_check_passes(source: str) -> None:
    assert list(violations(source)) == []
