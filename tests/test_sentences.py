"""Where sentences end, by hand and against a data set that is cut into them."""

import itertools
import time

import pytest

from steper_ray.sentences import sentences
from tests.data.published_rows import hotpotqa_rows


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Is two! Three? Four… Five", ["One.", "Is two!", "Three?", "Four…", "Five"]),
        ('He said "go." She went.', ['He said "go."', "She went."]),
        ("Dr. J. R. Smith met Mr. Wu of the U.S. Army.", None),
        ("It grew by 3.5 percent, e.g. here, i.e. there.", None),
        ("In No. 9 and Op. 3 by J.R.R. Tolkien at 9 a.m. EST.", None),
        ("He said no. 5 came? No. She left.", ["He said no. 5 came?", "No.", "She left."]),
        ("Version 2. Then version 3.", ["Version 2.", "Then version 3."]),
        ("so it ended... and began... New.", ["so it ended... and began...", "New."]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("一句话。两句话！「三。」四", ["一句话。", "两句话！", "「三。」", "四"]),
        ("एक वाक्य। दूसरा वाक्य। 3", ["एक वाक्य।", "दूसरा वाक्य।", "3"]),
        ("هل هو هنا؟ نعم.", ["هل هو هنا؟", "نعم."]),
        ("Warner Bros. Pictures of Sen. Lee and Apple Inc. Japan.", None),
        (
            "He left the company in 3.5 years. It ended.",
            ["He left the company in 3.5 years.", "It ended."],
        ),
        # an abbreviation that may end a sentence does so before a word that begins one
        ("He left the U.S. It was 5 p.m. Then J. Lee met K. He at 7.",
            ["He left the U.S.", "It was 5 p.m.", "Then J. Lee met K. He at 7."]),
        ("M. L. King Jr. He was first. Malcolm X. He is it. Mr. He is not.",
            ["M. L. King Jr.", "He was first.", "Malcolm X.", "He is it.", "Mr. He is not."]),
        # titles with an exclamation mark
        ("Yahoo! Inc. made it.", None),
        ("The film Mamma Mia! Here We Go Again is old. It ran.",
            ["The film Mamma Mia! Here We Go Again is old.", "It ran."]),
        ("So it was! He left.", ["So it was!", "He left."]),
        # German
        ("Es war am 3. Oktober im 19. Jahrhundert. Dann war Nr. 5 bzw. Mme. Li da. Ja.",
            ["Es war am 3. Oktober im 19. Jahrhundert.", "Dann war Nr. 5 bzw. Mme. Li da.", "Ja."]),
        ("Er sagte: „Es ist so.“ Dann ging er. »Ja.« Nein.",
            ["Er sagte: „Es ist so.“", "Dann ging er.", "»Ja.«", "Nein."]),
        ("", []),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, wanted: list[str] | None) -> None:
    assert [text[a:b] for a, b in sentences(text)] == (wanted if wanted is not None else [text])


def test_sentences_of_wikipedia_against_the_dataset_s_own() -> None:
    """HotpotQA comes cut into sentences (its authors used CoreNLP): nearly the same are found."""
    theirs: set[tuple[str, int]] = set()
    ours: set[tuple[str, int]] = set()
    for row in hotpotqa_rows():
        for title, cut_up in row["context"]:
            text = "".join(cut_up)
            lengths = itertools.accumulate(len(sentence) for sentence in cut_up[:-1])
            theirs |= {(title, len(text[:length].rstrip())) for length in lengths}
            ours |= {(title, end) for _, end in sentences(text)[:-1]}
    assert len(theirs) == 1338
    assert len(theirs & ours) / len(theirs) > 0.98
    assert len(theirs & ours) / len(ours) > 0.98


@pytest.mark.parametrize(
    "piece", [".", ". ", '."', ".'\n", "a.", "J. ", "。", "?! ", " ", ".\t", "\n"]
)
def test_no_text_takes_long(piece: str) -> None:
    started = time.process_time()
    sentences((piece * 100_000)[:100_000])
    assert time.process_time() - started < 1
