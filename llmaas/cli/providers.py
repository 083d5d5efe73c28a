"""`llmaas providers`: who supplies inference, their credentials, and whether they answer."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.actor import operator
from llmaas.cli.parameters import JsonFlag
from llmaas.cli.place import Place, at_place
from llmaas.domain.models import Provider, ProviderKind
from llmaas.errors import Conflict, InvalidRequest, LlmaasError, NotFound

if TYPE_CHECKING:
    from llmaas.datadir import Installation
    from llmaas.domain.fleet import Fleet
    from llmaas.domain.models import Backend

commands = typer.Typer(help="Inference servers: list, add, set-secret, test.", no_args_is_help=True)
ProviderArgument = Annotated[str, typer.Argument(metavar="ID", help="The provider's id.")]
_LONGEST_SECRET = 16 * 1024


@commands.command("list")
@at_place
def list_providers(place: Place, *, as_json: JsonFlag = False) -> None:
    """List providers with their backends."""

    async def work(installation: Installation) -> tuple[Fleet, set[str]]:
        return await installation.catalogue.fleet(), set(await installation.catalogue.sealed_secrets())

    fleet, sealed = place.run(work)
    records = [
        _record(p, [b for b in fleet.backends if b.provider_id == p.id], p.id in sealed) for p in fleet.providers
    ]
    if as_json:
        output.json_list(records)
    elif records:
        rows = [
            [r["id"], r["kind"], r["credential"], b.get("id"), b.get("machine_name"), b.get("base_url")]
            for r in records
            for b in r["backends"] or [{}]
        ]
        output.table(["id", "kind", "credential", "backend", "machine", "base url"], rows)
    else:
        output.note("no providers yet: llmaas providers add ID --kind KIND --base-url URL, or llmaas apply FILE")


@commands.command()
@at_place
def add(
    place: Place,
    *,
    provider_id: ProviderArgument,
    kind: Annotated[ProviderKind, typer.Option(help="What kind of server it is.")],
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="For example http://10.0.0.12:8000/v1.")] = None,
    machine_name: Annotated[str | None, typer.Option(metavar="NAME", help="What callers see; default: the id.")] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE", help="Environment variable that holds the credential, such as LLMAAS_PROVIDER_LAB_KEY."
        ),
    ] = None,
    explain_refusals: Annotated[
        bool | None,
        typer.Option(
            "--explain-refusals/--no-explain-refusals",
            help="Tell callers in its engines' words why a request is refused; default: by kind, never for openai.",
        ),
    ] = None,
) -> None:
    """Add a provider with one backend of the same id. More backends and models come with `llmaas apply`."""
    provider = {
        "id": provider_id,
        "kind": kind.value,
        "api_key_env": api_key_env,
        "explain_refusals": explain_refusals,
    }
    backend = {"id": provider_id, "provider": provider_id, "base_url": base_url, "machine_name": machine_name}

    async def work(installation: Installation) -> None:
        from llmaas.domain.declarations import declare

        present = await installation.catalogue.fleet()
        if any(p.id == provider_id for p in present.providers) or any(b.id == provider_id for b in present.backends):
            raise Conflict(f"There is a provider or backend `{provider_id}` already.", param="id")
        declared, mistakes = declare(
            {"providers": [provider], "backends": [backend]},
            present,
            lambda wanted: installation.catalogue.forbidden(present, wanted),
        )
        if mistakes:
            raise InvalidRequest("; ".join(dict.fromkeys(mistake.message for mistake in mistakes)))
        await installation.catalogue.apply(declared, now_ms=installation.clock.now_ms(), prune=False, by=operator())

    place.run(work)
    print(f"added provider {provider_id}")
    output.note(f"next: llmaas providers test {provider_id}, then describe its models in a file for llmaas apply")


@commands.command("set-secret")
@at_place
def set_secret(
    place: Place,
    *,
    provider_id: ProviderArgument,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the stored credential.")] = False,
) -> None:
    """Store a provider's credential, encrypted. It is read from standard input or asked for, never from an argument."""

    async def known(installation: Installation) -> None:
        await _provider(installation, provider_id)

    place.run(known)
    secret = None if remove else _read_secret(provider_id)

    async def work(installation: Installation) -> None:
        sealed = None if secret is None else installation.secret_box.seal(provider_id, secret)
        await installation.catalogue.set_secret(provider_id, sealed, by=operator())

    place.run(work)
    print(f"{'forgot' if remove else 'stored'} the credential of {provider_id}")


