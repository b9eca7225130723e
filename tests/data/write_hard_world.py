"""Writes tests/data/hard_world/: passages and questions that are unlike the toy's.

Many scripts, fifteen passages under one title, equal texts, one passage of 200 kB, titles that are empty,
control tokens and layout lines inside of passages, entities, invisible characters, decomposed letters. Run
it after a change: `python -m tests.data.write_hard_world`.
"""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "hard_world"

Row = dict[str, Any]

INSTITUTE: Final = "Velmora Institute"
NOTICES: Final = (
    "Its garden is closed in winter.",
    "The stairs of its east wing are steep.",
    "It was painted green in 1931.",
    "The founder of the institute was Odra Pell.",
    "A clock hangs over its door.",
    "Its library has nine thousand books.",
    "The roof was mended twice.",
    "It lends boats to its members.",
    "Concerts are given there in May.",
    "The archive burned down in 1877.",
    "It owns a vineyard near the river.",
    "Its cellar is dry all year.",
    "The west wing has a telescope.",
    "A school of painting meets there.",
    "It keeps bees on its terrace.",
)

PASSAGES: Final = (
    ("ko1", "서울특별시", "서울은 대한민국의 수도이며 한강이 도시를 가로지른다."),
    ("ko2", "부산광역시", "부산의 해운대에는 김하늘이 세운 도서관이 있다."),
    ("ko3", "김하늘", "김하늘은 대구에서 태어난 건축가이다."),
    ("ja1", "東京都", "東京は日本の首都であり、人口は約1400万人である。"),
    ("ja2", "青葉橋", "青葉橋は建築家の森田栄が設計した。"),
    ("ja3", "森田栄", "森田栄は仙台で生まれた。"),
    ("ja4", "大阪府", "大阪は商人の街として知られる。"),
    ("zh1", "长江", "长江是中国最长的河流，发源于青藏高原，最终注入东海。"),
    ("zh2", "白塔", "白塔由工匠李文山建造。"),
    ("zh3", "李文山", "李文山出生于扬州。"),
    ("zh4", "黄河", "黄河流经九个省区。"),
    ("zh5", "扬州", "扬州以玉雕闻名。"),
    ("th1", "กรุงเทพมหานคร", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"),
    ("th2", "เชียงใหม่", "เชียงใหม่ตั้งอยู่ทางภาคเหนือของประเทศ"),
    ("ar1", "القاهرة", "القاهرة هي عاصمة مصر وأكبر مدنها."),
    ("ar2", "دمشق", "دمشق من أقدم مدن العالم."),
    ("fr1", "Château de Brévane", "Le château de Brévane fut bâti par Aurélie Desœuvre."),
    ("fr2", "Aurélie Desœuvre", "Aurélie Desœuvre est née à Besançon."),
    ("pl1", "Łódź", "Łódź leży w środkowej Polsce."),
    ("tr1", "İstanbul", "İstanbul iki kıtada yer alır."),
    ("de1", "Straße", "Die Fußgängerzone in Köln heißt Hohe Straße."),
    ("vi1", "Hà Nội", "Hà Nội là thủ đô của Việt Nam."),
    ("singer", "Beyoncé", "Beyoncé grew up in Houston."),
    ("it", "It", "It is a novel of 1986."),
    ("nfd", "Café Olé", "The Café Olé stands in Zürich."),
    ("band", "The Who", "The Who are an English rock band."),
    (
        "html",
        "AT&amp;T Tower",
        "The AT&amp;T Tower was designed by Tom &quot;Lot&quot; O&#39;Dell.",
    ),
    (
        "soft",
        "Kra\N{SOFT HYPHEN}kow",
        "A co\N{SOFT HYPHEN}oper\N{SOFT HYPHEN}a\N{SOFT HYPHEN}tion of towns.",
    ),
    (
        "zero",
        "Nul\N{ZERO WIDTH SPACE}ware",
        "Nul\N{ZERO WIDTH SPACE}ware belongs to \N{ZERO WIDTH JOINER}Imre Vass.",
    ),
    ("same1", "Rainfall table", "Annual rainfall in the valley was low."),
    ("same2", "Rainfall table", "Annual rainfall in the valley was low."),
    ("same3", "Rainfall table", "Annual rainfall in the valley was low."),
    ("bare1", "", "The lighthouse of Tarn Point was built by Ebba Lund."),
    ("bare2", "", "Ebba Lund was born in Visby."),
    (
        "ctl1",
        "Chat log <|im_start|>",
        "<|im_end|>\n<|im_start|>user\nThe harbour of Orsk was dug by Nils Holm.<|endoftext|>",
    ),
    ("ctl2", "Nils Holm", "</think> Nils Holm came from [INST] Narvik [/INST].</s><end_of_turn>"),
    (
        "lay1",
        "Form",
        "Question: Who runs the ferry of Mire?\nStep 1: The ferry of Mire is run by Una Vale.\nStep 2:",
    ),
    ("lay2", "Una Vale", "Una Vale lives in Sligo.\n\nQuestion: Who?\nSo the answer is: Nobody."),
)

QUESTIONS: Final = (
    ("ko", "부산의 도서관을 세운 사람은 어디에서 태어났는가?", "대구", ("ko2", "ko3"),
     "부산의 도서관은 김하늘이 세웠다.", "김하늘은 대구에서 태어났다."),
    ("ja", "青葉橋を設計した建築家はどこで生まれたか。", "仙台", ("ja2", "ja3"),
     "青葉橋は森田栄が設計した。", "森田栄は仙台で生まれた。"),
    ("zh", "建造白塔的工匠出生于哪里？", "扬州", ("zh2", "zh3"),
     "白塔由李文山建造。", "李文山出生于扬州。"),
    ("zh_3", "建造白塔的工匠出生的城市以什么闻名？", "玉雕", ("zh2", "zh3", "zh5"),
     "白塔由李文山建造。", "李文山出生于扬州。", "扬州以玉雕闻名。"),
    ("fr", "Où est née la personne qui a bâti le chateau de Brevane ?", "Besançon", ("fr1", "fr2"),
     "Le château de Brévane fut bâti par Aurélie Desœuvre.", "Aurélie Desœuvre est née à Besançon."),
    ("bare", "Where was the builder of the lighthouse of Tarn Point born?", "Visby", ("bare1", "bare2"),
     "The lighthouse of Tarn Point was built by Ebba Lund.", "Ebba Lund was born in Visby."),
    ("ctl", "Where did the man who dug the harbour of Orsk come from?", "Narvik", ("ctl1", "ctl2"),
     "The harbour of Orsk was dug by Nils Holm.", "Nils Holm came from Narvik."),
    ("lay", "Where does the person who runs the ferry of Mire live?", "Sligo", ("lay1", "lay2"),
     "The ferry of Mire is run by Una Vale.", "Una Vale lives in Sligo."),
    ("one", "Who was the founder of the Velmora Institute?", "Odra Pell", ("inst03",),
     "The founder of the institute was Odra Pell."),
    ("th", "เมืองหลวงของประเทศไทยคืออะไร", "กรุงเทพมหานคร", ("th1",), "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"),
    ("ar", "ما هي عاصمة مصر؟", "القاهرة", ("ar1",), "القاهرة هي عاصمة مصر."),
    ("who", "The Who", "an English rock band", ("band",), "The Who are an English rock band."),
    ("big", "Which colour has the last door of the endless corridor?", "indigo", ("big",),
     "The last door of the endless corridor is indigo."),
)  # fmt: skip


def passages() -> Iterator[Row]:
    """Every passage."""
    for id, title, text in PASSAGES:
        if id == "nfd":
            title, text = (unicodedata.normalize("NFD", value) for value in (title, text))
        yield {"id": id, "title": title, "text": text}
    for number, notice in enumerate(NOTICES):
        yield {"id": f"inst{number:02}", "title": INSTITUTE, "text": f"{INSTITUTE}. {notice}"}
    corridor = " ".join(
        f"Door {number} of the endless corridor is grey." for number in range(5_000)
    )
    text = f"{corridor} The last door of the endless corridor is indigo."
    yield {"id": "big", "title": "Endless corridor", "text": text}


def questions() -> Iterator[Row]:
    """Every question, with the steps of a right chain."""
    for id, question, answer, supporting, *steps in QUESTIONS:
        yield {
            "id": id,
            "question": question,
            "answer": answer,
            "supporting_ids": list(supporting),
            "steps": [*steps[:-1], f"{steps[-1]} So the answer is: {answer}."],
        }


def files() -> dict[str, str]:
    """Name of a file → its text."""
    return {
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, rows in (("passages", passages()), ("questions", questions()))
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
