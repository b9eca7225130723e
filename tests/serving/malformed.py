"""Requests with something wrong in their bytes, paths or headers, drawn from a seeded generator."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass
class Request:
    """A request as ASGI gives it."""

    body: bytes = b""
    path: str = "/v1/answer"
    method: str = "POST"
    headers: list[tuple[bytes, bytes]] = field(
        default_factory=lambda: [(b"content-type", b"application/json")]
    )
    query: bytes = b""
    may_do: bool = False
    """Whether it may turn out to be right."""


VALID: Final[dict[str, dict[str, Any]]] = {
    "/v1/answer": {
        "question": "Who?",
        "framework": "ircot",
        "passages_per_step": 3,
        "max_steps": 2,
        "stream": False,
    },
    "/v1/answers": {"questions": ["Who?", "Where?"], "max_steps": 2},
    "/v1/search": {"query": "who", "k": 3},
    "/v1/chat/completions": {
        "model": "student-rag",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}],
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 3,
        "max_tokens": 9,
        "stop": ["x"],
        "stream_options": {"include_usage": True},
        "n": 1,
    },
    "/v1/responses": {
        "model": "student-rag",
        "input": [{"role": "user", "content": "Who?"}],
        "temperature": 0.5,
        "seed": 3,
    },
}
ODD_TEXT: Final = (
    *("", " \n\t", "\x00", "a\x00b", "\x7f\x1b[31m", "\u202egnp", "\ufffe\uffff", "𝕏" * 50),
    *("../../etc/passwd", "'; DROP TABLE x; --", "{{7*7}}", "${jndi:ldap://x}", "%s%n%x"),
    *("<script>alert(1)</script>", "null", "NaN", "a" * 3000, "é" * 3000),
)
LONE: Final = ("\\ud800", "\\udfff", "a\\ud800b", "\\ud83d", "\\udc00\\ud800")
"""Halves of surrogate pairs, as JSON writes them."""
ODD_NUMBERS: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "0", "-1", "0.5"),
    *("9" * 400, "9" * 4000, "9" * 5000, "-" + "9" * 4000, "1" + "0" * 19, "1e400", "3.0"),
)
WORSE_NUMBERS: Final = ("01", "+1", ".5", "1.", "0x10", "1_000", "1e", "--1", "١", "inf", "1,5")
ODD_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 2.5, "", "x"),
    *([], {}, [[]], [None], {"a": 1}, [1, 2]),
)


def fields(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a body."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = [at]
    for key, one in inside:
        found += fields(one, (*at, key)) if isinstance(one, dict | list) else [(*at, key)]
    return found


def put(value: Any, at: Sequence[Any], what: Any) -> Any:
    """The body with something else in a place."""
    if not at:
        return what
    copy = value.copy()
    copy[at[0]] = put(value[at[0]], at[1:], what)
    return copy


def text_with(body: Any, at: Sequence[Any], literal: str) -> bytes:
    """The body as JSON, with a literal that may not be JSON in a place."""
    return json.dumps(put(body, at, "@@")).replace('"@@"', literal).encode()


def broken_json(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    text = bytearray(json.dumps(body).encode())
    match draw.randrange(4):
        case 0:
            del text[draw.randrange(1, len(text)) :]
            return Request(bytes(text), path)
        case 1:
            del text[draw.randrange(len(text))]
        case 2:
            text.insert(draw.randrange(len(text)), draw.randrange(256))
        case _:
            return Request(bytes(text) + draw.choice([b"}", b"{}", b",", b"x", b"\x00"]), path)
    return Request(bytes(text), path, may_do=True)


def deep(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}"), ('[{"question":', "}]")])
    times = draw.choice([10, 500, 990, 1100, 5_000, 60_000 if len(opening) > 1 else 100_000])
    nested = opening * times + draw.choice(["1" + closing * times, "", "1"])
    if draw.random() < 0.3:
        return Request(nested.encode(), path)
    return Request(text_with(body, draw.choice(fields(body)), nested), path)


def no_utf8(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    wrong = draw.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"])
    return Request(json.dumps(body).encode().replace(b"o", b"o" + wrong, 1), path)


def other_encoding(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    encoding = draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp037"])
    return Request(json.dumps(body).encode(encoding), path, may_do=True)


def odd_number(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    places = [at for at in fields(body) if at and at[-1] not in ("stream", "include_usage")]
    if draw.random() < 0.4:
        return Request(text_with(body, draw.choice(places), draw.choice(WORSE_NUMBERS)), path)
    literal = draw.choice(ODD_NUMBERS)
    at = draw.choice(places)
    return Request(
        text_with(body, at, literal), path, may_do=at[-1] in ("temperature", "seed", "top_p")
    )


def odd_text(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    at = draw.choice(fields(body))
    if draw.random() < 0.5:
        return Request(text_with(body, at, f'"{draw.choice(LONE)}"'), path)
    return Request(json.dumps(put(body, at, draw.choice(ODD_TEXT))).encode(), path, may_do=True)


def huge_text(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    text = draw.choice(["x", "€", "\n"]) * draw.choice([2001, 50_000, 400_000, 1_100_000])
    at = draw.choice(fields(body))
    free = at[:1] in (("stop",), ("user",)) and len(text) < 1_000_000
    return Request(json.dumps(put(body, at, text)).encode(), path, may_do=free)


def odd_type(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    for _ in range(draw.randrange(1, 3)):
        at = draw.choice(fields(body))
        body = put(body, at, draw.choice(ODD_VALUES))
        if not isinstance(body, dict | list):
            break
    return Request(json.dumps(body).encode(), path, may_do=True)


def odd_keys(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    text = json.dumps(body)
    match draw.randrange(4):
        case 0:
            key = draw.choice(
                [*LONE, "__proto__", "constructor", "", "a" * 5000, "\\u0000", "é", "body"]
            )
            ignores = path in ("/v1/chat/completions", "/v1/responses") and "ud" not in key
            return Request(f'{{"{key}": 1, {text[1:]}'.encode(), path, may_do=ignores)
        case 1:
            name = draw.choice(list(body))
            other = json.dumps(draw.choice(ODD_VALUES))
            return Request(f'{text[:-1]}, "{name}": {other}}}'.encode(), path, may_do=True)
        case 2:
            names = {"/v1/answer": "question", "/v1/answers": "questions", "/v1/search": "query"}
            needed = names.get(path, "input" if "input" in body else "messages")
            return Request(json.dumps({**body, needed: None}).encode(), path)
        case _:
            return Request(json.dumps(dict.fromkeys(map(str, range(300)), 1)).encode(), path)


def odd_content_type(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    kind = draw.choice(
        [
            *(b"", b"text/plain", b"application/xml", b"application/x-www-form-urlencoded"),
            *(b"multipart/form-data", b"multipart/form-data; boundary=x", b"image/png", b"json"),
            *(b"application", b"/", b";", b"\xff\xfe", b"application/json\x00", b"a" * 9000),
            b"application/jsonp",
        ]
    )
    headers = [(b"content-type", kind)] if draw.random() < 0.9 else []
    return Request(json.dumps(body).encode(), path, headers=headers)


def not_json_at_all(draw: random.Random) -> Request:
    body = draw.choice(
        [
            *(b"", b"\x00" * 100, b"question=Who", b"<question>Who</question>", b"'Who'", b"null"),
            *(b"7", b'"Who?"', b"true", b"[]", b"[7]", b"{}", b"\x1f\x8b\x08\x00", b"# yaml\na: 1"),
            draw.randbytes(draw.randrange(1, 300)),
        ]
    )
    return Request(body, draw.choice(list(VALID)))


def odd_method(draw: random.Random) -> Request:
    path = draw.choice([*VALID, "/v1/models", "/healthz", "/readyz", "/", "/page.js"])
    posts = path in VALID
    methods = [
        "PUT",
        "DELETE",
        "PATCH",
        "HEAD",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "QUERY",
        "FOO",
        "get",
    ]
    method = draw.choice([*methods, "GET" if posts else "POST"])
    may_do = method == "HEAD" and not posts and path != "/v1/models"
    return Request(json.dumps(VALID.get(path, {})).encode(), path, method, may_do=may_do)


def odd_path(draw: random.Random) -> Request:
    piece = draw.choice(
        [
            *(
                "..",
                "../..",
                "%2e%2e",
                "..%2f..",
                "\\..\\",
                "\x00",
                "\n",
                "é",
                "𝕏",
                "a" * 9000,
                " ",
            ),
            *(
                "page.py",
                "page.html",
                "page.js.map",
                ".git/config",
                "etc/passwd",
                "x?y",
                "x;y",
                "*",
            ),
        ]
    )
    before = draw.choice(["/", "//", "/v1/", "/v1//", "/v1/models/", "/page.", "/v1/answer/", ""])
    path = f"{before}{piece}{draw.choice(['', '/', '/..'])}"
    # the router takes a path with a line break at its end for the path itself: "/\n" is the page
    return Request(b"{}", path, draw.choice(["GET", "POST"]), may_do=path.endswith("\n"))


def odd_header(draw: random.Random) -> Request:
    name, value = draw.choice(
        [
            *(
                (b"content-length", v)
                for v in (b"-1", b"1e3", b"", b"\xb2", b"9" * 5000, b"0x10", b" 5")
            ),
            *((b"content-encoding", v) for v in (b"gzip", b"br", b"\xff")),
            *(
                (b"host", v)
                for v in (b"", b"\xff", b"a" * 9000, b"evil.org/x", b"[::", b"a b", b"x:y")
            ),
            *((b"authorization", v) for v in (b"Bearer", b"Basic \xff", b"Bearer " + b"a" * 9000)),
            *((b"cookie", v) for v in (b"\xff", b"a=b; " * 2000, b"=", b";;;")),
            *((b"accept", v) for v in (b"text/event-stream", b"\xff", b"*/*;q=" + b"9" * 400)),
            *(
                (b"range", v)
                for v in (b"bytes=9-", b"bytes=5-1", b"bytes=99999999-", b"x=", b"bytes=a-b")
            ),
            *((b"if-none-match", v) for v in (b"*", b"\xff")),
            *((b"origin", v) for v in (b"null", b"\xff", b"https://evil.org")),
            *((b"x-http-method-override", v) for v in (b"DELETE",)),
            *((b"x-forwarded-prefix", v) for v in (b"/../..",)),
            *((b"expect", v) for v in (b"100-continue", b"x")),
            (b"", b""),
        ]
    )
    path, body = draw.choice(list(VALID.items()))
    request = Request(json.dumps(body).encode(), path, may_do=True)
    if draw.random() < 0.4:
        path = draw.choice(["/", "/page.js", "/healthz", "/v1/models", "/v1/models/x", "/nothing/"])
        request = Request(b"", path, "GET", may_do=True)
    request.headers += [(name, value)] * draw.choice([1, 1, 2])
    return request


def odd_query(draw: random.Random) -> Request:
    path, body = draw.choice(list(VALID.items()))
    query = draw.choice(
        [b"%", b"\xff", b"a=1&a=2", b"question=x", b"&" * 5000, b"%00", b"stream=true"]
    )
    return Request(json.dumps(body).encode(), path, query=query, may_do=True)


MAKERS: Final[dict[Callable[[random.Random], Request], int]] = {
    broken_json: 12,
    deep: 3,
    no_utf8: 6,
    other_encoding: 3,
    odd_number: 12,
    odd_text: 12,
    huge_text: 1,
    odd_type: 15,
    odd_keys: 10,
    odd_content_type: 5,
    not_json_at_all: 5,
    odd_method: 6,
    odd_path: 6,
    odd_header: 8,
    odd_query: 2,
}
"""How many of each in a hundred or so."""
