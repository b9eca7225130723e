"""`steper show`: one chain on the screen, so that a person can judge it.

In colour on a terminal; elsewhere plain text, in which **stars** stand around what is marked: in a passage
the words of the step's rationale that occur in it, but for short ones without a capital (of, the).
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_files, chain_from_row
from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.run.secrets import public_name
from steper_ray.schema import Chain, Step
from steper_ray.selection.abilities import ability_of
from steper_ray.selection.grounding import ungrounded
from steper_ray.selection.rejection import AMONG_OTHERS, REJECTIONS, rejection
from steper_ray.tasks import task_named

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


MOST_NEAREST: Final = 5


_WORD: Final = re.compile(r"[^\W_]+")


_ABILITY_STYLE: Final = {"init": "bold blue", "exp": "bold yellow", "agg": "bold magenta"}


_LABEL: Final = 12
"""Columns that the labels at the left take."""


def show(config: "RunConfig", chain_id: str, console: Console | None = None) -> None:
    """Print the chain of this id, or every chain of the question of this id.

    Raises InputError with the nearest ids if there is none.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    for number, chain in enumerate(find_chains(config.folder.chains, chain_id)):
        if number:
            console.print()
        now = rejection(
            chain,
            config.select,
            framework_named(config.reasoning.framework),
            task_named(config.questions.task),
        )
        _print(console, _head(chain, now))
        for place, step in enumerate(chain.steps, 1):
            console.print()
            _print(console, _step(chain, place, step, plain=not console.is_terminal))


def find_chains(chains_dir: Path, chain_id: str) -> list[Chain]:
    """The chains with this id, or of the question with this id, ordered by their ids.

    Raises InputError if there is none, with the nearest ids.
    """
    import pyarrow.dataset as ds

    dataset = ds.dataset([str(file) for file in chain_files(chains_dir)], schema=CHAIN_SCHEMA)
    for column in ("id", "question_id"):
        rows = dataset.to_table(filter=ds.field(column) == chain_id).to_pylist()
        if rows:
            return sorted(map(chain_from_row, rows), key=lambda chain: chain.id)
    ids: list[str] = sorted(dataset.to_table(columns=["id"])["id"].to_pylist())
    near = nearest(chain_id, ids)
    hint = f"the nearest are {', '.join(near)}" if near else f"there are {len(ids):,} others"
    raise InputError(f"{chains_dir}: no chain has the id {chain_id!r}; {hint}")


def nearest(wanted: str, ids: list[str]) -> list[str]:
    """At most MOST_NEAREST ids that begin like the wanted one, or else resemble it."""
    beginning = [chain_id for chain_id in ids if chain_id.startswith(wanted)]
    return beginning[:MOST_NEAREST] or difflib.get_close_matches(wanted, ids, MOST_NEAREST)


