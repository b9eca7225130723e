"""Any text in a card's table is read by a Markdown reader as it was written."""

from hypothesis import example, given
from hypothesis import strategies as st

from steper_ray.reports.markdown import as_text
from tests.markdown import tables


@given(st.text())
@example("a\\|b")
@example("__a__ _b_ c_d")
@example("\ud800 \x00 \u202e")
@example("http://a.b/c_d_ :x: ^y^")
def test_any_text_is_read_as_it_is_written(text: str) -> None:
    wanted = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    ((_, row),) = tables(f"| a | b |\n|---|---|\n| {as_text(text)} | x |\n")
    assert row == [wanted or "–", "x"]
