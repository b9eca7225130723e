"""The web page in Debian's Chromium: against the real server, and against answers made up for a case."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx
import pytest

from tests.serving.browsing import (
    answer_in,
    answered,
    ask,
    chromium_browser,
    opened_page,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


class Server(Protocol):
    """What the `server` fixture gives."""

    url: str
    questions: list[str]


INJECTED: Final = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module."""
    with chromium_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The server's page."""
    with opened_page(browser, server.url) as page:
        yield page


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def reply_with(page: Page, *replies: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer the page's next questions with these; returns what it asks, as it asks."""
    left = list(replies)
    asked: list[dict[str, Any]] = []

    def reply(route: Route) -> None:
        question = route.request.post_data_json["question"]  # type: ignore[index]
        asked.append({"question": question, "key": route.request.headers.get("authorization")})
        route.fulfill(**{"content_type": "text/event-stream", **left.pop(0)})

    page.route("**/v1/answer", reply)
    return asked


def refusal(status: int, message: str, **headers: str) -> dict[str, Any]:
    """A refused request, as the API refuses one."""
    error = {"error": {"message": message, "type": "t", "code": "c", "param": None}}
    return {"status": status, "json": error, "content_type": "application/json", "headers": headers}


def one_step(title: str, text: str, rationale: str, answer: str) -> str:
    """The events of a question answered in one step."""
    passage = {"id": "p1", "title": title, "text": text, "score": 3.25}
    numbers = {"prompt_tokens": 90, "generated_tokens": 9, "cached_tokens": 30}
    step = {
        "step": 1,
        "ability": "agg",
        "query": "asked",
        "passages": [passage],
        "rationale": rationale,
        "dropped_passages": 0,
        "search_seconds": 0.004,
        "generate_seconds": 0.2,
        **numbers,
    }
    end = {
        "answer": answer,
        "stop_reason": "forced",
        "steps": [step],
        "seconds": 0.7,
        "model": "student",
        "corpus_version": "10387e3b21",
        "overrides": {},
        **numbers,
    }
    return "".join(
        [
            ": keep-alive\n\n",
            event("search", {"step": 1, "query": "asked"}),
            event("passages", {"step": 1, "passages": [passage], "seconds": 0.004}),
            event("token", {"step": 1, "text": rationale}),
            event("step", step),
            event("answer", end),
        ]
    )


def test_a_question_streams_step_by_step_and_its_words_lead_to_passages(
    page: Page, server: Server
) -> None:
    from playwright.sync_api import expect

    ready = httpx.get(f"{server.url}/readyz").json()
    assert re.fullmatch("[0-9a-f]{12}", ready["model_version"])
    versions = (
        f"{ready['model']} {ready['model_version'][:10]} · corpus {ready['corpus_version'][:10]}"
    )
    expect(page.get_by_role("banner")).to_contain_text(f"Model {versions}")
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => window.seen.push(document.querySelector("#result").innerText);
            new MutationObserver(look).observe(document.querySelector("#result"),
                { childList: true, subtree: true, characterData: true });
        }"""
    )
    ask(page, server.questions[0])
    expect(page.get_by_role("region", name=re.compile("^Step 1"))).to_be_visible()
    answered(page)
    seen = page.evaluate("window.seen")
    assert any("In progress…" in text for text in seen)  # a step was on screen before it was whole
    headings = page.get_by_role("heading", name=re.compile("^Step ")).all_inner_texts()
    earlier = ["Initialization", *["Expansion"] * len(headings)][: len(headings) - 1]
    assert [heading.split()[-1] for heading in headings] == [*earlier, "Aggregation"]
    assert page.get_by_role("table").get_by_role("row").count() == 1 + len(headings)
    assert answer_in(page).strip()
    expect(page.get_by_role("region", name="Answer")).to_contain_text(
        re.compile(r"\d (s|ms) · \d step")
    )

    link = page.locator(".sentence a").first
    words, target = link.inner_text(), link.get_attribute("href")
    link.click()
    passage = page.locator(str(target))
    expect(passage).to_be_focused()
    assert passage.locator("mark").first.inner_text().lower() == words.lower()
    passage.get_by_role("button", name="Back to the sentence").click()
    expect(link).to_be_focused()
    assert page.locator("mark").count() == 0


def test_an_earlier_question_is_shown_again_without_asking(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    asked = reply_with(
        page,
        {"body": one_step("A", "It is in Delft.", "It is in Delft.", "Delft")},
        {"body": one_step("B", "It is in Gouda.", "It is in Gouda.", "Gouda")},
    )
    ask(page, "Where is A?")
    answered(page)
    ask(page, "Where is B?")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Gouda")
    page.reload()
    page.get_by_role("complementary").get_by_role("button", name="Where is A?").click()
    expect(page.get_by_role("heading", name="Where is A?")).to_be_focused()
    assert answer_in(page) == "Delft"
    assert page.locator(".sentence a").all_inner_texts() == ["Delft"]
    assert page.get_by_role("complementary").get_by_role("listitem").count() == 2
    assert [body["question"] for body in asked] == ["Where is A?", "Where is B?"]


def test_errors_say_what_to_do(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    alert = page.get_by_role("alert")
    expect(page.get_by_role("banner")).to_contain_text("Model")  # by now the limit is known
    page.evaluate("document.querySelector('#question').value = 'x'.repeat(5000)")
    page.get_by_role("button", name="Ask").click()
    expect(alert).to_contain_text("ask again")  # the real server's refusal
    expect(alert.get_by_role("button", name="Retry")).to_have_count(0)

    whole = one_step("A", "It is in Delft.", "It is in Delft.", "Delft")
    died = event("error", {"error": {"message": "the engine died", "type": "t", "code": "c"}})
    asked = reply_with(
        page,
        refusal(429, "all places are taken", **{"Retry-After": "7"}),
        {"body": whole[: whole.index("event: step")]},
        {"body": whole[: whole.index("event: step")] + died},
        refusal(401, "this key is not known"),
        {"body": whole},
    )
    ask(page, "Where is A?")
    expect(alert).to_contain_text("all places are taken")
    expect(alert).to_contain_text("in 7 seconds")
    alert.get_by_role("button", name="Retry").click()
    expect(alert).to_contain_text("connection was lost")
    expect(page.get_by_role("region", name="Step 1 Unfinished")).to_contain_text("It is in Delft.")
    alert.get_by_role("button", name="Retry").click()
    expect(alert).to_contain_text("the engine died")
    alert.get_by_role("button", name="Retry").click()
    expect(alert).to_contain_text("this key is not known")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("sk-1")
    page.keyboard.press("Enter")
    answered(page)
    expect(alert).to_have_count(0)
    assert [body["key"] for body in asked] == [None] * 4 + ["Bearer sk-1"]
    assert "sk-1" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


def test_html_is_shown_as_text(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    text = f"Delft {INJECTED}"
    reply_with(page, {"body": one_step(text, text, f"It is in {text}.", text)})
    title = page.title()
    ask(page, INJECTED)
    answered(page)
    assert answer_in(page) == text
    page.locator(".sentence a").first.click()  # marking words rewrites the passage
    expect(page.locator("mark").first).to_be_visible()
    page.get_by_role("complementary").get_by_role("listitem").get_by_role("button").click()
    expect(page.get_by_role("heading", level=2).first).to_have_text(INJECTED)
    assert page.locator("img").count() == 0
    assert page.title() == title


def test_what_is_not_supported_is_marked(page: Page) -> None:
    from playwright.sync_api import expect

    events = one_step("Kek", "Kek is in Zalk.", "Kek is in Béa-Stümum.", "Béa-Stümum")
    events = events.replace(
        '"rationale":',
        '"unsupported": ["B\\u00e9a-St\\u00fcmum"], "mean_logprob": -0.25, "rationale":',
    ).replace('"stop_reason":', '"supported": false, "unknown_names": [], "stop_reason":')
    reply_with(page, {"body": events})
    ask(page, "Where is Kek?")
    answered(page)
    marked = page.locator("mark.unsupported")
    expect(marked).to_have_text(["Béa-Stümum", "Béa-Stümum"])
    expect(page.get_by_role("region", name="Answer")).to_contain_text("Not supported")
    expect(page.locator(".sentence a")).to_have_text(["Kek"])
    expect(page.get_by_role("table")).to_contain_text("-0.25")


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    reply_with(page, {"body": one_step("A", "It is in Delft.", "It is in Delft.", "Delft")})
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    page.keyboard.type("Where is A?")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    page.keyboard.press("Enter")
    answered(page)
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("Answer: Delft")
    for _ in range(4):  # past the comparison and what copies
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Delft, in passage A")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("listitem").filter(has_text="p1 · score 3.25")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Delft, in passage A")).to_be_focused()


def test_stop_ends_the_request(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    page.route("**/v1/answer", lambda _route: None)  # never answered
    with page.expect_request("**/v1/answer") as asked:
        ask(page, "Where is A?")
    with page.expect_event("requestfailed") as ended:
        page.get_by_role("button", name="Stop").click()
    assert ended.value == asked.value
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_narrow_and_dark(page: Page, server: Server) -> None:
    long = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch" * 2
    reply_with(page, {"body": one_step(long, long, f"It is in {long}.", long)})
    page.set_viewport_size({"width": 320, "height": 640})
    ask(page, long)
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 320

    def brightness(of: str) -> float:
        colour = page.evaluate(f"getComputedStyle(document.body).{of}")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3

    page.emulate_media(color_scheme="light")
    assert brightness("backgroundColor") > 200 > 80 > brightness("color")
    page.emulate_media(color_scheme="dark")
    assert brightness("backgroundColor") < 50 < 200 < brightness("color")


def test_the_api_is_described_and_can_be_tried(page: Page, server: Server) -> None:
    from playwright.sync_api import expect

    page.goto(f"{server.url.rstrip('/')}/docs")
    search = page.locator(".opblock").filter(has=page.get_by_text("/v1/search", exact=True))
    search.get_by_role("button").first.click()
    search.get_by_role("button", name="Try it out").click()
    search.get_by_role("textbox").fill(json.dumps({"query": server.questions[0], "k": 2}))
    search.get_by_role("button", name="Execute").click()
    reply = search.locator(".live-responses-table")
    expect(reply.locator(".response-col_status").last).to_have_text("200")
    expect(reply).to_contain_text("corpus_version")
