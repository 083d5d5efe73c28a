"""The settings table: one field is one setting, and yields its flag, its `LLMAAS_*` variable, its line in `llmaas.toml` and
its documentation.

Precedence: flag > environment > file > default. Unknown names are refused, and every mistake is reported at once
(`ConfigurationError`). No other module reads the environment.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import fnmatch
import ipaddress
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from llmaas.errors import ConfigurationError

PREFIX = "LLMAAS_"
PROVIDERS = "LLMAAS_PROVIDER_"
"""How variables begin that hold credentials of providers; no setting does."""
SECRET_MASK = "***"
_ENGINE_KEY = "LLAMA_API_KEY"
"""Where llama.cpp's server finds the key that it asks its callers for."""
_CLIENT_KEY = "LLMAAS_KEY"
_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://"
_MAIL = ("smtp://", "smtps://")
_STATES = ("valkey://", "valkeys://", "redis://", "rediss://")
_KEY_BYTES = 32
_CONFIG = "LLMAAS_CONFIG"
NAME_SERVERS: Final = {"RES_OPTIONS": "timeout:1 attempts:1"}
"""How long a look-up of the C library waits where nobody has said it: we ask again ourselves, and a thread that waits long for
a silent name server would be missed (`names.py`).
"""
_NO_SETTINGS = frozenset({_CONFIG, _CLIENT_KEY})
"""Variables of ours that are no settings: where the settings are, and what `llmaas chat` sends as its key."""
_EVERY_PROGRAM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*", "TMPDIR", "TMP", "TEMP"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV"),
    *(
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "DYLD_*",
        "MALLOC_*",
        "GLIBC_TUNABLES",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONUTF8",
    ),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"),
)
_ENGINES = (
    *("CUDA_*", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE"),
    *("HIP_*", "ROCR_*", "ROCM_*", "HSA_*", "AMD_LOG_LEVEL", "GPU_MAX_*", "GPU_DEVICE_ORDINAL"),
    *("VK_ICD_FILENAMES", "VK_DRIVER_FILES", "VK_LAYER_PATH", "VK_LOADER_*"),
    *("SYCL_*", "ZE_*", "ZES_*", "ONEAPI_ROOT", "ONEAPI_DEVICE_SELECTOR"),
    *("GGML_*", "LLAMA_ARG_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*"),
)
_DOWNLOADS = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"),
)
_INSTALLERS = (
    *(
        "PIP_*",
        "UV_INDEX*",
        "UV_DEFAULT_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_CONFIG_FILE",
        "UV_NO_CONFIG",
    ),
    *("UV_CACHE_DIR", "UV_HTTP_*", "UV_OFFLINE", "UV_INSECURE_HOST", "UV_PYTHON", "UV_PYTHON_INSTALL_DIR"),
)
_GATEWAYS = ("PG*", "KRB5*", "UV_THREADPOOL_SIZE")
_HUB = ("HF_HOME", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_*_TIMEOUT", "HF_HUB_DISABLE_*", "HF_HUB_ENABLE_*", "HF_XET_*")


class Secret(str):
    """A string that does not show itself when printed; `reveal()` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({SECRET_MASK})" if self else "Secret('')"

    def __str__(self) -> str:
        return SECRET_MASK if self else ""

    def reveal(self) -> str:
        return str.__str__(self)


def setting(default: Any, text: str, *, at_least: float | None = None, at_most: float | None = None) -> Any:
    metadata = {"help": text, "at_least": at_least, "at_most": at_most}
    if isinstance(default, list | dict):
        raise TypeError("defaults must be immutable")
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, in the order of the documentation. All of them are read at the start; a change needs a restart."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8080, "Port to listen on.", at_least=1, at_most=65535)
    trusted_proxies: tuple[str, ...] = setting(
        (), "Networks (CIDR) of the reverse proxies in front; callers are who their `x-forwarded-for` names."
    )
    data_dir: Path = setting(Path("~/.local/share/llmaas"), "Directory of the database, the spool, keys and models.")
    database_url: Secret = setting(
        Secret(""),
        "`sqlite:////ABSOLUTE/PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; empty: `llmaas.db` in the data directory.",
    )
    database_timeout_s: float = setting(5.0, "Longest wait for an answer of PostgreSQL.", at_least=3)
    database_connections: int = setting(
        5, "Connections to PostgreSQL that each process keeps for the control plane.", at_least=1
    )
    state_url: Secret = setting(
        Secret(""), "`valkey://HOST:PORT/NUMBER` where several workers count together; empty: in memory."
    )
    state_timeout_s: float = setting(
        0.05, "Longest wait for an answer of Valkey; then each worker counts its own share.", at_least=0.001
    )
    master_key: Secret = setting(
        Secret(""),
        "32 bytes in base64, the same on every host; empty: `master.key` in the data directory, made if need be.",
    )
    workers: int = setting(
        1, "Gateway processes. More than one needs PostgreSQL (`database_url`) and Valkey (`state_url`).", at_least=1
    )
    no_model: bool = setting(False, "Do not serve the default model when no fleet is configured.")
    default_model: str = setting(
        "qwen2.5-coder:1.5b", "Model that a fresh install serves, by its name in the model manifest."
    )

    max_body_bytes: int = setting(16 * 1024 * 1024, "Largest request body.", at_least=1024)
    max_bodies_bytes: int = setting(
        0,
        "Request bodies above 64 KiB that a gateway process holds at once, in bytes; a key or an address may hold half of it."
        " As much again for what connections hold beside them (heads, small bodies, answers that nobody takes);"
        " 0: a sixteenth of the memory that there is.",
        at_least=0,
    )
    max_connections: int = setting(
        0,
        "Connections of callers to a gateway process; beyond them the ones that are idle longest are closed; 0: half of the"
        " free file descriptors, and 10,000 at most.",
        at_least=0,
    )
    cors_origins: tuple[str, ...] = setting((), "Origins that browsers may call from; `*` for any.")
    allow_remote_images: bool = setting(False, "Let engines fetch `http(s)` image addresses that callers name.")
    stream_usage: Literal["asked", "always"] = setting(
        "asked", "When streams end with `usage` and `backend`: if the caller asked for it, or always."
    )
    ping_interval_s: float = setting(15.0, "Silence on a stream after which a comment keeps it alive.", at_least=0.1)
    upstream_deny: tuple[str, ...] = setting(
        (),
        "Networks (CIDR) where no inference server may be, besides link-local, metadata, multicast and reserved ones.",
    )
    upstream_allow: tuple[str, ...] = setting((), "Networks (CIDR) where one may be although they are denied.")
    webhook_allow: tuple[str, ...] = setting(
        (), "Private networks (CIDR) that webhooks of alerts may be in; without them only public addresses."
    )
    smtp_url: Secret = setting(
        Secret(""), "`smtp://USER:PASSWORD@HOST:587` (STARTTLS) or `smtps://…:465`: alerts go out by it as e-mail."
    )
    smtp_from: str = setting("", "Sender of that e-mail, such as `llmaas <llmaas@example.org>`.")
    credential_variables: tuple[str, ...] = setting(
        (),
        "Environment variables that a provider may name in `api_key_env` besides `LLMAAS_PROVIDER_…`; `*` for any characters.",
    )
    connect_timeout_s: float = setting(5.0, "Longest wait for a connection to an engine.", at_least=0.01)
    first_byte_timeout_s: float = setting(
        300.0, "Longest wait for the first byte of an engine's answer.", at_least=0.01
    )
    between_chunks_timeout_s: float = setting(120.0, "Longest silence of an engine within an answer.", at_least=0.01)
    total_timeout_s: float = setting(3600.0, "Longest life of one request.", at_least=0.01)
    drain_timeout_s: float = setting(30.0, "How long a stop waits for answers that are under way.", at_least=0)

    key_cache_size: int = setting(10_000, "Keys held in memory by each worker.", at_least=1)
    refresh_interval_s: float = setting(
        0.5, "How often a worker looks for changes by other processes.", at_least=0.05, at_most=1
    )
    spool_dir: Path | None = setting(
        None, "Where usage rows wait while the database is away; default: `spool` in the data directory."
    )
    currency: str = setting("EUR", "Currency of prices and costs.")

    public_url: str = setting("", "Address by which browsers reach this service, such as `https://llm.example.org`.")
    session_idle_s: float = setting(43_200.0, "How long a sign-in lasts without use.", at_least=60)
    session_max_s: float = setting(604_800.0, "How long a sign-in lasts in any case.", at_least=60)
    oidc_issuer: str = setting("", "OpenID Connect provider that people may sign in through; empty: none.")
    oidc_client_id: str = setting("", "What the provider knows this service by.")
    oidc_client_secret: Secret = setting(Secret(""), "The secret that goes with it; empty for a public client.")
    oidc_email_domains: tuple[str, ...] = setting(
        (), "Domains whose addresses the provider may speak for: only their users are linked or made."
    )
    oidc_create_users: bool = setting(False, "Make a user of whoever the provider signs in from those domains.")

    metrics_listen: str = setting(
        "", "`HOST:PORT` that serves `/metrics` without a key; empty: only with a key that may read it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = setting(
        "auto", "Form of log lines; `auto`: console on a terminal."
    )
    access_log: bool = setting(False, "Log a line for each request; the ledger has one row for each answer anyway.")

    llama_server: str = setting(
        "auto", "Path of a `llama-server` program; `auto`: the one on PATH, else the built-in; `builtin`."
    )
    engine_parallel: int = setting(4, "Answers that an embedded engine makes at once.", at_least=1, at_most=64)
    engine_threads: int = setting(0, "CPU threads of an embedded engine; 0: one for each core.", at_least=0)
    engine_idle_unload_s: float = setting(
        0.0, "Unload an embedded model after so long without a request; 0: never.", at_least=0
    )
    engine_load_timeout_s: float = setting(300.0, "Longest time that loading a model may take.", at_least=1)
    hub_url: str = setting("", "Address of the model hub; empty: the hub client's default.")
    hub_token: Secret = setting(Secret(""), "Token for the model hub.")

    @property
    def database(self) -> Path | str:
        """The file of SQLite, or the URL of PostgreSQL, which may hold a password."""
        url = self.database_url.reveal()
        return url if url.startswith(_POSTGRES) else self.database_path

    @property
    def database_path(self) -> Path:
        """The file of SQLite."""
        url = self.database_url.reveal()
        return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else self.data_dir / "llmaas.db"

    @property
    def database_shown(self) -> str:
        """`database` as it may be printed."""
        return without_password(str(self.database))

    @property
    def shared_database(self) -> bool:
        """Whether it is PostgreSQL, which other processes and hosts may work with at the same time."""
        return self.database_url.reveal().startswith(_POSTGRES)

    @property
    def master_key_bytes(self) -> bytes | None:
        """None: it is in a file."""
        return base64.b64decode(self.master_key.reveal()) if self.master_key else None

    @property
    def master_key_path(self) -> Path:
        return self.data_dir / "master.key"

    @property
    def spool_path(self) -> Path:
        return self.spool_dir or self.data_dir / "spool"

    def spool_of(self, number: int) -> Path:
        """Each gateway process has a folder of its own, since a writer moves all that it finds in its folder."""
        return self.spool_path / str(number) if number else self.spool_path

    @property
    def models_path(self) -> Path:
        return self.data_dir / "models"

    @property
    def engine_socket_path(self) -> Path:
        return self.data_dir / "engine.sock"


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    origins: dict[str, str]
    """For each setting where its value came from: `flag`, `environment`, the file's path or `default`."""


def load(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded:
    """Merge the four sources. `flags` holds parsed values and only the flags that were given (None counts as not given).

    `file` defaults to `LLMAAS_CONFIG`, else `llmaas.toml` in the data directory when there is one.
    Raises ConfigurationError with every mistake of every source.
    """
    environ = os.environ if environ is None else environ
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    hints = typing.get_type_hints(Settings)
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins = dict.fromkeys(fields, "default")

    def take(name: str, raw: object, origin: str, label: str) -> None:
        try:
            values[name] = _check(fields[name], _convert(hints[name], raw))
            origins[name] = origin
        except (ValueError, TypeError) as error:
            shown = SECRET_MASK if hints[name] is Secret else repr(raw)
            problems.append(f"{label}: {error} (got {shown})")

    from_env = {k: v for k, v in environ.items() if _is_setting(k)}
    given = {k: v for k, v in (flags or {}).items() if v is not None}
    path = file or (Path(environ["LLMAAS_CONFIG"]) if environ.get("LLMAAS_CONFIG") else None)
    if path is None:
        base = given.get("data_dir") or from_env.get("LLMAAS_DATA_DIR") or str(fields["data_dir"].default)
        candidate = Path(base).expanduser() / "llmaas.toml"
        path = candidate if candidate.is_file() else None
    if path is not None:
        for name, raw in _read_file(path, problems).items():
            if name in fields:
                take(name, raw, str(path), f"{path}: {name}")
            else:
                problems.append(f"{path}: unknown setting `{name}`{_suggest(name, fields)}")
    for variable, raw in sorted(from_env.items()):
        name = variable.removeprefix(PREFIX).lower()
        if name in fields:
            take(name, raw, "environment", variable)
        else:
            problems.append(f"{variable}: unknown setting{_suggest(name, fields, PREFIX)}")
    for name, raw in given.items():
        take(name, raw, "flag", f"--{name.replace('_', '-')}")
    if not problems:
        values["data_dir"] = Path(values.get("data_dir", fields["data_dir"].default)).expanduser().absolute()
        settings = Settings(**values)
        problems += _contradictions(settings)
    if problems:
        raise ConfigurationError(problems)
    return Loaded(settings, origins)


def _is_setting(variable: str) -> bool:
    return variable.startswith(PREFIX) and not variable.startswith(PROVIDERS) and variable not in _NO_SETTINGS


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    if settings.database_url and not settings.database_url.reveal().startswith((_SQLITE, _POSTGRES)):
        problems.append("database_url: must be sqlite:////ABSOLUTE/PATH or postgresql://USER:PASSWORD@HOST/NAME")
    if (place := settings.database_url.reveal()).startswith(_SQLITE) and not place.startswith(f"{_SQLITE}/"):
        problems.append(
            f"database_url: {place} names no absolute path; write four slashes: sqlite:////var/lib/llmaas.db"
        )
    problems += [
        f"{name}: has no valid port; write special characters of a password as %XX" for name in _portless(settings)
    ]
    if settings.state_url and not settings.state_url.reveal().startswith(_STATES):
        problems.append("state_url: must be valkey://HOST:PORT/NUMBER or redis://HOST:PORT/NUMBER")
    if settings.workers > 1 and not settings.shared_database:
        problems.append("workers: more than 1 needs PostgreSQL; set database_url to postgresql://…, or workers to 1")
    if settings.workers > 1 and not settings.state_url:
        problems.append("workers: more than 1 needs Valkey; set state_url to valkey://…, or workers to 1")
    if settings.master_key and not _is_key(settings.master_key):
        problems.append("master_key: must be 32 bytes in base64, for example from `openssl rand -base64 32`")
    if settings.public_url and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", settings.public_url):
        problems.append("public_url: must be an http or https address without a path, such as https://llm.example.org")
    if settings.oidc_issuer and not (settings.oidc_client_id and settings.public_url):
        problems.append("oidc_issuer: needs oidc_client_id and public_url, to which the provider sends browsers back")
    for name in ("trusted_proxies", "upstream_deny", "upstream_allow", "webhook_allow"):
        problems += [
            f"{name}: {text} is no network such as 10.0.0.0/8"
            for text in getattr(settings, name)
            if not _is_network(text)
        ]
    problems += [
        f"credential_variables: {text} is no name of a variable, in which `*` may stand for any characters"
        for text in settings.credential_variables
        if not re.fullmatch(r"[A-Za-z_*][A-Za-z0-9_*]*", text)
    ]
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            problems.append("metrics_listen: must be HOST:PORT, for example 127.0.0.1:9090")
    return problems + _mail_problems(settings)


def _mail_problems(settings: Settings) -> list[str]:
    problems = []
    if settings.smtp_url and not settings.smtp_url.reveal().startswith(_MAIL):
        problems.append("smtp_url: must be smtp://USER:PASSWORD@HOST:587 or smtps://USER:PASSWORD@HOST:465")
    if settings.smtp_url and not settings.smtp_from:
        problems.append("smtp_from: is needed with smtp_url, such as llmaas@example.org")
    return problems


def _portless(settings: Settings) -> Iterator[str]:
    for name in ("database_url", "state_url", "smtp_url"):
        try:
            urlsplit(getattr(settings, name).reveal()).port  # noqa: B018 - asking for it is what checks it
        except ValueError:
            yield name


def without_password(url: str) -> str:
    """A URL as it may be printed, whatever is wrong with it: neither its password nor its options."""
    return re.sub(r"//([^/@:]*):.*@", rf"//\1:{SECRET_MASK}@", url.partition("?")[0])


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_key(text: Secret) -> bool:
    try:
        return len(base64.b64decode(text.reveal(), validate=True)) == _KEY_BYTES
    except ValueError:
        return False


def _read_file(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error}")
    return {}


def _suggest(name: str, fields: Mapping[str, object], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    if not close:
        return ""
    return f"; did you mean `{(prefix + close[0]).upper() if prefix else close[0]}`?"


def _convert(kind: Any, raw: object) -> Any:
    origin = typing.get_origin(kind)
    if origin in {typing.Union, types.UnionType}:
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    if kind is bool:
        return _to_bool(raw)
    if kind in (int, float):
        return _to_number(kind, raw)
    if kind is Path:
        if not isinstance(raw, str | Path) or not str(raw):
            raise ValueError("must be a path")
        return Path(raw).expanduser().absolute()
    if origin is tuple:
        parts = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
            raise ValueError("must be a list of strings")
        return tuple(p.strip() for p in parts if p.strip())
    if not isinstance(raw, str):
        raise TypeError("must be a string")
    if origin is Literal:
        if raw not in typing.get_args(kind):
            raise ValueError(f"must be one of {', '.join(typing.get_args(kind))}")
        return raw
    return cast("type[str]", kind)(raw)


def _to_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in {"1", "true", "yes", "on"}:
        return True
    if isinstance(raw, str) and raw.strip().lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def _to_number(kind: type[int | float], raw: object) -> int | float:
    what = "a whole number" if kind is int else "a number"
    if isinstance(raw, bool) or not isinstance(raw, int | float | str) or (kind is int and isinstance(raw, float)):
        raise ValueError(f"must be {what}")
    try:
        value = kind(raw)
    except ValueError:
        raise ValueError(f"must be {what}") from None
    if not math.isfinite(value):
        raise ValueError(f"must be {what}")
    return value


def _check(spec: dataclasses.Field[Any], value: Any) -> Any:
    low, high = spec.metadata["at_least"], spec.metadata["at_most"]
    if low is not None and value < low:
        raise ValueError(f"must be at least {low}")
    if high is not None and value > high:
        raise ValueError(f"must be at most {high}")
    return value


def read_credential(variable: str) -> Secret | None:
    """The value of an environment variable that a provider names as the place of its credential (`api_key_env`). Which ones it may
    name is for `domain.credentials` to say.
    """
    return _from_environment(variable)


def read_client_key() -> Secret | None:
    """The API key that client commands such as `llmaas chat` use."""
    return _from_environment(_CLIENT_KEY)


def read_engine_key() -> Secret | None:
    """The key that the built-in engine asks its callers for."""
    return _from_environment(_ENGINE_KEY)


def _from_environment(variable: str) -> Secret | None:
    value = os.environ.get(variable)
    return Secret(value) if value else None


def engine_environment(api_key: str = "") -> dict[str, str]:
    """What an engine gets of our environment: what it needs to run and to find its processors, and the key that it asks for."""
    return {**_passed(*_EVERY_PROGRAM, *_ENGINES), **({_ENGINE_KEY: api_key} if api_key else {})}


def installer_environment(**more: str) -> dict[str, str]:
    """What pip and uv get of it: also the way to their index."""
    return {**_passed(*_EVERY_PROGRAM, *_DOWNLOADS, *_INSTALLERS), **more}


def gateway_environment(settings: Settings) -> dict[str, str]:
    """What a gateway process gets of it: our settings, credentials that providers may name, and what steers its libraries."""
    own = {name for name in os.environ if name.startswith(PREFIX) and name != _CLIENT_KEY}
    return {**NAME_SERVERS, **_passed(*own, *settings.credential_variables, *_EVERY_PROGRAM, *_GATEWAYS, *NAME_SERVERS)}


def engine_host_environment() -> dict[str, str]:
    """What the engine host gets of it: what the programs that it starts need, and of our settings no secret but that of the hub."""
    hints = typing.get_type_hints(Settings)
    own = [f"{PREFIX}{name}".upper() for name, kind in hints.items() if kind is not Secret or name == "hub_token"]
    return _passed(_CONFIG, *own, *_EVERY_PROGRAM, *_ENGINES, *_DOWNLOADS, *_INSTALLERS, *_HUB)


def _passed(*patterns: str) -> dict[str, str]:
    """A program of others may print, send or leave lying about what is in its environment, so it gets no more than it needs."""
    return {
        name: value for name, value in os.environ.items() if any(fnmatch.fnmatchcase(name, one) for one in patterns)
    }
