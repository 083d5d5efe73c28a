"""What pages show of models: a card with price and measured speed, the filters over them, and programs that use one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmaas.control.status.models import Live, State
from llmaas.control.status.speeds import Speed
from llmaas.domain.catalogue import Entry
from llmaas.domain.energy import CARD_KEY
from llmaas.domain.models import Model, ModelKind
from llmaas.domain.prices import Price

_UNKNOWN = Speed(0, None, None)
_MAX_CHARS = 2_000
PRICED = (
    ("price_input", "input"),
    ("price_cached", "cached_input"),
    ("price_output", "output"),
    ("price_reasoning", "reasoning"),
    ("price_request", "request"),
    ("price_documents", "documents"),
)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`facts`: from the model's card, by name; a card says what it likes, so each is text and may be missing.

    `prices`: text key and nano-units, of what costs anything. `energy`: kWh per million tokens, "" when nothing is said.
    """

    model: Model
    state: State
    percent: int | None
    speed: Speed
    prices: list[tuple[str, int]]
    facts: Mapping[str, str]
    languages: tuple[str, ...]
    energy: str

    @property
    def searched(self) -> str:
        """All that a search looks at."""
        model = self.model
        names = (model.id, *model.aliases, model.owned_by, *model.capabilities, *self.languages)
        return " ".join((*names, *self.facts.values())).casefold()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters of the list of models, "" for any."""

    search: str = ""
    kind: str = ""
    capability: str = ""

    @property
    def is_any(self) -> bool:
        return not (self.search or self.kind or self.capability)

    def takes(self, card: ModelCard) -> bool:
        words = self.search.casefold().split()
        return (
            all(word in card.searched for word in words)
            and self.kind in {"", card.model.kind}
            and (not self.capability or self.capability in card.model.capabilities)
        )


def read_wanted(query: Mapping[str, str]) -> Wanted:
    return Wanted(*(query.get(name, "").strip()[:200] for name in ("search", "kind", "capability")))


def card_of(live: Live, entry: Entry, tier_id: str | None, speeds: Mapping[str | None, Speed]) -> ModelCard:
    model = entry.model
    said = {name: _text(model.card.get(name)) for name in ("editor", "parameters", "licence", "quantisation")}
    description = _text(model.card.get("description"))
    languages = model.card.get("languages")
    return ModelCard(
        model=model,
        state=live.state(entry),
        percent=live.percent(entry),
        speed=speeds.get(model.id, _UNKNOWN),
        prices=_prices(live.catalogue.price_of(model.id, tier_id)),
        facts={name: text for name, text in {**said, "description": description}.items() if text},
        languages=tuple(map(_text, languages)) if isinstance(languages, list) else (),
        energy=_text(model.card.get(CARD_KEY)) if entry.energy_rate else "",
    )


def capabilities_of(entries: Iterable[Entry]) -> list[str]:
    return sorted({name for entry in entries for name in entry.model.capabilities})


def programs(model: Model, base_url: str) -> list[tuple[str, str]]:
    """Title and text of programs that ask the model for something."""
    body: dict[str, Any]
    if model.kind is ModelKind.EMBEDDING:
        path, body = "embeddings", {"model": model.id, "input": "Hello!"}
    elif model.kind is ModelKind.COMPLETION:
        path, body = "completions", {"model": model.id, "prompt": "Once upon a time", "max_tokens": 64}
    elif model.kind is ModelKind.CHAT:
        path, body = "chat/completions", {"model": model.id, "messages": [{"role": "user", "content": "Hello!"}]}
    else:
        return []
    return [
        ("curl", _curl(base_url, path, body)),
        ("Python", _python(base_url, path, body)),
        ("JavaScript", _javascript(base_url, path, body)),
    ]


_CALLS = {"embeddings": "embeddings", "completions": "completions", "chat/completions": "chat.completions"}
_SHOWN = {
    "embeddings": "answer.data[0].embedding",
    "completions": "answer.choices[0].text",
    "chat/completions": "answer.choices[0].message.content",
}


def _curl(base_url: str, path: str, body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, indent=2).replace("'", "'\\''")
    lines = [
        f"curl {base_url}/{path}",
        '-H "authorization: Bearer $LLMAAS_KEY"',
        '-H "content-type: application/json"',
        f"-d '{text}'",
    ]
    return " \\\n  ".join(lines)


def _python(base_url: str, path: str, body: Mapping[str, Any]) -> str:
    given = "".join(f"    {name}={json.dumps(value, ensure_ascii=False)},\n" for name, value in body.items())
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(\n    base_url="{base_url}",\n    api_key=os.environ["LLMAAS_KEY"],\n)\n'
        f"answer = client.{_CALLS[path]}.create(\n{given})\nprint({_SHOWN[path]})"
    )


def _javascript(base_url: str, path: str, body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, indent=2)
    return (
        'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{\n  baseURL: "{base_url}",\n  apiKey: process.env.LLMAAS_KEY,\n}});\n'
        f"const answer = await client.{_CALLS[path]}.create({text});\nconsole.log({_SHOWN[path]});"
    )


def _prices(price: Price | None) -> list[tuple[str, int]]:
    if price is None:
        return []
    return [(word, nano) for word, name in PRICED if (nano := getattr(price, name))]


def _text(value: object) -> str:
    return str(value)[:_MAX_CHARS] if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def playable(live: Live) -> Sequence[Entry]:
    """What can be talked with, those that answer first."""
    return live.working_first(entry for entry in live.catalogue.listed() if entry.model.kind is ModelKind.CHAT)
