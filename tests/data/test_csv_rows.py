"""CSV and TSV as people have them: quotes that mean nothing, no header, columns without names."""

import csv
import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.data.csv_rows import read_csv
from steper_ray.errors import InputError


def rows(text: str, *columns: str, tabs: bool = False) -> list[tuple[int, Any]]:
    stream = io.BytesIO(text.encode())
    found = read_csv("f", stream, columns or None, tabs=tabs)
    return [(at, str(row) if isinstance(row, InputError) else row) for at, row in found]


def cells(text: str) -> list[list[str]]:
    """The cells below the header of a TSV text."""
    return [list(row.values()) for _, row in rows(text, tabs=True)]


def test_a_quote_that_is_not_closed_swallows_no_row() -> None:
    text = (
        'id\ttext\ttitle\n1\t"Heat is a film\tHeat\n2\tTwo of it\tTwo\n'
        '3\tends with a quote"\tThree\n4\tlast\tFour\n'
    )
    assert cells(text) == [
        ["1", '"Heat is a film', "Heat"],
        ["2", "Two of it", "Two"],
        ["3", 'ends with a quote"', "Three"],
        ["4", "last", "Four"],
    ]
    assert cells('a\tb\n"Hello" he said\tA\n5" pipe\tB\n') == [
        ['"Hello" he said', "A"],
        ['5" pipe', "B"],
    ]


def test_quotes_of_a_csv_module_are_read_in_a_tsv_too() -> None:
    assert cells('a\tb\n1\t"say ""hi"""\n"x\ty"\t2\n') == [["1", 'say "hi"'], ["x\ty", "2"]]
    # a cell over three lines, of which none has the header's two cells
    assert cells('a\tb\n1\t"one\ntwo\n\nthree"\n2\tx\n') == [["1", "one\ntwo\n\nthree"], ["2", "x"]]
    # never closed: the line stays a row, or is a broken one, and so are those below it
    found = rows('a\tb\n1\t"one\ntwo\n3\tx\n', tabs=True)
    assert found == [
        (2, {"a": "1", "b": '"one'}),
        (3, "f: row 3: 1 cells, but the header has 2"),
        (4, {"a": "3", "b": "x"}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{}\tTitle\t"Quoted words {}" begin this passage.\t\n',  # one tab too many
        '{}\tTitle {}\t"never closed\n' + "a line without a quote\n" * 3,
        '{}\t"unclosed quote {}\n',
        '{}\t{}\t"""\n',
        'a"\t"{}{}\n',
    ],
)
def test_quotes_in_broken_lines_are_read_in_time_by_the_length(line: str) -> None:
    def seconds(count: int) -> float:
        text = "id\ttitle\ttext\n" + "".join(line.format(at, at) for at in range(count))
        started = time.process_time()
        found = rows(text, tabs=True)
        # every line is a row, broken or not, or a part of one
        whole = [row for _, row in found if isinstance(row, dict)]
        more = sum(cell.count("\n") for row in whole for cell in row.values() if cell)
        assert len(found) + more == text.count("\n") - 1
        return time.process_time() - started

    # by the square it would be 16 times, and minutes
    assert seconds(16_000) < 8 * seconds(4_000) + 0.5


CELLS = st.text(st.sampled_from('ab"\t\n '), max_size=6).filter(lambda text: "\t" not in text)


@given(table=st.lists(st.tuples(st.just("k"), CELLS, CELLS), max_size=6))
def test_what_a_csv_module_wrote_is_read_as_it_reads_it(table: list[tuple[str, ...]]) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        [("a", "b", "c"), *table]
    )
    assert cells(file.getvalue()) == [[cell or None for cell in row] for row in table]


def test_columns_without_a_name_are_none() -> None:
    assert rows(",id,x\n0,1,2\n") == [(2, {"id": "1", "x": "2"})]  # pandas' index
    assert rows("id,x,\n1,2,\n") == [(2, {"id": "1", "x": "2"})]


def test_columns_by_number_where_there_is_no_header() -> None:
    text = "0\tsome text\tTitle\n1\tmore\tOther\n"
    assert rows(text, "1", "2", tabs=True) == [
        (1, {"1": "0", "2": "some text", "3": "Title"}),
        (2, {"1": "1", "2": "more", "3": "Other"}),
    ]
    # a header may name columns by numbers
    assert rows("1,2\na,b\n", "1", "2") == [(2, {"1": "a", "2": "b"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\tsome text\n", "row 1: no column that is known: 0, some text; name them in corpus.col"),
        ("id;text\n1;a\n", "seem to be separated by semicolons"),
        ("id,text\n1,a\n", "seem to be separated by commas"),
        ("id\tid\ttext\n", "'id' stands twice: id, id, text"),
    ],
)
def test_a_header_that_says_nothing(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(text, "id", "text", tabs=True)
    assert said in str(caught.value)


def test_a_column_that_nobody_asked_for_may_stand_twice() -> None:
    assert rows("id,x,x\n1,2,3\n", "id") == [(2, {"id": "1", "x": "3"})]
