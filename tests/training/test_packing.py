"""Prefix trees by hand, and the two properties that make packing exact."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.training.packing import (
    Block,
    common_prefix,
    depth_first,
    pack_row,
    packed_length,
    prefix_tree,
)


def arrays(*sequences):
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


THREE = arrays([1, 2, 3, 9], [1, 2, 4, 5, 8], [1, 2, 4, 6, 7])


def test_a_tree_by_hand():
    assert prefix_tree(THREE) == [
        Block(0, ((0, 4),)),
        Block(2, ((0, 2), (1, 3))),
        Block(3, ((0, 2), (1, 1), (2, 2))),
    ]
    assert packed_length(prefix_tree(THREE)) == 9


def test_a_row_by_hand():
    other = arrays([5, 6, 7])
    row = pack_row([prefix_tree(THREE), prefix_tree(other)], [THREE, other], [[1, 2, 1], [2]])
    assert row.ids_T.tolist() == [1, 2, 3, 9, 4, 5, 8, 6, 7, 5, 6, 7]
    assert row.position_T.tolist() == [0, 1, 2, 3, 2, 3, 4, 3, 4, 0, 1, 2]
    assert row.end_T.tolist() == [9, 9, 4, 4, 9, 7, 7, 9, 9, 12, 12, 12]
    # Targets: 9 · 5 8 · 7 · 6 7; each predicted where the token before it stands.
    assert row.target_P.tolist() == [9, 5, 8, 7, 6, 7]
    assert row.at_P.tolist() == [2, 4, 5, 7, 9, 10]
    assert row.example_P.tolist() == [0, 1, 1, 2, 3, 3]
    seen = {i: np.flatnonzero(line).tolist() for i, line in enumerate(row.visible())}
    assert seen[3] == [0, 1, 2, 3]
    assert seen[6] == [0, 1, 4, 5, 6]
    assert seen[8] == [0, 1, 4, 7, 8]
    assert seen[11] == [9, 10, 11]


def test_a_target_that_another_prompt_runs_through_is_supervised_in_place():
    # As in frameworks where the text so far simply goes on: the second prompt holds the first target.
    examples = arrays([1, 2, 3], [1, 2, 3, 4, 5])
    row = pack_row([prefix_tree(examples)], [examples], [[1, 1]])
    assert row.ids_T.tolist() == [1, 2, 3, 4, 5]
    assert row.at_P.tolist() == [1, 3]
    assert row.target_P.tolist() == [3, 5]


def test_an_example_that_adds_nothing_still_has_its_target():
    examples = arrays([1, 2, 3, 4], [1, 2, 3])
    row = pack_row([prefix_tree(examples)], [examples], [[1, 2]])
    assert row.ids_T.tolist() == [1, 2, 3, 4]
    assert row.at_P.tolist() == [2, 0, 1]
    assert row.target_P.tolist() == [4, 2, 3]


def test_filling_up_sees_only_itself():
    row = pack_row([prefix_tree(THREE)], [THREE], [[1, 2, 1]]).padded_to(4, pad=0)
    assert row.ids_T.tolist() == [1, 2, 3, 9, 4, 5, 8, 6, 7, 0, 0, 0]
    assert not row.visible()[:9, 9:].any()
    assert np.flatnonzero(row.visible()[11]).tolist() == [9, 10, 11]


sequences = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=5)


@given(trees=st.lists(sequences, min_size=1, max_size=3))
def test_every_token_sees_its_own_example_and_nothing_else(trees):
    examples = [arrays(*tree) for tree in trees]
    row = pack_row(
        [prefix_tree(tree) for tree in examples], examples, [[1] * len(tree) for tree in examples]
    )
    visible = row.visible()
    where = iter(row.at_P)
    for tree in examples:
        for ids in tree:
            last = next(where)  # predicts the example's last token
            seen = np.flatnonzero(visible[last])
            assert row.ids_T[seen].tolist() == ids[:-1].tolist()
            assert row.position_T[seen].tolist() == list(range(len(ids) - 1))


@given(tree=sequences)
def test_a_prefix_stands_once(tree):
    distinct = {tuple(ids[:end]) for ids in tree for end in range(1, len(ids) + 1)}
    examples = arrays(*tree)
    ordered = [examples[index] for index in depth_first(examples)]
    assert packed_length(prefix_tree(ordered)) == len(distinct)


def test_the_order_is_by_tokens_and_the_shorter_first():
    assert depth_first(arrays([300, 1], [2, 70000], [2, 9, 9], [2, 9])) == [3, 2, 1, 0]


def test_common_prefix():
    first, second = arrays([1, 2, 3], [1, 2, 4, 5])
    assert common_prefix(first, second) == 2
    assert common_prefix(first[:2], second) == 2
    assert common_prefix(first[1:], second) == 0
