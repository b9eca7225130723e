"""The web page in Chromium over a scripted backend, under a prefix: history, links, copies, comparison."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.markdown import MARKDOWN
from tests.serving.backend import ScriptedBackend, api_over, on_loopback, service_over
from tests.serving.browsing import answer_in, answered, ask, chromium_browser, opened_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

WRITTEN: Final = ["It is in ", "<b>Gouda</b>."]
"""By the plain model."""


def chunk(**choice: Any) -> str:
    """An event of a chat completion."""
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


CHATTING: Final = [
    *(chunk(delta={"content": piece}) for piece in WRITTEN),
    chunk(delta={}, finish_reason="stop"),
    "data: [DONE]\n\n",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module."""
    with chromium_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Address of the page, under a prefix as with `serve.route_prefix`; it stands twice."""
    api = api_over(service_over(ScriptedBackend(chatting=CHATTING)))
    app = Starlette(routes=[Mount("/student", api), Mount("/other", api)])
    addresses: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with on_loopback(app) as address:
            addresses.append(address)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert started.wait(60)
    yield f"{addresses[0]}/student"  # the server adds the slash
    ended.set()
    thread.join()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page."""
    with opened_page(browser, url) as page:
        yield page


def asked_by(page: Page) -> list[str]:
    """What the page asks of models from now on, as it asks."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            asked.append(request.url.partition("/student/")[2])

    page.on("request", note)
    return asked


def earlier(page: Page) -> list[str]:
    """The earlier questions that the page lists."""
    return (
        page.get_by_role("complementary")
        .get_by_role("button")
        .locator("span")
        .all_inner_texts()[::2]
    )


def test_what_was_answered_outlives_the_tab_and_is_cleared_at_once(page: Page, url: str) -> None:
    from playwright.sync_api import expect

    ask(page, "Where is Bob?")
    answered(page)
    other_tab = page.context.new_page()
    other_tab.goto(f"{url}/")
    asked = asked_by(other_tab)
    other_tab.get_by_role("complementary").get_by_role("button", name="Where is Bob?").click()
    expect(other_tab.get_by_role("heading", name="Where is Bob?")).to_be_focused()
    assert answer_in(other_tab) == "Delft"
    other_tab.reload()  # still shown
    assert answer_in(other_tab) == "Delft"
    other_tab.goto(url.replace("student", "other"))
    assert earlier(other_tab) == []  # another server of the same host
    other_tab.goto(url)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("The earlier questions are removed.")
    expect(other_tab.get_by_role("button", name="Clear")).to_be_hidden()
    page.reload()
    assert (earlier(page), asked) == ([], [])
    assert "Bob" not in page.evaluate("JSON.stringify(localStorage) + location")


def test_what_is_kept_is_bounded_and_old_or_broken_entries_do_no_harm(page: Page) -> None:
    keep = "(entries) => localStorage.setItem('steper./student/.earlier', JSON.stringify(entries))"
    ask(page, "Where is Bob?")
    answered(page)
    old = {"answer": "Zalk", "steps": [], "padding": "x" * 45_000}
    page.evaluate(keep, [{"question": f"{n}?", "answer": old} for n in range(100)])
    page.reload()
    ask(page, "Where is Ada?")
    answered(page)
    assert earlier(page) == ["Where is Ada?", *(f"{n}?" for n in range(49))]
    sizes = (
        "[JSON.stringify(localStorage).length, JSON.parse(Object.values(localStorage)[0]).length]"
    )
    size, entries = page.evaluate(sizes)
    assert 1_900_000 < size < 2_100_000
    assert entries > 40  # the newest of them
    page.evaluate(keep, [{"no": "question"}, None])
    page.reload()
    assert earlier(page) == []


def test_a_link_fills_in_its_question_and_asks_nothing(
    page: Page, browser: Browser, url: str
) -> None:
    from playwright.sync_api import expect

    ask(page, "Who lives where? & why # 1+1")
    answered(page)
    page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("status")).to_have_text("The link to the question is copied.")
    link = page.evaluate("window.copied")
    assert link == page.url
    assert link.startswith(f"{url}/#q=")

    reader = browser.new_page()  # with a history of its own
    asked = asked_by(reader)
    reader.goto(link)
    expect(reader.get_by_role("textbox")).to_have_value("Who lives where? & why # 1+1")
    expect(reader.get_by_role("status")).to_contain_text("Press Ask")
    expect(reader.get_by_role("banner")).to_contain_text("Model")
    assert asked == []
    reader.get_by_role("textbox").fill("A draft")
    reader.evaluate("location.hash = 'q=Another'")
    expect(reader.get_by_role("textbox")).to_have_value("A draft")
    reader.get_by_role("button", name="Ask").click()
    answered(reader)
    assert asked == ["v1/answer"]
    reader.close()


def test_an_answer_is_copied_as_markdown_in_which_nothing_of_it_is_markup(page: Page) -> None:
    from playwright.sync_api import expect

    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )  # as without https
    page.evaluate(
        "document.addEventListener('copy', () => { window.copied = document.activeElement.value; })"
    )
    ask(page, "*Where* is <b>Bob</b>? [x](y)")
    answered(page)
    copy = page.get_by_role("button", name="Copy as Markdown")
    copy.click()
    expect(page.get_by_role("status")).to_have_text("The answer is copied as Markdown.")
    expect(copy).to_be_focused()
    lines = MARKDOWN.render(page.evaluate("window.copied")).splitlines()
    assert lines == [
        "<h2>*Where* is &lt;b&gt;Bob&lt;/b&gt;? [x](y)</h2>",
        "<p><strong>Answer:</strong> Delft</p>",
        "<p><em>Not supported: words of its steps stand in no passage.</em></p>",
        "<h3>Step 1: Initialization</h3>",
        "<p>Searched for: *Where* is &lt;b&gt;Bob&lt;/b&gt;? [x](y)</p>",
        "<p>Passages:</p>",
        "<ul>",
        "<li>ADA (ada)</li>",
        "<li>BOB (bob)</li>",
        "</ul>",
        "<p>Ada knows Bob.</p>",
        "<h3>Step 2: Aggregation</h3>",
        "<p>Searched for: Ada knows Bob.</p>",
        "<p>Passages:</p>",
        "<ul>",
        "<li>CY (cy)</li>",
        "</ul>",
        "<p>Bob lives in Delft. So the answer is: Delft.</p>",
        "<p><em>In no passage, earlier step or the question: Delft.</em></p>",
        "<p>Model student s1, corpus v1</p>",
    ]


def test_the_model_alone_answers_beside_the_student(page: Page) -> None:
    from playwright.sync_api import expect

    asked = asked_by(page)
    page.get_by_role("checkbox", name="Compare with the model alone").check()
    ask(page, "Where is Bob?")
    alone = page.get_by_role("region", name="The model alone")
    expect(alone).to_contain_text("It is in <b>Gouda</b>.")
    answered(page)
    assert sorted(asked) == ["v1/answer", "v1/chat/completions"]
    expect(page.get_by_role("status")).to_have_text(
        "Answer: Delft. The model alone: It is in <b>Gouda</b>."
    )
    page.reload()  # kept with the answer
    expect(alone).to_contain_text("It is in <b>Gouda</b>.")

    error = {"error": {"message": "this key is not for the plain model"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=403, json=error))
    page.get_by_role("checkbox").check()
    ask(page, "Where is Ada?")
    expect(page.get_by_role("heading", name="Where is Ada?")).to_be_visible()
    answered(page)
    expect(alone).to_contain_text("not for the plain model")
    assert answer_in(page) == "Delft"
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(page: Page) -> None:
    ask(page, "Where is Bob?")
    answered(page)
    page.locator(".passage .text").first.evaluate(
        "(text) => { text.textContent = 'word '.repeat(900); }"
    )
    page.locator(".passage .text[tabindex='0']").wait_for()  # so that the keyboard scrolls it
    page.get_by_role("textbox").focus()
    look = """() => {
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        const { tagName, className, textContent } = document.activeElement;
        const seen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
        return [seen, tagName, className || textContent];
    }"""
    reached: list[Any] = []
    while not reached or reached[-1][1] != "BODY":
        page.keyboard.press("Tab")
        reached.append(page.evaluate(look))
    *reached, _body = reached
    assert all(seen for seen, _, _ in reached), reached
    kinds = [tag for _, tag, _ in reached]
    assert kinds[:4] == ["BUTTON", "INPUT", "BUTTON", "BUTTON"]  # Ask, Compare, what copies
    assert kinds[-3:] == ["DIV", "BUTTON", "BUTTON"]  # the wide table, an earlier question, Clear
    assert {"A", "P"} <= set(kinds)  # words that lead to passages, and a passage that scrolls


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, scheme: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect

    def look(where: str) -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, f"{where}: {found.generate_report()}"

    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    expect(page.get_by_role("banner")).to_contain_text("Model")
    look("empty")
    page.get_by_role("checkbox").check()
    ask(page, "Where is Bob?")
    answered(page)
    page.locator(".sentence a").first.click()
    look("answered")
    page.set_viewport_size({"width": 320, "height": 640})
    look("narrow")
    error = {"error": {"message": "this key is not known"}}
    page.route("**/v1/answer", lambda route: route.fulfill(status=401, json=error))
    ask(page, "Where is Ada?")
    expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
    look("refused")
