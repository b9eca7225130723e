"""What README and docs/ say is true: files, commands, settings, links, messages, prompts, tables."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from inspect import isclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import BaseModel

from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA
from steper_ray.cli import parser
from steper_ray.reasoning.demonstrations import read_demonstrations
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.prompts import make_prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.config import RunConfig
from steper_ray.schema import Passage
from steper_ray.selection.rejection import REJECTIONS

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
PAGES: Final = [README, ROOT / "cluster" / "README.md", *sorted(DOCS.rglob("*.md"))]
ANY_PAGE: Final = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))

PATH: Final = re.compile(
    r"(?<![\w./-])((?:steper_ray|jobs|cluster|tests|docs|\.ci|\.github)/[\w./*-]*"
    r"|Makefile|pyproject\.toml|requirements[\w-]*\.lock)"
)
"""A file or folder of the repository, or a pattern of such."""
COMMAND: Final = re.compile(r"(?<![\w.-])(?<!-n )steper ([a-z]+)([^\n#|;`]*)")
"""A command with its options; `-n steper` is a Kubernetes namespace."""
KEY: Final = re.compile(r"([a-z]+(?:\.[a-z_]+)+)(?:[:=].*)?")
FILE_NAME: Final = re.compile(r"\.(csv|html|json|jsonl|lance|log|md|parquet|py|yaml)$")


@cache
def tokens(page: Path) -> list[Token]:
    """The blocks of a page; an inline one has its parts as children."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def parts(page: Path) -> Iterator[Token]:
    """The parts of a page's texts: code, links, pictures, words."""
    for token in tokens(page):
        yield from token.children or ()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language; lines that continue are joined."""
    return [
        token.content.replace("\\\n", " ")
        for token in tokens(page)
        if token.type == "fence" and token.info == language
    ]


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in running text."""
    return [part.content for part in parts(page) if part.type == "code_inline"]


