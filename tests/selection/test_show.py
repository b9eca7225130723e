"""One chain on the screen: all that a person needs to judge it, and nothing that steers a terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from steper_ray.cli import main
from steper_ray.errors import InputError
from steper_ray.schema import Chain, Passage
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.show import find_chains, marked, nearest, show
from tests.samples import CHAIN, config, numbered, step, write

REJECTED = replace(
    CHAIN,
    id="q2",
    question_id="q2",
    rejected="wrong_answer",
    em=0.0,
    right=0.0,
    f1=0.5,
    acc=0.0,
    answer="Foo Bar",
    supporting_ids=("p1", "p9"),
    steps=(
        *CHAIN.steps[:2],
        step(
            "So the answer is: Foo Bar.",
            "p3",
            mean_logprob=None,
            dropped_passages=2,
            cut_sentences=1,
        ),
    ),
)


def shown(
    folder: Path, *chains: Chain, chain_id: str, terminal: bool = False, **select: object
) -> str:
    run = config(folder, **select)
    write(run.folder.chains, chains)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, markup=False)
    show(run.folder.chains, chain_id, select=run.select, framework="ircot", console=console)
    return out.getvalue()


def test_a_kept_chain_in_plain_text(tmp_path: Path) -> None:
    assert shown(tmp_path, CHAIN, chain_id="q1") == (
        "q1 · 3 hops · kept\n"
        "question    Who is the mayor of the town that the band of Zalk Stumum praises?\n"
        "gold        Marie-Claire O'Neill | Neill\n"
        "answer      Marie-Claire O'Neill\n"
        "            EM 1 · F1 1.00 · contained 1 · answered\n"
        "teacher     teacher · corpus version c0ffee\n"
        "\n"
        "step 1 init · mean log-probability -0.1000 · 10 prompt tokens, 5 written\n"
        "  search      query\n"
        "    **Zalk Stumum**  p1 · gold\n"
        "      **Zalk Stumum presents Kek Bibro**. It ran for a long season.\n"
        "  says        Zalk Stumum presents Kek Bibro.\n"
        "\n"
        "step 2 exp · mean log-probability -0.5000 · 10 prompt tokens, 5 written\n"
        "  search      query\n"
        "    **Kek Bibro**  p2 · gold\n"
        "      In **1984 Kek Bibro praised Old Harbour**. It owns seven trucks.\n"
        "  says        Kek Bibro praised Old Harbour in 1984.\n"
        "\n"
        "step 3 agg · mean log-probability -0.1000 · 10 prompt tokens, 5 written\n"
        "  search      query\n"
        "    **Old Harbour**  p3 · gold\n"
        "      **Old Harbour elected Marie-Claire O’Neill**, its 12th mayor, in May.\n"
        "  says        Old Harbour elected Marie-Claire O'Neill. So the answer is: Marie-Claire O'Neill.\n"
    )  # fmt: skip


def test_what_speaks_against_a_chain(tmp_path: Path) -> None:
    said = shown(tmp_path, CHAIN, REJECTED, chain_id="q2")
    assert "q2 · 3 hops · wrong_answer: the answer does not match a gold answer" in said
    assert "EM 0 · F1 0.50 · contained 0" in said
    assert "not found   Bar (step 3)" in said
    assert "not found   gold passages p9" in said
    assert (
        "mean log-probability unknown · 10 prompt tokens, 5 written · sentences cut: 1 "
        "· 2 passages left out" in said
    )
    assert "by the present settings" not in said


def test_what_was_thought_and_what_was_cut_off(tmp_path: Path) -> None:
    first, *others = CHAIN.steps
    told = replace(first, thought="Let me\n see.", finish_reason="length")
    said = shown(tmp_path, replace(CHAIN, steps=(told, *others)), chain_id="q1")
    assert "10 prompt tokens, 5 written · cut off\n" in said
    assert "  thinks      Let me see.\n  says        Zalk Stumum presents Kek Bibro.\n" in said
    assert (said.count("thinks"), said.count("· cut off")) == (1, 1)
    assert "by the present settings: cut_off: a step was cut off" in said


def test_another_verdict_by_the_present_settings(tmp_path: Path) -> None:
    said = shown(tmp_path, REJECTED, chain_id="q2", match="f1", min_f1=0.5)
    assert "by the present settings: ungrounded: a name or number" in said
    surplus = replace(CHAIN, rejected="surplus")
    assert "present settings" not in shown(tmp_path, surplus, chain_id="q1")


def test_a_chain_that_could_not_be_made(tmp_path: Path) -> None:
    failed = replace(
        CHAIN, error="too long", em=0.0, right=0.0, steps=(), passages=(), answer="", hops=None
    )
    said = shown(tmp_path, replace(failed, rejected="error"), chain_id="q1")
    assert "q1 · unknown hops · error: the teacher could not work on the question" in said
    assert "error       too long\n" in said
    assert "answer      –\n" in said


def test_colours_on_a_terminal_only(tmp_path: Path) -> None:
    said = shown(tmp_path, CHAIN, chain_id="q1", terminal=True)
    assert "\x1b[1;32mZalk Stumum presents Kek Bibro\x1b[0m. It ran" in said
    assert "**" not in said
    assert "\x1b" not in shown(tmp_path, CHAIN, chain_id="q1")


def test_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x07 [bold]x[/bold] \u202e \ud7ff\x9b31m :smile:"
    chain = replace(
        CHAIN,
        question=evil,
        passages=(Passage("p1", evil, evil),),
        steps=(step(evil, "p1", query=evil),),
        model=evil,
    )
    for terminal in (False, True):
        said = shown(tmp_path, chain, chain_id="q1", terminal=terminal)
        for sign in ("\x1b[2J", "\x07", "\u202e", "\x9b"):
            assert sign not in said
        assert "[bold]" in said
        assert ":smile:" in said


def test_every_chain_of_a_question(tmp_path: Path) -> None:
    run = config(tmp_path)
    write(run.folder.chains, [replace(CHAIN, id=f"s{n}", question_id="q") for n in (2, 1)])
    assert [chain.id for chain in find_chains(run.folder.chains, "q")] == ["s1", "s2"]
    assert [chain.id for chain in find_chains(run.folder.chains, "s2")] == ["s2"]


def test_an_unknown_id_gets_the_nearest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = config(tmp_path)
    write(run.folder.chains, numbered(range(200)), per_file=70)
    file = tmp_path / "run.yaml"
    file.write_text(f"run: {{dir: '{tmp_path}'}}")
    assert main(["show", "--config", str(file), "q0042"]) == 2
    error = capfd.readouterr().err
    assert error.startswith(
        f"steper show: {run.folder.chains}: no chain has the id 'q0042'; the nearest"
    )
    assert "q042" in error
    assert error.count("\n") == 1
    with pytest.raises(InputError, match="there are 200 others"):
        find_chains(run.folder.chains, "zzz")
    assert main(["show", "--config", str(file), "q042"]) == 0
    assert capfd.readouterr().out.startswith("q042 · 3 hops · kept\n")


def test_nearest_ids() -> None:
    ids = [f"train-{number:05d}" for number in range(20)]
    assert nearest("train-0000", ids) == ids[:5]
    assert nearest("rain-00007", ids)[0] == "train-00007"
    assert nearest("x", ids) == []


def test_no_chains_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no chains; run `steper build` first"):
        show(tmp_path / "chains", "q1", select=SelectConfig(), framework="ircot")


@given(st.text(), st.text())
def test_marks_change_nothing(text: str, rationale: str) -> None:
    assert "".join(piece for piece, _ in marked(text, rationale)) == text


def test_what_is_marked() -> None:
    def words(text: str, rationale: str) -> list[str]:
        return [piece for piece, found in marked(text, rationale) if found]

    assert words("The sea of Old Town's mayor", "the town of the mayor") == ["Town", "mayor"]
    assert words("In 1984 a 19th tie", "in 1984, the 19th") == ["1984", "19th"]
    assert words("Jean-Luc Godard, Jean Luc", "Jean-Luc Godard") == ["Jean-Luc Godard", "Jean Luc"]
    assert words("", "Jean") == words("Jean", "") == []
