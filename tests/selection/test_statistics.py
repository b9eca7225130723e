"""Counts and histograms against sums by hand."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from steper_ray.schema import Chain
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.statistics import MAX_BINS, Counts, describe, histogram, merge
from tests.samples import CHAIN, numbered, step

SHORT = replace(CHAIN, id="q2", hops=2, steps=CHAIN.steps[2:], f1=0.5, model="Some-Org/teacher")
LONG = step(
    "x",
    prompt_tokens=100,
    generated_tokens=50,
    cached_tokens=64,
    dropped_passages=2,
    finish_reason="length",
    cut_sentences=3,
)
FORCED = replace(
    CHAIN, id="q3", hops=None, stop_reason="nothing_new", em=0.0, right=0.0, f1=0.0, acc=0.0,
    steps=(LONG, *CHAIN.steps),
)  # fmt: skip
FAILED = replace(CHAIN, id="q4", hops=2, error="no", em=0.0, right=0.0, f1=0.0, acc=0.0, steps=())


def counted(*chains: tuple[Chain, str | None]) -> Counts:
    counts = Counts()
    for chain, reason in chains:
        counts.add(chain, reason, STEPER)
    return counts


def test_everything_is_counted() -> None:
    described = describe(
        counted(
            (CHAIN, None),
            (replace(SHORT, attempt=2), None),
            (replace(FORCED, rationalized=True), "wrong_answer"),
            (replace(CHAIN, id="q5", steps=(*CHAIN.steps[:2], LONG)), "cut_off"),
            (FAILED, "error"),
        ),
        STEPER,
    )
    assert described["chains"] == {
        "all": 5,
        "kept": 2,
        "rejected": {"error": 1, "wrong_answer": 1, "cut_off": 1},
    }
    assert list(described["hops"]) == ["2", "3", "unknown"]
    assert described["hops"]["2"] == {
        "all": 2,
        "kept": 1,
        "rejected": {"error": 1},
        "examples": {"init": 0, "exp": 0, "agg": 1},
    }
    assert described["hops"]["unknown"]["kept"] == 0
    # Three gold passages each. The steps of CHAIN find one each, LONG none; the chains end after 3, 1, 4
    # and 3 steps with 3, 1, 3 and 2 of them.
    assert described["gold_passages"] == {
        "chains": 4,
        "recall_by_step": [0.25, 0.5, 0.666667, 0.75],
        "hops": {
            "2": {"chains": 1, "recall_by_step": [0.333333]},
            "3": {"chains": 2, "recall_by_step": [0.333333, 0.666667, 0.833333]},
            "unknown": {"chains": 1, "recall_by_step": [0.0, 0.333333, 0.666667, 1.0]},
        },
    }
    assert described["steps"] == {"1": 1, "3": 1}
    assert described["examples"] == {"init": 1, "exp": 1, "agg": 2}
    assert described["teacher"] == {
        "models": {"Some-Org/teacher": 1, "teacher": 4},
        "em": 0.6,
        "f1": 0.5,
        "acc": 0.6,
        "forced": 1,
        "corrected": 1,
        "rationalized": 1,
        "cut_off_steps": 2,
        "dropped_passages": 2 + 2,
        "cut_chains": 2,
        "cut_steps": 2,
        "prompt_tokens": 3 * 10 + 10 + 130 + 120,
        "cached_tokens": 64 + 64,
        "generated_tokens": 3 * 5 + 5 + 65 + 60,
    }
    assert described["corpus_versions"] == {"c0ffee": 5}
    assert described["tokens"]["generated"]["abilities"]["agg"]["examples"] == 2
    assert described["tokens"]["prompt"]["abilities"]["exp"]["max"] == 10


def test_nothing_is_counted_as_nothing() -> None:
    described = describe(Counts(), STEPER)
    assert described["chains"] == {"all": 0, "kept": 0, "rejected": {}}
    assert described["examples"] == {"init": 0, "exp": 0, "agg": 0}
    assert described["teacher"]["em"] == 0.0
    assert described["tokens"]["prompt"]["abilities"] == {}


def test_parts_add_up_whatever_their_order() -> None:
    chains = [(chain, None) for chain in numbered(range(5), f1=lambda n: 1 / (n + 3))]
    parts = [counted(pair) for pair in chains]
    whole = describe(counted(*chains), STEPER)
    assert describe(merge(parts), STEPER) == whole == describe(merge(parts[::-1]), STEPER)


def test_a_histogram_by_hand() -> None:
    # 100 numbers fit into 50 bins of 2, more than there may be, so the bins are 5 wide.
    tokens = Counter({("init", 103): 2, ("init", 107): 1, ("agg", 150): 1, ("agg", 202): 3})
    drawn = histogram(tokens, STEPER.names)
    assert (drawn["start"], drawn["width"]) == (100, 5)
    init, agg = drawn["abilities"]["init"], drawn["abilities"]["agg"]
    assert list(drawn["abilities"]) == ["init", "agg"]
    assert init == {
        "examples": 3,
        "min": 103,
        "median": 103,
        "mean": 104.33,
        "p95": 107,
        "max": 107,
        "counts": [2, 1, *[0] * 19],
    }
    assert (agg["median"], agg["mean"], agg["max"]) == (202, 189.0, 202)
    assert agg["counts"] == [*[0] * 10, 1, *[0] * 9, 3]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["init", "exp", "agg"]), st.integers(0, 100_000)),
        st.integers(1, 50),
        min_size=1,
        max_size=50,
    )
)
def test_every_example_is_in_its_bin(tokens: dict[tuple[str, int], int]) -> None:
    drawn = histogram(tokens, STEPER.names)
    start, width = drawn["start"], drawn["width"]
    for ability, part in drawn["abilities"].items():
        values = sorted(
            v for (of, v), count in tokens.items() for _ in range(count) if of == ability
        )
        assert len(part["counts"]) <= MAX_BINS
        for number, count in enumerate(part["counts"]):
            low = start + number * width
            assert count == sum(low <= value < low + width for value in values)
        assert part["examples"] == len(values) == sum(part["counts"])
        assert part["median"] == values[(len(values) - 1) // 2]
    assert sum(part["examples"] for part in drawn["abilities"].values()) == sum(tokens.values())