def shown_commands(page: Path) -> list[str]:
    """Lines that a reader may type: inline code, and the lines of shell blocks."""
    return inline_code(page) + [line for block in blocks(page, "sh") for line in block.splitlines()]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: Counter[str] = Counter()
    result = set()
    for opening, heading in pairwise(tokens(page)):
        if opening.type == "heading_open":
            shown = "".join(part.content for part in heading.children or ())
            name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            result.add(f"{name}-{found[name]}" if found[name] else name)
            found[name] += 1
    return result


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, in this repository."""
    targets = [part.attrs.get("href") or part.attrs.get("src") for part in parts(page)]
    return [str(target) for target in targets if target and "://" not in str(target)]


def kinds(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: the members of unions, without annotations."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from kinds(member)
    elif origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    else:
        yield annotation


def is_key(annotation: Any, path: Sequence[str]) -> bool:
    """Whether a value of this type has a key path."""
    if not path:
        return True
    for kind in kinds(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return True
        if isclass(kind) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(path[0])
            if field is not None and is_key(field.annotation, path[1:]):
                return True
        if origin is dict and is_key(arguments[1], path[1:]):
            return True
        if origin in (tuple, list) and any(is_key(inner, path) for inner in arguments):
            return True
    return False


def test_readme_is_one_page() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert not [line for line in lines if len(line) > 108]


@ANY_PAGE
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = {README}, [README]
    while ahead:
        page = ahead.pop()
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        ahead += [one for one in found - reached if one.suffix == ".md" and one.is_file()]
        reached |= found
    assert not set(DOCS.rglob("*.md")) - reached


@ANY_PAGE
def test_files_exist(page: Path) -> None:
    named = [path for text in shown_commands(page) for path in PATH.findall(text)]
    assert not [path for path in named if not any(ROOT.glob(path.rstrip("./") or "*"))]


@ANY_PAGE
def test_commands_exist(page: Path) -> None:
    (commands,) = [action.choices for action in parser()._actions if action.dest == "command"]
    assert isinstance(commands, dict)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    wrong = []
    for text in shown_commands(page):
        wrong += [
            f"make {target}"
            for target in re.findall(r"^make ([a-z-]+)", text)
            if target not in targets
        ]
        for name, rest in COMMAND.findall(text):
            if name not in commands:
                wrong.append(f"steper {name}")
                continue
            options = commands[name]._option_string_actions
            given = re.findall(r"--[a-z-]+", rest)
            wrong += [f"steper {name} {option}" for option in given if option not in options]
    assert not wrong


@ANY_PAGE
def test_settings_exist(page: Path) -> None:
    texts = [text for text in inline_code(page) if not FILE_NAME.search(text)]
    named = [match[1] for text in texts if (match := KEY.fullmatch(text))]
    named += [key for text in shown_commands(page) for key in re.findall(r"--set ([\w.]+)=", text)]
    paths = [key.split(".") for key in named if key.partition(".")[0] in RunConfig.model_fields]
    assert not [".".join(path) for path in paths if not is_key(RunConfig, path)]


@ANY_PAGE
def test_run_files_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        assert set(values) <= set(RunConfig.model_fields), block
        RunConfig.model_validate(values)


@ANY_PAGE
def test_python_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_is_key_tells_keys_from_others() -> None:
    for key in (
        "train.lora.rank",
        "engine.args.max_model_len",
        "sweep.parameters.lr.log",
        "build.endpoint.api",
    ):
        assert is_key(RunConfig, key.split(".")), key
    for key in ("train.lora.ranks", "engine.arguments", "sweep.parameters.lr.logs", "run.dir.name"):
        assert not is_key(RunConfig, key.split(".")), key


def source_texts() -> list[str]:
    """Every text in the package's code on one line, with `…` for what is filled in."""
    texts = []
    for file in sorted((ROOT / "steper_ray").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            if all(isinstance(value, ast.Constant | ast.FormattedValue) for value in values):
                text = "".join(
                    str(value.value) if isinstance(value, ast.Constant) else "…" for value in values
                )
                texts.append(" ".join(text.split()))
    return texts


def test_messages_are_those_of_the_code() -> None:
    """The first column of the tables in troubleshooting.md; `…` stands for anything."""
    texts = source_texts()
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [
        (double or single).strip()
        for double, single in re.findall(r"^\| (?:``(.+?)``|`([^`]+)`) \|", text, re.MULTILINE)
    ]
    assert len(messages) > 40
    patterns = [".*?".join(map(re.escape, message.split("…"))) for message in messages]
    missing = [
        message
        for message, pattern in zip(messages, patterns, strict=True)
        if not any(re.search(pattern, text) for text in texts)
    ]
    assert not missing


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_prompts_are_what_a_model_reads(name: str) -> None:
    """The second step of the first bundled demonstration."""
    demonstration = read_demonstrations("bundled", name, FRAMEWORKS[name])[0]
    searches = [
        [Passage("", p.title, p.text) for p in step.passages] for step in demonstration.steps
    ]
    rationales = [step.text for step in demonstration.steps]
    settings = ReasoningConfig.model_validate({"framework": name})
    prompt = make_prompt(settings, demonstration.question, searches, rationales[:1], forced=False)
    target = FRAMEWORKS[name].render_target(rationales[1], forced=False)
    shown = [block.rstrip("\n") for block in blocks(DOCS / "reasoning.md", "text")]
    assert prompt.text in shown
    assert target.rstrip("\n") in shown


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("selecting.md", REJECTIONS),
        ("run-folder.md", [*CHAIN_SCHEMA.names, *STEP_EXAMPLE_SCHEMA.names]),
        ("architecture.md", [f"steper {name}" for name in parser()._actions[-1].choices or ()]),
    ],
)
def test_tables_are_complete(page: str, names: Sequence[str]) -> None:
    assert not set(names) - set(inline_code(DOCS / page))
