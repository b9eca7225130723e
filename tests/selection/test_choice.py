"""Which of a question's chains are taken, and how many of each hop count, by hand."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steper_ray.reasoning.frameworks import ircot
from steper_ray.schema import Chain
from steper_ray.selection.choice import select, surplus_chains
from steper_ray.selection.rejection import REJECTIONS
from steper_ray.selection.settings import SelectConfig
from tests.samples import CHAIN, numbered, step

TEACHERS = ("", "b", "c")


def chain(
    name: str, *, right: bool = True, sure: float = -0.5, says: str = "", **values: Any
) -> Chain:
    """A chain of the one question, with a worst step of this log-probability, that says something of its
    own."""
    first, *others = CHAIN.steps
    steps = (replace(first, rationale=first.rationale + says), *others)
    steps = tuple(replace(one, mean_logprob=sure) for one in steps)
    answer = {} if right else {"em": 0.0, "right": 0.0, "f1": 0.0, "acc": 0.0, "answer": "Milan"}
    return replace(CHAIN, **{"id": name, "question_id": "q", "steps": steps, **answer, **values})


def taken(chains: list[Chain], **settings: Any) -> dict[str, str | None]:
    return select(chains, SelectConfig(**settings), ircot, TEACHERS)


def test_the_first_is_by_attempt_then_teacher_then_sample() -> None:
    in_order = [
        chain("z", right=False),
        chain("y"),
        chain("x", sample=2),
        chain("w", teacher="b"),
        chain("v", teacher="c"),
        chain("u", teacher="nobody we know"),
        chain("t", attempt=2),
        chain("s", rationalized=True),
        chain("r", rationalized=True, teacher="b"),
    ]
    order = in_order[1:]
    while order:
        verdicts = taken([in_order[0], *reversed(order)], choose="first")
        assert verdicts.pop("z") == "wrong_answer"
        assert [name for name, reason in verdicts.items() if reason is None] == [order.pop(0).id]
        assert list(verdicts.values()).count("not_chosen") == len(verdicts) - 1


def test_the_most_confident_is_taken_and_unknown_is_least() -> None:
    chains = [
        chain("a", sure=-0.9),
        chain("b", sure=-0.2, sample=2),
        chain("c", sure=-0.4, sample=3),
    ]
    steps = tuple(replace(one, mean_logprob=None) for one in CHAIN.steps)
    chains.append(chain("d", teacher="b"))
    chains[-1] = replace(chains[-1], steps=steps)
    assert taken(chains, choose="confident") == {
        "a": "not_chosen",
        "b": None,
        "c": "not_chosen",
        "d": "not_chosen",
    }
    assert taken(chains[3:], choose="confident") == {"d": None}


def test_majority_by_hand() -> None:
    right = [chain("r1", sure=-0.9), chain("r2", sample=2, sure=-0.1, answer="Neill")]
    wrong = [chain(f"w{n}", sample=n, right=False) for n in (3, 4)]
    assert taken([*right, wrong[0]], choose="majority") == {
        "r1": "not_chosen",
        "r2": None,  # another alias is the same vote
        "w3": "wrong_answer",
    }
    # An equal number: the answer that was given first.
    assert taken([*right, *wrong], choose="majority")["r2"] is None
    late = [replace(one, sample=one.sample + 9) for one in right]
    assert taken([*late, *wrong], choose="majority")["r2"] == "outvoted"
    assert taken([right[0], *wrong], choose="majority")["r1"] == "outvoted"
    # Those with an error, and those that were shown the answer, have no vote.
    dumb = [replace(wrong[0], error="too long"), replace(wrong[1], rationalized=True)]
    assert taken([right[0], *dumb], choose="majority")["r1"] is None
    assert (
        taken([replace(right[0], rationalized=True), *wrong], choose="majority")["r1"] == "outvoted"
    )
    assert taken([replace(right[0], rationalized=True)], choose="majority")["r1"] is None


def test_all_are_taken_but_repetitions() -> None:
    chains = [chain("a"), chain("b", sample=2), chain("c", sample=3, says=" And more.")]
    assert taken(chains, choose="all", grounded=False) == {"a": None, "b": "duplicate", "c": None}


def test_questions_do_not_mix() -> None:
    chains = [chain("a"), chain("b", sample=2), chain("c", question_id="other", sample=2)]
    assert taken(chains) == {"a": None, "b": "not_chosen", "c": None}


def test_balance_by_hand() -> None:
    kept = {f"a{n}": 2 for n in range(5)} | {f"b{n}": 3 for n in range(2)} | {"c": None}
    assert surplus_chains(kept, SelectConfig()) == set()
    for share, left in ((1, {2: 1, 3: 1, None: 1}), (3, {2: 3, 3: 2, None: 1})):
        gone = surplus_chains(kept, SelectConfig(per_hops=share))
        stay = [hops for chain_id, hops in kept.items() if chain_id not in gone]
        assert {hops: stay.count(hops) for hops in (2, 3, None)} == left
    equal = surplus_chains(kept, SelectConfig(per_hops="equal"))
    assert len(equal) == 4 + 1 + 0
    assert surplus_chains({}, SelectConfig(per_hops="equal")) == set()
    # Drawn by the ids and not by their order: `printf q7 | sha256sum` begins 0b, q4 11, q5 26, q0 34.
    ids = {f"q{n}": 2 for n in range(10)}
    assert set(ids) - surplus_chains(ids, SelectConfig(per_hops=3)) == {"q7", "q4", "q5"}


def test_only_kept_chains_take_up_a_share() -> None:
    right = numbered(range(4), hops=2)
    wrong = numbered(range(4, 8), hops=2, em=0.0, right=0.0)
    verdicts = select([*wrong, *right], SelectConfig(per_hops=3), ircot)
    assert [verdicts[c.id] for c in wrong] == ["wrong_answer"] * 4
    assert sorted(str(verdicts[c.id]) for c in right) == ["None", "None", "None", "surplus"]


CHAINS = st.lists(
    st.builds(
        replace,
        st.just(CHAIN),
        id=st.integers(0, 999).map(str),
        question_id=st.integers(0, 9).map(str),
        teacher=st.sampled_from(["", "b"]),
        sample=st.integers(1, 3),
        attempt=st.sampled_from([1, 2]),
        rationalized=st.booleans(),
        answer=st.sampled_from(["Rome", "Milan"]),
        hops=st.sampled_from([None, 2, 3, 4]),
        em=st.sampled_from([0.0, 1.0]),
        error=st.sampled_from([None, None, None, "too long"]),
        stop_reason=st.sampled_from(["answered", "forced"]),
        steps=st.lists(
            st.sampled_from([*CHAIN.steps, step("Foo Bar."), step(""), step("x", mean_logprob=None)]),
            min_size=1,
            max_size=4,
        ).map(tuple),
    ),
    max_size=30,
    unique_by=lambda chain: chain.id,
)  # fmt: skip
CONFIGS = st.builds(
    SelectConfig,
    keep_forced=st.booleans(),
    grounded=st.booleans(),
    repeated_steps=st.booleans(),
    min_logprob=st.sampled_from([None, -0.2]),
    min_steps=st.integers(1, 3),
    choose=st.sampled_from(["first", "confident", "majority", "all"]),
    per_hops=st.sampled_from([None, 1, 2, 5, "equal"]),
)


@given(CHAINS, CONFIGS, st.randoms())
def test_the_verdicts_do_not_depend_on_the_order_of_chains(
    chains: list[Chain], config: SelectConfig, random: Any
) -> None:
    mixed = random.sample(chains, len(chains))
    verdicts = select(chains, config, ircot)
    assert select(mixed, config, ircot) == verdicts
    # Kept and rejected are all of them, and every reason has a name.
    assert set(verdicts) == {one.id for one in chains}
    assert set(verdicts.values()) <= {None, *REJECTIONS}
    kept = sum(reason is None for reason in verdicts.values())
    assert kept + sum(reason in REJECTIONS for reason in verdicts.values()) == len(chains)


@given(CHAINS, CONFIGS)
def test_balance_keeps_the_share_and_no_more(chains: list[Chain], config: SelectConfig) -> None:
    free = select(chains, config.model_copy(update={"per_hops": None}), ircot)
    verdicts = select(chains, config, ircot)
    assert all(verdicts[i] in (reason, "surplus") for i, reason in free.items())

    def kept(of: dict[str, str | None]) -> dict[int | None, int]:
        groups = [chain.hops for chain in chains if of[chain.id] is None]
        return {hops: groups.count(hops) for hops in groups}

    asked = config.per_hops
    if asked == "equal":
        asked = min(kept(free).values(), default=0)
    assert kept(verdicts) == {
        hops: count if asked is None else min(count, asked) for hops, count in kept(free).items()
    }


@given(st.dictionaries(st.text(min_size=1), st.sampled_from([None, 2, 3])), st.integers(1, 9))
def test_a_larger_share_keeps_what_a_smaller_one_kept(
    kept: dict[str, int | None], share: int
) -> None:
    few = set(kept) - surplus_chains(kept, SelectConfig(per_hops=share))
    more = set(kept) - surplus_chains(kept, SelectConfig(per_hops=share + 1))
    assert few <= more