@commands.command("test")
@at_place
def try_out(place: Place, *, provider_id: ProviderArgument, as_json: JsonFlag = False) -> None:
    """Connect to each backend of a provider and say what it is and serves. Leaves with 1 unless all answer."""

    async def work(installation: Installation) -> list[dict[str, Any]]:
        provider = await _provider(installation, provider_id)
        backends = [b for b in (await installation.catalogue.fleet()).backends if b.provider_id == provider_id]
        return list(await asyncio.gather(*(ask_backend(installation, provider, b) for b in backends)))

    results = place.run(work)
    if as_json:
        output.json_list(results)
    elif results:
        states = {True: "ok", False: "FAILED", None: "unknown"}
        rows = [[r["backend"], states[r["ok"]], r["server"] or r["error"], r["models"]] for r in results]
        output.table(["backend", "state", "what it is", "models"], rows)
    else:
        output.note(f"provider {provider_id} has no backends")
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


async def ask_backend(installation: Installation, provider: Provider, backend: Backend) -> dict[str, Any]:
    """What one backend says about itself, or `error`; `ok` is None where this terminal cannot ask."""
    from llmaas.engines.probe import ProbeFailed

    result: dict[str, Any] = {"backend": backend.id, "ok": True, "server": None, "models": [], "error": None}
    if provider.kind is ProviderKind.EMBEDDED:
        return {**result, "server": "engine of this installation"}
    try:
        found = await installation.look_at(provider, backend)
    except ProbeFailed as error:
        return {**result, "ok": False, "error": str(error)}
    except NotFound as error:
        told = unset_here(provider, error)
        fix = f"set it here too, or store it with `llmaas providers set-secret {provider.id}`"
        return {**result, "ok": None if told else False, "error": f"{told}; {fix}" if told else str(error)}
    return {**result, "server": found.server, "models": list(found.models)}


def unset_here(provider: Provider, error: LlmaasError) -> str | None:
    """What to say when the variable of a credential lacks in this terminal alone, as far as we can know."""
    if error.param != "api_key_env":
        return None
    return f"{provider.api_key_env} is not set in this terminal; `llmaas serve` has an environment of its own"


async def _provider(installation: Installation, provider_id: str) -> Provider:
    for provider in (await installation.catalogue.fleet()).providers:
        if provider.id == provider_id:
            return provider
    raise NotFound(f"There is no provider `{provider_id}`.", param="provider")


def _read_secret(provider_id: str) -> str:
    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass(f"Credential of {provider_id} (not shown): ", stream=sys.stderr)
    else:
        text = sys.stdin.read(_LONGEST_SECRET + 1).strip()
    if not text or len(text) > _LONGEST_SECRET or not text.isascii() or not text.isprintable():
        raise InvalidRequest("The credential must be one line of printable ASCII characters.")
    return text


def _record(provider: Provider, backends: list[Backend], sealed: bool) -> dict[str, Any]:
    credential = "stored" if sealed else f"${provider.api_key_env}" if provider.api_key_env else None
    return {
        "id": provider.id,
        "kind": provider.kind.value,
        "credential": credential,
        "cancel_stops_billing": provider.cancel_stops_billing,
        "extra_parameters": sorted(provider.extra_parameters),
        "explain_refusals": provider.explains_refusals,
        "backends": [
            {
                "id": b.id,
                "machine_name": b.machine_name,
                "base_url": b.base_url,
                "engine_type": b.engine_type,
                "max_concurrency": b.max_concurrency,
            }
            for b in backends
        ],
    }
