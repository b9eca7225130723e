"""An evaluation's chains in Chromium, from disk: search, filters, two models side by side, links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from steper_ray.evaluation.answer import as_rows
from steper_ray.evaluation.summary import summarize
from steper_ray.reports.chain_browser import PACKED
from steper_ray.reports.evaluation_page import report_role, write_evaluation_page
from steper_ray.reports.evaluation_tables import ModelReport
from steper_ray.schema import Chain, Passage
from tests.samples import CHAIN, numbered, step
from tests.serving.browsing import chromium_browser, opened_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NUMBER: Final = 3 * PACKED
HOSTILE: Final = "<img src=x onerror=alert(1)>"


def answered(number: int, right: bool, **values: Any) -> Chain:
    """The chain of a question that is right, or takes another turn in its second step and is wrong."""
    (chain,) = numbered([number], question=f"Who is mayor {number}? {HOSTILE}", **values)
    if right:
        return chain
    steps = (
        chain.steps[0],
        step("Kek Bibro praised New Harbour in 1984.", "p2"),
        step("So the answer is: Nobody.", "p3"),
    )
    return replace(chain, steps=steps, answer=f"Nobody {HOSTILE}", em=0.0, right=0.0)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student is wrong in each tenth question, the teacher in each hundredth; the last chain failed."""
    passages = (Passage("p1", HOSTILE, f"It is {HOSTILE}."), *CHAIN.passages[1:])
    students = [answered(n, n % 10 != 0, passages=passages) for n in range(NUMBER)]
    students[5] = replace(students[5], hops=2, type="bridge", stop_reason="forced")
    students[-1] = replace(students[-1], error="too long", em=0.0, steps=(), passages=())
    chains = {
        "student": as_rows(students),
        "teacher": as_rows([answered(n, n % 100 != 0) for n in range(NUMBER)]),
    }
    file = tmp_path_factory.mktemp("page") / "report.html"
    models = {
        name: ModelReport(report_role(name), summarize(rows)) for name, rows in chains.items()
    }
    write_evaluation_page(file, title="t", models=models, metrics_file=None, chains=chains)
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    with opened_page(browser, page_file.as_uri()) as page:
        yield page


def status(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def listed(page: Page) -> list[str]:
    return page.locator(".found a").all_inner_texts()


def test_questions_are_filtered_by_text_verdict_and_more(page: Page) -> None:
    assert status(page) == f"{NUMBER} of {NUMBER} questions"
    assert len(listed(page)) == 100
    page.get_by_role("button", name="Show more").click()
    assert len(listed(page)) == 200
    verdict = page.get_by_label("Verdict")
    verdict.select_option("student wrong, teacher right")
    assert (
        status(page) == f"36 of {NUMBER} questions"
    )  # 39 of the tenths and the last, less 4 hundredths
    verdict.select_option("teacher wrong")
    assert [text.split("?")[0] for text in listed(page)] == [
        f"Who is mayor {n}" for n in (0, 100, 200, 300)
    ]
    verdict.select_option("any")
    page.get_by_role("searchbox").fill("MAYOR 37?")
    assert len(listed(page)) == 1
    page.get_by_role("searchbox").fill("")
    page.locator("[name=hops]").select_option("2")
    assert len(listed(page)) == 1
    page.locator("[name=hops]").select_option("any")
    page.get_by_label("End of student").select_option("error")
    assert [text.split("?")[0] for text in listed(page)] == [f"Who is mayor {NUMBER - 1}"]


def test_two_models_stand_side_by_side_and_what_differs_is_marked(page: Page) -> None:
    page.get_by_role("searchbox").fill("q010")
    page.locator(".found a").click()
    sides = page.locator(".opened section")
    assert sides.count() == 2
    student, teacher = sides.nth(0), sides.nth(1)
    assert "Wrong, answered by itself" in student.inner_text()
    assert "Right, answered by itself" in teacher.inner_text()
    assert student.locator("mark").all_inner_texts()[0] == "New"
    assert "Kek Bibro praised New Harbour in 1984." in student.inner_text()
    assert teacher.locator("mark").all_inner_texts()[0] == "Old"
    student.locator("summary").first.click()
    assert HOSTILE in student.locator(".passage").first.inner_text()  # as text
    assert page.locator("img").count() == 0
    page.get_by_label("Chain of").select_option("teacher")
    assert page.locator(".opened section").count() == 1


def test_a_link_opens_its_chain_and_the_keyboard_is_enough(page: Page, page_file: Path) -> None:
    number = PACKED + 3
    page.goto(f"{page_file.as_uri()}#chain=q{number}")
    page.reload()
    page.locator(".opened h3").wait_for()
    assert page.locator(".opened h3").inner_text().startswith(f"Who is mayor {number}?")
    page.get_by_role("searchbox").focus()
    page.keyboard.type("q007")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.found') !== null"):
            break
    page.keyboard.press("Enter")
    page.locator(".opened h3", has_text="Who is mayor 7?").wait_for()
    assert page.url.endswith("#chain=q007")
    page.goto(f"{page_file.as_uri()}#chain=q{NUMBER - 1}")
    page.locator(".opened p", has_text="too long").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, scheme: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.locator(".found a").first.click()
    page.locator(".opened h3").wait_for()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
