"""The API reference: made of both documents, for everybody, and with requests that can be tried from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from llmaas.console.application import build_litestar
from llmaas.console.pages.reference import marked
from llmaas.console.reference import Field, Operation, Reference, group_of
from llmaas.console.texts import Texts
from tests.console.browser import DESKTOP, PHONE, Console, Theme
from tests.console.lab import Lab
from tests.console.matrix import declared
from tests.console.reading import Reader, words
from tests.console.site import ORIGIN

_ENVELOPE: dict[str, Any] = {"schemas": {}, "responses": {}}


def _document(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    paths = {"/v1/chat/completions": {"post": {"operationId": "ask", "summary": "Ask.", "responses": {}, **operation}}}
    return {"paths": paths, "components": {"schemas": schemas}}


def _read(schema: dict[str, Any], **schemas: Any) -> Operation:
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    reference = Reference(_document(body, schemas), {"paths": {}, "components": _ENVELOPE})
    return reference.groups[0].operations[0]


def _field(schema: dict[str, Any], **schemas: Any) -> Field:
    (field,) = _read({"properties": {"it": schema}}, **schemas).body
    return field


@pytest.mark.parametrize(
    ("schema", "kind", "rule", "values"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 128}, "integer", "1 … 128", ()),
        ({"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}, "number | null", "≥ 0", ()),
        ({"type": ["string", "null"], "maxLength": 9}, "string | null", "≤ 9 characters", ()),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 4}, "array of string", "≤ 4 items", ()),
        ({"enum": ["a", "b"]}, "string", "", ("a", "b")),
        ({"oneOf": [{"const": "x"}, {"type": "array", "items": {}}]}, "string | array of any", "", ("x",)),
    ],
)
def test_types_are_told_in_words(schema: dict[str, Any], kind: str, rule: str, values: tuple[str, ...]) -> None:
    field = _field(schema)
    assert (field.kind, field.rule, field.values) == (kind, rule, values)


def test_a_type_that_holds_itself_is_shown_once() -> None:
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}},
    }
    field = _field({"$ref": "#/components/schemas/Tree"}, Tree=tree)
    assert [inner.name for inner in field.fields] == ["children"]
    assert field.fields[0].fields == ()


def test_of_a_union_only_what_all_have_is_required() -> None:
    text = {"properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}}, "required": ["type", "text"]}
    image = {"properties": {"type": {"enum": ["image"]}, "url": {"type": "string"}}, "required": ["type", "url"]}
    field = _field({"type": "array", "items": {"anyOf": [text, image]}})
    assert {inner.name: (inner.required, inner.values) for inner in field.fields} == {
        "type": (True, ("text", "image")),
        "text": (False, ()),
        "url": (False, ()),
    }


def test_an_example_holds_what_is_required() -> None:
    inner = {"properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    operation = _read(
        {
            "properties": {
                "email": {"type": "string"},
                "limits": {"type": "object", **inner},
                "note": {"type": "string"},
            },
            "required": ["email", "limits"],
        }
    )
    assert operation.example == {"email": "ana@example.org", "limits": {"n": 3}}


def test_A12_only_backticks_make_markup() -> None:
    assert str(marked("Send `a<b>` to <script>.")) == "Send <code>a&lt;b&gt;</code> to &lt;script&gt;."


async def test_every_route_is_in_the_reference(lab: Lab) -> None:
    routes = list(declared(build_litestar(lab.admin.services)))
    assert routes
    for route in routes:
        if route.path != "/api/openapi.json":
            assert group_of("admin", re.sub(r":\w+}", "}", route.path)) is not None, route.path


def test_an_operation_that_no_word_places_is_shown_all_the_same() -> None:
    operation = {"operationId": "readNovelty", "summary": "Novelty.", "responses": {}}
    novelty = {"components": {"schemas": {}}, "paths": {"/novelty": {"get": operation}}}
    reference = Reference(novelty, novelty)
    assert [(group.name, [one.id for one in group.operations]) for group in reference.groups] == [
        ("service", ["readNovelty"]),
        ("installation", ["readNovelty"]),
    ]


async def test_the_admin_document_tells_permissions_and_true_errors(lab: Lab) -> None:
    document = (await lab.admin.client().http.get("/api/openapi.json")).json()
    names = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"], path
            assert ("x-permission" in operation) is (operation.get("security") != []), path
            for status, answer in operation["responses"].items():
                assert (status < "400") or answer == {"$ref": f"#/components/responses/Error{status}"}, path
    assert len(names) == len(set(names))
    refused = await lab.admin.client().http.get("/api/v1/me")
    error = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(refused.json()["error"]) == set(error["required"])
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
        assert found


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_everybody_reads_it(lab: Lab, language: str) -> None:
    reader = Reader(lab.admin.client(), language)
    start = await reader.get("/docs")
    groups = [href for href in start.links.values() if href.startswith("/docs/")]
    assert len(groups) >= 10
    for href in groups:
        page = await reader.get(href)
        assert (page.status, page.root.get("lang")) == (200, language)
        sections = [part for part in page.main.iter("section") if part.get("class") == "operation"]
        assert sections, href
    assert (await reader.get("/docs/nothing")).status == 404


def _texts(fields: Iterable[Field]) -> Iterator[str]:
    for field in fields:
        yield from (field.note, field.rule, field.kind)
        yield from _texts(field.fields)


def _said(reference: Reference) -> set[str]:
    """All that the documents say to people."""
    operations = [operation for group in reference.groups for operation in group.operations]
    found = {text for one in operations for text in (one.title, one.note, one.body_note)}
    for one in operations:
        found |= {*_texts(one.body), *_texts(parameter.field for parameter in one.parameters)}
        for answer in one.answers:
            found |= {answer.note, *_texts(answer.fields)}
    return {text for text in found if re.search(r"[a-z]+ [a-z]+", text) or text.endswith(".")}


async def _reference(lab: Lab) -> Reference:
    document = (await lab.admin.client().http.get("/api/openapi.json")).json()
    return Reference(lab.admin.services.api_document, document)


@pytest.mark.parametrize("language", ["es", "fr"])
async def test_operations_are_described_in_the_language_of_the_reader(lab: Lab, language: str) -> None:
    reference, words_of = await _reference(lab), Texts().words(language)
    said = _said(reference)
    assert len(said) > 150
    assert sorted(text for text in said if words_of.described(text) == text) == []
    plain = {text for text in words_of.operations if "{" not in text or text in said}
    titles = {one.title for group in reference.groups for one in group.operations}
    assert plain - said - titles - {"≤ {count} characters", "≤ {count} items", "{first}array of {kinds}"} == set(), (
        "nobody says that any more"
    )
    english = {text.replace("`", "") for text in said | {title for title in titles if " " in title}}
    reader = Reader(lab.admin.client(), language)
    for group in reference.groups:
        page = await reader.get(f"/docs/{group.name}")
        assert [shown for part in page.main.iter() if (shown := words(part)) in english] == [], group.name


async def test_an_operation_tells_all_that_one_needs(lab: Lab) -> None:
    page = await Reader(lab.admin.client()).get("/docs/keys")
    assert "keys:create" in page.text
    assert f"curl {ORIGIN}/api/v1/projects/{{project_id}}/keys" in page.text
    assert '-H "authorization: Bearer $LLMAAS_TOKEN"' in page.text
    assert "requests_per_minute" in page.text
    assert "if-match" in page.text


browser = pytest.mark.asyncio(loop_scope="session")


@browser
@pytest.mark.parametrize(("width", "theme"), [(DESKTOP, "light"), (PHONE, "dark"), (PHONE, "light"), (DESKTOP, "dark")])
async def test_it_is_sound_in_a_browser(console: Console, width: int, theme: Theme) -> None:
    async with console.tab("", width=width, theme=theme, language="fr") as tab:
        for path in ("/docs", "/docs/inference", "/docs/projects"):
            response = await tab.go(path)
            assert len(await response.body()) < 150_000
            for box in await tab.page.query_selector_all("details"):
                await box.evaluate("box => (box.open = true)")
            assert await tab.overflow_px() <= 0, path
            assert await tab.severe_findings() == [], path
            assert await tab.all_faults() == [], path
    async with console.tab("", width=width, theme=theme) as tab:
        await tab.go("/docs/inference")
        assert await tab.layout_shift() < 0.01


@browser
async def test_a_request_is_tried_with_a_key_that_stays_in_the_page(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/docs/inference")
        box = tab.page.locator("#createChatCompletion [data-attempt]")
        await box.locator("summary").press("Enter")
        send, status, answer = box.locator("button.primary"), box.locator("[data-status]"), box.locator("[data-answer]")
        await send.click()
        await status.get_by_text("401").wait_for()
        await tab.page.fill("#credential", console.process.key)
        await send.click()
        await answer.get_by_text("[DONE]").wait_for()
        assert "chat.completion.chunk" in await answer.inner_text()
        assert await status.inner_text() == "200 OK"
        body = {"model": "granite3.3:8b", "messages": [{"role": "user", "content": "It's me"}], "max_tokens": 5}
        await box.locator("[data-body]").fill(json.dumps(body))
        await send.click()
        await answer.get_by_text('"object": "chat.completion"').wait_for()
        sample = await tab.page.inner_text("#createChatCompletion-sample")
        assert "It'\\''s me" in sample
        assert console.process.key not in sample
        await box.locator("[data-body]").fill("{")
        await send.click()
        await status.get_by_text("not valid JSON").wait_for()
        assert console.process.key not in await tab.page.content()
        stored = await tab.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert console.process.key not in stored
        assert await tab.all_faults() == []
        await tab.go("/docs/inference")
        assert await tab.page.input_value("#credential") == ""


@browser
async def test_parameters_go_where_they_belong(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/docs/catalogue")
        await tab.page.fill("#credential", console.process.key)
        box = tab.page.locator("#retrieveModel [data-attempt]")
        await box.locator("summary").click()
        await box.locator("button.primary").click()
        assert await box.locator("[data-outcome]").is_hidden()  # the browser asks for what is required
        await box.locator("input").fill("mistral-small:24b")
        await box.locator("button.primary").click()
        await box.locator("[data-answer]").get_by_text('"id": "mistral-small:24b"').wait_for()
        assert "/v1/models/mistral-small%3A24b" in await tab.page.inner_text("#retrieveModel-sample")


@browser
async def test_without_scripts_there_is_no_form_to_try(console: Console) -> None:
    async with console.tab("", scripts=False) as tab:
        await tab.go("/docs/inference")
        assert await tab.page.locator("#credential").is_hidden()
        assert await tab.page.locator("[data-attempt]").first.is_hidden()
        assert "curl" in await tab.text("#createChatCompletion")
