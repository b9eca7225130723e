"""HTML as tags and texts, also where it is damaged."""

import pytest

from steper_ray.data.html_tokens import Tag, attribute, html_tokens


def shown(html: str) -> str:
    """Texts as they are, tags in brackets."""
    return "".join(
        token if isinstance(token, str) else f"[{'/' if token.is_end else ''}{token.name}]"
        for token in html_tokens(html)
    )


@pytest.mark.parametrize(
    ("html", "wanted"),
    [
        ("<p>a &amp; b</P >c", "[p]a & b[/p]c"),
        ("<a href=\"x>y\" t='>'>z</a>", "[a]z[/a]"),
        ("<a title=don't>z", "[a]z"),
        ("a<!-- <p> -->b", "ab"),
        ("a<!-- b>c", "ac"),
        ("a<![x]>b", "ab"),
        ("a<![if !IE]>b<![endif]>c", "abc"),
        ("a<![CDATA[1 < 2 > 0]]>b", "a1 < 2 > 0b"),
        ("<!DOCTYPE html [x]>a<?xml b?>c", "ac"),
        ("1 < 2 <3 a<b", "1 < 2 <3 a<b"),
        ("<script>if (a<b) '<p>'</script >x", "[script][/script]x"),
        ("the <script> tag<p>a", "the <script> tag[p]a"),
        ("<STYLE type=x>a<style>b<p>c", "<STYLE type=x>a<style>b[p]c"),
        ("<script>a</scripts><p>b", "<script>a[/scripts][p]b"),
        ('<script src="x"/>a<p>b', "[script]a[p]b"),
        ("<br/>x</ >y", "[br]xy"),
        ('<a b=">"c', '<a b=">"c'.replace('<a b=">', "[a]")),
        ("&#" + "9" * 5000 + ";x", "\ufffdx"),
    ],
)
def test_tokens(html: str, wanted: str) -> None:
    assert shown(html) == wanted


def test_attributes() -> None:
    (tag,) = html_tokens("<img src=a.png ALT = 'a &amp; b' title=\"alt=c\">")
    assert isinstance(tag, Tag)
    assert attribute(tag, "alt") == "a & b"
    assert attribute(tag, "src") == "a.png"
    assert attribute(tag, "none") == ""
