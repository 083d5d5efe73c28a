"""The playground in a real browser: streamed answers that are metered as any other, and model output that is only text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from llmaas.domain.audit import SYSTEM, AuditFilter
from llmaas.domain.usage import UsageRow
from tests.console.browser import DESKTOP, PHONE, Console, Tab, sign_in
from tests.console.demo import PASSWORD, PROJECT
from tests.fakes.behaviour import Behaviour, Call
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAYGROUND = f"/projects/{PROJECT}/playground"
GRANITE, CODER = "granite3.3:8b", "qwen2.5-coder:1.5b"
_HOSTILE = ("<script>document.title = 'taken'</script>", "<img src=x onerror=\"document.title='taken'\">", " **bold**")
_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest_asyncio.fixture(loop_scope="session")
async def tab(console: Console) -> AsyncIterator[Tab]:
    """The playground, opened by a developer. Whatever a test does, nothing complains."""
    async with console.tab("dev") as opened:
        await opened.go(f"{PLAYGROUND}?model={GRANITE}")
        yield opened
        assert await opened.all_faults() == []


@pytest.fixture
def upstream(console: Console) -> FakeUpstream:
    console.upstream.requests.clear()
    return console.upstream


async def ask(page: Page, text: str = "Hello!") -> None:
    await page.fill("#playground-text", text)
    await page.press("#playground-text", "Enter")


async def answered(page: Page, column: int = 0, turn: int = 0) -> dict[str, str]:
    """The figures of an answer, as soon as it has them."""
    box = page.locator("[data-column]").nth(column).locator("[data-turn=assistant]").nth(turn)
    await expect(box.locator("[data-figures]")).to_be_visible(timeout=15_000)
    names = await box.locator("[data-figures] dt").all_inner_texts()
    values = await box.locator("[data-figures] dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


async def row_of(console: Console, model: str) -> UsageRow:
    rows = [row for row in await console.process.rows() if not row.id.startswith("chatcmpl-demo")]
    assert rows[0].model_id == model
    return rows[0]


async def revoked(console: Console, kid: str) -> None:
    """Returns when the key is."""
    installation = await console.process.installation()
    async with asyncio.timeout(10):
        while (key := await installation.keys.get(kid)) is None or key.revoked_ms is None:
            await asyncio.sleep(0.02)


async def test_an_answer_streams_and_is_metered_as_any_other(
    console: Console, tab: Tab, upstream: FakeUpstream
) -> None:
    upstream.script(Behaviour(tokens=4, pieces=("One ", "two ", "three ", "four."), pause_at=(3,), flavour="vllm"))
    await ask(tab.page, "Count to four.")
    prose = tab.page.locator("[data-turn=assistant] [data-prose]")
    await expect(prose).to_have_text("One two")  # while the rest is not made yet
    await upstream.release()
    figures = await answered(tab.page)
    await expect(prose).to_have_text("One two three four.")
    row = await row_of(console, GRANITE)
    assert (row.project_id, row.outcome, row.output_tokens) == (PROJECT, "completed", 4)
    assert figures["Output"] == "4"
    assert figures["Made by"].startswith(row.machine_name or "?")
    assert figures["First token"].endswith("ms")
    assert "EUR" in figures["Cost"]
    installation = await console.process.installation()
    key = await installation.keys.get(row.key_id)
    assert key is not None
    assert (key.name, key.owner_id) == ("playground", "user-dev")
    assert key.expires_ms is not None


async def test_a_tab_has_one_key_until_its_reader_signs_out(console: Console) -> None:
    async with console.tab() as opened:
        await sign_in(opened, "dev@example.org")
        for turn in range(2):
            await opened.go(PLAYGROUND)
            await ask(opened.page)
            await answered(opened.page, turn=turn)
        rows = await console.process.rows()
        assert rows[0].key_id == rows[1].key_id
        await opened.go(f"/projects/{PROJECT}/keys")
        assert rows[0].key_id not in await opened.text()
        await opened.click('form[action="/sign-out"] button')
        await revoked(console, rows[0].key_id)
        assert await opened.page.evaluate("sessionStorage.length") == 0
        installation = await console.process.installation()
        acts = await installation.audit.page(AuditFilter(subject_id=rows[0].key_id), before=None, limit=10)
        assert [line.act.action for line in acts] == ["key.revoke", "key.create"]


async def test_leaving_keeps_the_conversation(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    await page.fill("[name=system]", "Be short.")
    await ask(page, "First?")
    await answered(page)
    await page.fill("#playground-text", "half a")
    await tab.go("/profile")
    await tab.go(f"{PLAYGROUND}")
    assert await page.input_value("#playground-text") == "half a"
    assert await page.input_value("[name=system]") == "Be short."
    await expect(page.locator("[data-turn=user] [data-text]")).to_have_text("First?")
    await expect(page.locator("[data-prose]")).to_contain_text("gateway")
    await ask(page, "Second?")
    await answered(page, turn=1)
    assert [message["role"] for message in upstream.last.json["messages"]] == ["system", "user", "assistant", "user"]
    await page.click("[data-clear]")
    await tab.go("/profile")
    await tab.go(PLAYGROUND)
    assert await page.locator("[data-turn]").count() == 0


async def test_a_question_without_an_answer_goes_along_with_no_other(tab: Tab, upstream: FakeUpstream) -> None:
    upstream.script(*[Behaviour(status=500, body=b"{}")] * 3)
    await ask(tab.page, "Lost?")
    await expect(tab.page.locator("[data-fault]").first).to_be_visible(timeout=15_000)
    await ask(tab.page, "Found?")
    await answered(tab.page, turn=1)
    assert [message["content"] for message in upstream.last.json["messages"]] == ["Found?"]


@pytest.mark.parametrize(
    ("said", "thought", "answer"),
    [
        (("<think>", "Hm, ", "well.", "</think>", "\n\nYes."), "Hm, well.", "Yes."),
        (("Hm, ", "well.\n", "</think>", "\n\nYes."), "Hm, well.", "Yes."),
        (("<thinking>Hm", "</thinking>Yes."), "Hm", "Yes."),
        (("[THINK]Hm[/THINK]", "Yes."), "Hm", "Yes."),
        (("The tag `<think>` ", "is a tag."), "", "The tag `<think>` is a tag."),
    ],
)
async def test_thoughts_between_tags_stand_apart(
    tab: Tab, upstream: FakeUpstream, said: tuple[str, ...], thought: str, answer: str
) -> None:
    upstream.script(Behaviour(tokens=len(said), pieces=said, flavour="vllm"))
    await ask(tab.page)
    await answered(tab.page)
    await expect(tab.page.locator("[data-prose]")).to_have_text(answer)
    assert (await tab.page.locator("[data-reasoning] [data-text]").text_content() or "").strip() == thought
    await ask(tab.page)
    await answered(tab.page, turn=1)
    assert upstream.last.json["messages"][1]["content"] == answer


async def test_no_rate_is_told_of_a_burst(tab: Tab, upstream: FakeUpstream) -> None:
    upstream.script(Behaviour(tokens=5, burst=True, flavour="vllm"))
    await ask(tab.page)
    figures = await answered(tab.page)
    assert figures["Output"] == "5"
    assert "Tokens/s" not in figures


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
async def test_the_line_of_figures_and_what_follows_it_are_in_sight(console: Console, width: int) -> None:
    async with console.tab("dev", width=width) as opened:
        await opened.go(PLAYGROUND)
        for turn in range(3):
            await ask(opened.page)
            await answered(opened.page, turn=turn)
        end = opened.page.locator("[data-actions]").last
        await expect(end).to_be_visible()
        bottom = "e => e.getBoundingClientRect().bottom"
        thread = opened.page.locator("[data-thread]").first
        assert await end.evaluate(bottom) <= await thread.evaluate(bottom)


async def test_who_is_signed_out_is_told_so_with_a_way_back(console: Console) -> None:
    async with console.tab() as opened:
        await sign_in(opened, "dev@example.org")
        await opened.go(PLAYGROUND)
        await opened.page.context.clear_cookies()
        await ask(opened.page, "Am I here?")
        fault = opened.page.locator("[data-fault]").first
        await expect(fault).to_contain_text("You are signed out.")
        await opened.click("[data-fault] a")
        await opened.page.fill("#email", "dev@example.org")
        await opened.page.fill("#password", PASSWORD)
        await opened.click("main button.primary")
        assert opened.path == PLAYGROUND


async def test_a_model_that_is_not_there_is_said_to_be_missing(console: Console) -> None:
    async with console.tab("dev") as opened:
        await opened.go(f"{PLAYGROUND}?model=nosuch")
        assert "There is no chat model nosuch." in await opened.text()
        await opened.go(f"{PLAYGROUND}?model=granite")
        assert "There is no chat model" not in await opened.text()


async def test_A12_what_a_model_writes_is_only_text(tab: Tab, upstream: FakeUpstream) -> None:
    upstream.script(Behaviour(tokens=3, pieces=_HOSTILE, flavour="vllm"))
    await ask(tab.page, "<b>me</b>")
    await answered(tab.page)
    thread = tab.page.locator("[data-thread]").first
    assert await thread.locator("img, script, b, a").count() == 0
    text = await thread.inner_text()
    assert "<script>document.title" in text
    assert "<b>me</b>" in text
    assert "taken" not in await tab.page.title()


async def test_stopping_stops_the_engine_and_keeps_what_came(
    console: Console, tab: Tab, upstream: FakeUpstream
) -> None:
    upstream.script(Behaviour(tokens=500, pieces=("word ",), chunk_pause_ms=20, flavour="vllm"))
    await ask(tab.page)
    await expect(tab.page.locator("[data-prose]")).to_contain_text("word word")
    await tab.page.click("[data-stop]")
    await upstream.wait_cancelled()
    figures = await answered(tab.page)
    assert 0 < int(figures["Output"]) < 500
    assert (await row_of(console, GRANITE)).outcome == "client_aborted"
    await ask(tab.page, "And now?")
    await answered(tab.page, turn=1)
    messages = upstream.last.json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]


async def test_an_answer_is_made_anew_in_place_of_the_last(tab: Tab, upstream: FakeUpstream) -> None:
    upstream.script(Behaviour(tokens=1, pieces=("first",)), Behaviour(tokens=1, pieces=("second",)))
    await ask(tab.page)
    await answered(tab.page)
    await tab.page.click("[data-again]:visible")
    await expect(tab.page.locator("[data-prose]")).to_have_text("second")
    await answered(tab.page)
    assert [message["role"] for message in upstream.last.json["messages"]] == ["user"]
    assert await tab.page.locator("[data-turn=assistant]").count() == 1


async def test_parameters_go_into_the_request(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    await page.fill("[name=system]", "Be short.")
    await page.fill("[name=temperature]", "0.3")
    await page.fill("[name=max_tokens]", "64")
    await page.click("details.more:has([name=top_p]) > summary")
    await page.fill("[name=seed]", "7")
    await page.fill("[name=stop]", "END\n\nSTOP")
    await page.select_option("[name=format]", "json_schema")
    await page.fill("[name=schema]", '{"type": "object"}')
    await ask(page)
    await answered(page)
    sent = upstream.last.json
    assert sent["messages"][0] == {"role": "system", "content": "Be short."}
    assert (sent["temperature"], sent["max_tokens"], sent["seed"], sent["stop"]) == (0.3, 64, 7, ["END", "STOP"])
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("field", "value", "opened"),
    [
        ("temperature", "9", ""),
        ("tools", "{}", "tools"),
        ("tools", "not json", "tools"),
        ("stop", "a\nb\nc\nd\ne", "top_p"),
    ],
)
async def test_a_wrong_parameter_is_told_beside_its_field_and_nothing_is_sent(
    tab: Tab, upstream: FakeUpstream, field: str, value: str, opened: str
) -> None:
    page = tab.page
    if opened:
        await page.click(f"details.more:has([name={opened}]) > summary")
    await page.fill(f"[name={field}]", value)
    await ask(page)
    await expect(page.locator(f"#playground-{field}-fault")).to_be_visible()
    assert await page.get_attribute(f"[name={field}]", "aria-invalid") == "true"
    assert await page.input_value("#playground-text") == "Hello!"
    assert not upstream.requests


async def test_a_function_that_is_called_gets_its_result(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    await page.click("details.more:has([name=tools]) > summary")
    await page.fill("[name=tools]", json.dumps(_TOOLS))
    upstream.script(Behaviour(calls=(Call(name="weather", arguments='{"city": "Vigo"}'),), flavour="vllm"))
    await ask(page, "How is the weather?")
    await expect(page.locator("[data-calls]")).to_have_text('weather({"city": "Vigo"})')
    await page.fill(".turn-results textarea", "sunny")
    await page.click("[data-send-results]")
    await answered(page, turn=1)
    messages = upstream.last.json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[2]["content"] == "sunny"
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]


async def test_two_models_answer_side_by_side(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    await page.click("[data-compare]")
    await page.select_option("#playground-model-1", CODER)
    await ask(page)
    await answered(page, column=0)
    await answered(page, column=1)
    assert sorted(record.model or "" for record in upstream.requests) == sorted([GRANITE, CODER])
    await page.click("[data-compare]")
    await expect(page.locator("[data-column]").nth(1)).to_be_hidden()


async def test_a_refusal_is_told_and_the_next_request_goes_on(tab: Tab, upstream: FakeUpstream) -> None:
    upstream.script(*[Behaviour(status=500, body=b"{}")] * 3)
    await ask(tab.page)
    await expect(tab.page.locator("[data-fault]").first).to_be_visible(timeout=15_000)
    assert await tab.page.locator("[data-fault]").first.inner_text()
    await tab.page.click("[data-again]:visible")
    await expect(tab.page.locator("[data-prose]").last).to_contain_text("gateway")


async def test_a_key_that_was_revoked_meanwhile_is_made_anew(console: Console, tab: Tab) -> None:
    await ask(tab.page)
    await answered(tab.page)
    installation = await console.process.installation()
    kid = (await console.process.rows())[0].key_id
    await installation.keys.revoke(kid, installation.clock.now_ms(), by=SYSTEM)
    await tab.page.wait_for_timeout(1_200)
    await ask(tab.page, "Still there?")
    await answered(tab.page, turn=1)
    assert (await console.process.rows())[0].key_id != kid


async def test_the_code_is_what_was_sent(tab: Tab) -> None:
    await ask(tab.page, "It's a test")
    await answered(tab.page)
    await tab.page.click("[data-show-export]")
    program = tab.page.locator("#playground-program")
    assert "curl " in await program.inner_text()
    await tab.page.click("[data-export] label:has-text('Python')")
    text = await program.inner_text()
    compile(text, "program", "exec")
    assert "It's a test" in text
    assert GRANITE in text
    await tab.page.keyboard.press("Escape")
    await expect(tab.page.locator("[data-export]")).to_be_hidden()


async def test_by_keyboard_alone(tab: Tab) -> None:
    page = tab.page
    await page.focus("#playground-text")
    await page.keyboard.type("Hello")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("there")
    await page.keyboard.press("Enter")
    await answered(page)
    assert await page.locator("[data-turn=user] [data-text]").inner_text() == "Hello\nthere"
    await page.focus("[data-copy-answer]:visible")
    await page.keyboard.press("Tab")
    assert await page.locator("[data-again]:focus").count() == 1


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_conversation_is_accessible_and_fits(console: Console, width: int, theme: str) -> None:
    async with console.tab("dev", width=width, theme="dark" if theme == "dark" else "light") as opened:
        await opened.go(PLAYGROUND)
        await ask(opened.page)
        await answered(opened.page)
        assert await opened.severe_findings() == []
        assert await opened.overflow_px() == 0
        assert await opened.all_faults() == []


async def test_A01_a_viewer_may_look_and_not_ask(console: Console) -> None:
    async with console.tab("viewer") as opened:
        await opened.go(PLAYGROUND)
        assert await opened.page.locator("#playground-text").count() == 0
        assert "As a viewer" in await opened.text()
        for path in (
            f"/projects/{PROJECT}/overview",
            f"/projects/{PROJECT}/models",
            f"/projects/{PROJECT}/models/{GRANITE}",
        ):
            await opened.go(path)
            assert await opened.page.locator("a[href*=playground]").count() == 0, path


async def test_without_scripts_the_page_says_what_it_needs(console: Console) -> None:
    async with console.tab("dev", scripts=False) as opened:
        await opened.go(PLAYGROUND)
        assert "needs JavaScript" in await opened.text()
        assert await opened.page.is_disabled("#playground-text")
