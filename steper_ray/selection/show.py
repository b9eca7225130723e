"""`steper show`: one chain on the screen, so that a person can judge it.

In colour on a terminal, elsewhere plain text with **stars** around marked words: the words of a passage
that occur in the step's rationale, except short ones without a capital (of, the).
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_files, chain_from_row
from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.run.secrets import public_name
from steper_ray.schema import Chain, Step
from steper_ray.selection.abilities import AbilityScheme, ability_scheme
from steper_ray.selection.grounding import ungrounded
from steper_ray.selection.rejection import AMONG_OTHERS, REJECTIONS, rejection
from steper_ray.selection.settings import SelectConfig
from steper_ray.text import squeeze

MAX_NEAREST: Final = 5
"""Upper bound for the ids that are suggested in place of an unknown one."""


_WORD: Final = re.compile(r"[^\W_]+")


_ABILITY_STYLES: Final = ("bold blue", "bold yellow", "bold magenta", "bold cyan", "bold green")
"""Styles of the abilities, in the order of their scheme; with more abilities they repeat."""


_LABEL: Final = 12
"""Width of the labels at the left."""


def show(
    chains: Path,
    chain_id: str,
    *,
    select: SelectConfig,
    framework: str,
    console: Console | None = None,
) -> None:
    """Print the chain of this id, or every chain of the question of this id.

    chains:    the chain store
    select:    settings of the verdict that the chain would get now
    framework: name of the framework by which the chains were written
    Raises InputError with the nearest ids if there is none.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    scheme = ability_scheme(select.abilities)
    for index, chain in enumerate(find_chains(chains, chain_id)):
        if index:
            console.print()
        now = rejection(chain, select, framework_named(framework))
        _print(console, _head(chain, now))
        for number, step in enumerate(chain.steps, 1):
            console.print()
            _print(console, _step(chain, number, step, scheme, plain=not console.is_terminal))


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


def nearest(unknown: str, ids: list[str]) -> list[str]:
    """At most MAX_NEAREST ids that begin with an unknown id, or else resemble it."""
    beginning = [chain_id for chain_id in ids if chain_id.startswith(unknown)]
    return beginning[:MAX_NEAREST] or difflib.get_close_matches(unknown, ids, MAX_NEAREST)


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
    """(indent, line) of the whole chain: verdict, question, answer, scores, origin.

    now: the verdict by the present settings
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
    for one in ungrounded(chain):
        doubt = "" if one.certain else "; it may be worded in another way"
        yield 0, _labelled("not found", f"{one.text} (step {one.step}{doubt})", "red")
    if missing := sorted(set(chain.supporting_ids) - {passage.id for passage in chain.passages}):
        yield 0, _labelled("not found", f"gold passages {', '.join(missing)}", "red")


def _step(
    chain: Chain, number: int, step: Step, scheme: AbilityScheme, *, plain: bool
) -> Iterator[tuple[int, Text]]:
    """(indent, line) of one step: its search, the passages it brought, its rationale."""
    ability = scheme.of(number, len(chain.steps))
    style = _ABILITY_STYLES[scheme.names.index(ability) % len(_ABILITY_STYLES)]
    sure = "unknown" if step.mean_logprob is None else f"{step.mean_logprob:.4f}"
    dropped = f" · {step.dropped_passages} passages left out" if step.dropped_passages else ""
    cut = " · cut off" if step.is_cut_off else ""
    if step.cut_sentences:
        cut += f" · sentences cut: {step.cut_sentences}"
    numbers = (
        f" · mean log-probability {sure} · {step.prompt_tokens:,} prompt tokens, "
        f"{step.generated_tokens:,} written{cut}{dropped}"
    )
    head = (f"step {number} ", "bold")
    yield 0, Text.assemble(head, (ability, style), (numbers, "dim"))
    yield 2, _labelled("search", step.query)
    passages = {passage.id: passage for passage in chain.passages}
    for passage in (passages[passage_id] for passage_id in step.passage_ids):
        name = _marks(passage.title, step.rationale, plain=plain, style="bold")
        gold = " · gold" if passage.id in chain.supporting_ids else ""
        yield 4, Text.assemble(name, (f"  {printable(passage.id)}{gold}", "dim"))
        yield 6, _marks(passage.text, step.rationale, plain=plain)
    if not step.passage_ids:
        yield 4, Text("nothing new", "dim")
    if step.thought is not None:
        yield 2, _labelled("thinks", squeeze(step.thought), "dim")
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
    """The text without control characters, which could steer the terminal; line breaks stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def _print(console: Console, lines: Iterator[tuple[int, Text]]) -> None:
    for indent, line in lines:
        if console.is_terminal:
            console.print(Padding(line, (0, 0, 0, indent), expand=False))
        else:
            console.print(Text(" " * indent).append_text(line), soft_wrap=True)