def marked(text: str, rationale: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is words of the rationale; together they are the text."""
    words = {
        word.lower() for word in _WORD.findall(rationale) if len(word) > 3 or not word.islower()
    }
    end = 0
    spans: list[list[int]] = []
    for match in _WORD.finditer(text):
        if match[0].lower() not in words:
            continue
        if spans and not text[spans[-1][1] : match.start()].strip(" -'’"):
            spans[-1][1] = match.end()  # one mark for words side by side
        else:
            spans.append([match.start(), match.end()])
    for start, stop in spans:
        if start > end:
            yield text[end:start], False
        yield text[start:stop], True
        end = stop
    if end < len(text):
        yield text[end:], False


def _head(chain: Chain, now: str | None) -> Iterator[tuple[int, Text]]:
    """(indent, line) of what is known about the whole chain.

    now: the verdict of the present settings
    """
    hops = "unknown" if chain.hops is None else chain.hops
    title = (printable(chain.id), "bold")
    yield 0, Text.assemble(title, f" · {hops} hops · ", _verdict(chain.rejected))
    if now != chain.rejected and not (now is None and chain.rejected in AMONG_OTHERS):
        hint = "; `steper select` makes it so"
        yield 0, Text.assemble("by the present settings: ", _verdict(now), hint)
    yield 0, _labelled("question", chain.question)
    yield 0, _labelled("gold", " | ".join(chain.gold_answers))
    yield 0, _labelled("answer", chain.answer or "–")
    scores = f"EM {chain.em:g} · F1 {chain.f1:.2f} · contained {chain.acc:g} · {chain.stop_reason}"
    yield 0, _labelled("", scores, "dim")
    sample = f" · sample {chain.sample}" if chain.sample > 1 else ""
    second = " · second attempt" if chain.attempt > 1 else ""
    told = " · the gold answer was shown" if chain.rationalized else ""
    made = f"{public_name(chain.model)}{sample}{second}{told}"
    origin = f"{made} · corpus version {chain.corpus_version}"
    yield 0, _labelled("teacher", origin, "dim")
    if chain.critique is not None:
        yield 0, _labelled("criticism", chain.critique)
    if chain.error is not None:
        yield 0, _labelled("error", chain.error, "red")
    for number, name in ungrounded(chain):
        yield 0, _labelled("not found", f"{name} (step {number})", "red")
    if missing := sorted(set(chain.supporting_ids) - {passage.id for passage in chain.passages}):
        yield 0, _labelled("not found", f"gold passages {', '.join(missing)}", "red")


def _step(chain: Chain, number: int, step: Step, *, plain: bool) -> Iterator[tuple[int, Text]]:
    """(indent, line) of one step: its search, what that brought, what was said."""
    ability = ability_of(number, len(chain.steps))
    sure = "unknown" if step.mean_logprob is None else f"{step.mean_logprob:.4f}"
    dropped = f" · {step.dropped_passages} passages left out" if step.dropped_passages else ""
    numbers = (
        f" · mean log-probability {sure} · {step.prompt_tokens:,} prompt tokens, "
        f"{step.generated_tokens:,} written{dropped}"
    )
    head = (f"step {number} ", "bold")
    yield 0, Text.assemble(head, (ability, _ABILITY_STYLE[ability]), (numbers, "dim"))
    yield 2, _labelled("search", step.query)
    passages = {passage.id: passage for passage in chain.passages}
    for passage in (passages[passage_id] for passage_id in step.passage_ids):
        name = _marks(passage.title, step.rationale, plain=plain, style="bold")
        gold = " · gold" if passage.id in chain.supporting_ids else ""
        yield 4, Text.assemble(name, (f"  {printable(passage.id)}{gold}", "dim"))
        yield 6, _marks(passage.text, step.rationale, plain=plain)
    if not step.passage_ids:
        yield 4, Text("nothing new", "dim")
    yield 2, _labelled("says", step.rationale or "–", "bold")


def _verdict(reason: str | None) -> Text:
    if reason is None:
        return Text("kept", "bold green")
    meaning = REJECTIONS.get(reason, "a reason of another version")
    return Text.assemble((reason, "bold red"), (f": {meaning}", "red"))


def _labelled(label: str, value: str, style: str = "none") -> Text:
    return Text.assemble((f"{label:<{_LABEL}}", "dim"), (printable(value), style))


def _marks(text: str, rationale: str, *, plain: bool, style: str = "none") -> Text:
    line = Text("", style)
    for piece, found in marked(printable(text), rationale):
        line.append(f"**{piece}**" if plain and found else piece, "bold green" if found else style)
    return line


def printable(text: str) -> str:
    """The text without signs that could steer the terminal; lines stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def _print(console: Console, lines: Iterator[tuple[int, Text]]) -> None:
    for indent, line in lines:
        if console.is_terminal:
            console.print(Padding(line, (0, 0, 0, indent), expand=False))
        else:
            console.print(Text(" " * indent).append_text(line), soft_wrap=True)
