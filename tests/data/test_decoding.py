"""Encodings that HTML pages name."""

import pytest

from steper_ray.data.decoding import decoded
from steper_ray.errors import InputError


@pytest.mark.parametrize(
    ("label", "encoding", "text"),
    [
        ("x-sjis", "cp932", "東京①"),
        ("windows-31j", "cp932", "東京①"),
        ("Shift_JIS", "cp932", "東京①"),
        ("x-gbk", "gb18030", "北京"),
        ("gb_2312-80", "gb18030", "北京"),
        ("x-euc-jp", "euc_jp", "東京"),
        ("x-x-big5", "big5", "臺北"),
        ("ks_c_5601-1989", "cp949", "서울"),
        ("ks_c_5601-1987", "cp949", "서울"),
        ("koi8-ru", "koi8-u", "Київ"),
        ("koi", "koi8-r", "Москва"),
        ("x-cp1251", "cp1251", "Москва"),
        ("x-mac-cyrillic", "mac-cyrillic", "Москва"),
        ("x-mac-roman", "mac-roman", "café"),
        ("windows-874", "cp874", "ไทย“"),
        ("tis-620", "cp874", "ไทย“"),
        ("iso-8859-8-i", "iso8859-8", "שלום"),
        ("sun_eu_greek", "iso8859-7", "Αθήνα"),
        ("iso_8859-7:1987", "iso8859-7", "Αθήνα"),
        ("iso88592", "iso8859-2", "Łódź"),
        ("iso88591", "cp1252", "“café”"),
    ],
)
def test_labels_mean_what_they_mean_to_browsers(label: str, encoding: str, text: str) -> None:
    heads = [
        f'<meta charset="{label}">',
        f'<meta http-equiv="Content-Type" content="text/html; charset={label}">',
        f"<?xml version='1.0' encoding='{label}'?>\n<html>",
        # where there are both, the head counts
        f'<?xml version="1.0" encoding="klingon"?><html><meta charset={label.upper()} />',
    ]
    for head in heads:
        page = f"{head}<p>{text}</p>"
        assert decoded(page.encode(encoding), "f", html=True) == page


def test_what_no_browser_reads() -> None:
    for label in ("klingon", "rot13", "utf-7", "hz-gb-2312", "iso-2022-kr"):
        page = f'<?xml version="1.0" encoding="{label}"?>é'.encode("latin-1")
        with pytest.raises(
            InputError, match=rf"f: unknown encoding '{label}'; save the file as UTF"
        ):
            decoded(page, "f", html=True)
        with pytest.raises(InputError, match=r"f: invalid UTF-8 at byte"):
            decoded(page, "f", html=False)
