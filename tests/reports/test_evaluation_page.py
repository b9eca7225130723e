import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest

from steper_ray.evaluation.summary import summarize
from steper_ray.reports.evaluation_page import (
    STOP_REASONS,
    cost_line,
    headline,
    write_evaluation_page,
)
from steper_ray.reports.evaluation_tables import ModelReport
from steper_ray.reports.training_curves import read_training
from steper_ray.schema import StopReason

HOSTILE = "<script>alert('x')</script>"


def chain(em: float, *, number: int = 1, stop: str = "answered", **changes: Any) -> dict[str, Any]:
    passages = [
        {"id": "p1", "title": "Balrin Observatory", "text": f"Founded by Ilsa Verrun. {HOSTILE}"},
        {"id": "p2", "title": "Ilsa Verrun", "text": "Born in Quell."},
    ]
    costs = {
        "mean_logprob": None,
        "prompt_tokens": 100,
        "generated_tokens": 20,
        "dropped_passages": 0,
        "search_seconds": 0.25,
        "generate_seconds": 0.5,
    }
    first = f"Ilsa Verrun founded it. {HOSTILE}"
    question = f"Where was the founder of number {number} born?"
    steps = [
        {"query": question, "passage_ids": ["p1"], "rationale": first, **costs},
        {"query": first, "passage_ids": ["p2"], "rationale": "So the answer is: Quell.", **costs},
    ]
    row = {
        "id": f"q{number}",
        "question_id": f"q{number}",
        "question": question,
        "gold_answers": ["Quell", "port of Quell"],
        "hops": 2,
        "passages": passages,
        "steps": steps,
        "answer": "Quell" if em else f"Tamsin {HOSTILE}",
        "supporting_ids": ["p1", "p2"],
        "stop_reason": stop,
        "em": em,
        "f1": em,
        "acc": em,
        "model": "student",
        "corpus_version": "1",
        "error": None,
    }
    return {**row, **changes}


CHAINS = [
    chain(0.0, number=1),
    chain(1.0, number=2),
    chain(1.0, number=3, hops=3),
    chain(0.0, number=4, stop="forced"),
]


def models() -> dict[str, ModelReport]:
    def shares(right: int, of: int) -> list[dict[str, Any]]:
        return [chain(float(n < right), hops=2 + n % 2) for n in range(of)]

    return {
        "StepER": ModelReport("student", summarize(shares(5, 8)), 1_540_000_000, 3_090_000_000),
        "Base": ModelReport("base", summarize(shares(1, 8))),
        "Teacher": ModelReport("teacher", summarize(shares(6, 8)), 70_600_000_000),
        "vanilla <KD>": ModelReport("other", summarize(shares(4, 8))),
    }


def metrics(path: Path, **changes: Any) -> Path:
    steps = 60
    lines = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "steps": steps, "epoch": step / 30, "loss": 0.9}
        row |= {"L_init": 0.5184, "L_exp": 2.0164, "L_agg": 0.7396 if step % 2 else None}
        row |= {"sigma_init": 0.72, "sigma_exp": 1.42, "sigma_agg": 0.86}
        row |= {"tokens_per_second": 5_000.0}
        lines.append(json.dumps({**row, **changes}))
    path.write_text("\n".join(lines) + "\n")
    return path


def render(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "report.html"
    given: dict[str, Any] = {
        "title": "HotpotQA <dev>",
        "models": models(),
        "metrics_file": metrics(tmp_path / "metrics.jsonl"),
        "chains": {"StepER": CHAINS},
    }
    write_evaluation_page(path, **{**given, **changes})
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Every tag and attribute of a page, its text, and whether its tags are balanced."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"}.intersection(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_text_of_passages_and_models_is_never_markup(tmp_path: Path) -> None:
    page = render(tmp_path)
    parsed = Page(page)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    # the index, the chains, and the code, which is ours
    assert [one.get("type") for one in scripts] == ["application/json", "text/plain", None]
    assert page.count("<script") == 3
    # In a passage, in a rationale and in an answer it is still there to read.
    assert f"Founded by Ilsa Verrun. {HOSTILE}" in parsed.text
    assert f"Ilsa Verrun founded it. {HOSTILE}" in parsed.text
    assert f"Tamsin {HOSTILE}" in parsed.text
    assert "vanilla <KD>" in parsed.text
    assert "HotpotQA <dev>" in parsed.text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = render(tmp_path)
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "image")
        assert not attributes.keys() & {"src", "srcset", "action", "data", "poster"}
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?(.)", page))
    assert not re.search(r"https?://", page)
    policies = [a.get("content") or "" for t, a in parsed.tags if t == "meta"]
    (policy,) = (one for one in policies if one.startswith("default-src"))
    code = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'"
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; {allowed}"


def test_it_holds_the_numbers(tmp_path: Path) -> None:
    text = Page(render(tmp_path)).text
    # 5, 1, 6 and 4 of 8; 5 / 6 of the teacher's
    assert "The student answers 62.5% of 8 questions exactly, up from 12.5% before training" in text
    assert "83% of its teacher’s 75.0%." in text
    assert "Exact match 62.5% 12.5% 75.0% 50.0%" in text
    # even numbers have 2 hops, odd ones 3: of the first five right ones 3 and 2 of 4
    assert "2 hops 4 75.0% 25.0% 75.0% 50.0%" in text
    assert "3 hops 4 50.0% 0.0% 75.0% 50.0%" in text
    # each chain finds p1 at its first step and p2 at its second
    assert "Gold passages found by Step 1 50.0% 50.0% 50.0% 50.0% Step 2 100.0% 100.0%" in text
    assert "Time 1.50 s 1.50 s 1.50 s 1.50 s" in text
    assert "Tokens read 200 200 200 200" in text
    assert "Tokens written 40 40 40 40" in text
    assert "Parameters 1.54B – 70.6B –" in text
    assert "Weights on disk 3.09 GB – – –" in text
    assert "60 optimizer steps, 2 epochs, 5,000 tokens a second" in text
    # σ at rest is √L, and the weight 1 / 2σ²
    assert "init 0.518 0.720 0.720 0.96" in text
    assert "exp 2.016 1.420 1.420 0.25" in text
    assert "agg 0.740 0.860 0.860 0.68" in text


def test_it_can_be_read_by_ear(tmp_path: Path) -> None:
    parsed = Page(render(tmp_path))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("caption") == tags.count("table") == 3
    assert all(a.get("scope") in ("col", "row", "rowgroup") for t, a in parsed.tags if t == "th")
    charts = [a for t, a in parsed.tags if t == "svg"]
    assert len(charts) == 3
    assert all(a.get("role") == "img" and a.get("aria-label") for a in charts)
    ids = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert tags.count("h1") == 1
    assert ("html", {"lang": "en"}) in parsed.tags
    labels = {a["aria-labelledby"] for _, a in parsed.tags if a.get("aria-labelledby")}
    assert labels <= set(ids)


def test_no_id_occurs_twice(tmp_path: Path) -> None:
    ids = [a["id"] for _, a in Page(render(tmp_path)).tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_chains_to_read(tmp_path: Path) -> None:
    text = Page(render(tmp_path)).text
    # The first right, the first wrong, and the first forced one, as neither of those was.
    assert [int(n) for n in re.findall(r"founder of number (\d) born", text)] == [2, 1, 4]
    assert "Gold Quell · port of Quell" in text
    assert "Searched with the question" in text
    assert "Searched with the sentence before" in text
    assert "1 new passage: Ilsa Verrun" in text
    assert text.count("Stopped because the model gave its answer.") == 2
    assert text.count("Stopped because the steps ran out") == 1


def test_a_query_of_its_own_is_shown(tmp_path: Path) -> None:
    row = chain(1.0)
    row["steps"][1] = {**row["steps"][1], "query": "Verrun birthplace", "passage_ids": []}
    text = Page(render(tmp_path, chains={"StepER": [row]})).text
    assert "Searched with “Verrun birthplace”" in text
    assert "No new passage" in text


def test_chains_with_errors_are_counted_not_shown(tmp_path: Path) -> None:
    failed = chain(0.0, number=9, error="prompt too long <1>", steps=[], answer="")
    text = Page(render(tmp_path, chains={"StepER": [failed, chain(1.0)]})).text
    assert "1 question could not be worked on. The first error: prompt too long <1>" in text
    assert "number 9" not in text
    assert "There are no chains to show." in Page(render(tmp_path, chains={"StepER": []})).text


@pytest.mark.parametrize("missing", [None, Path("nowhere/metrics.jsonl")])
def test_missing_metrics_are_said(tmp_path: Path, missing: Path | None) -> None:
    page = render(tmp_path, metrics_file=missing)
    assert "There is no training metrics file" in Page(page).text
    assert page.count("<svg") == 1


def test_objectives_without_sigma_or_stages(tmp_path: Path) -> None:
    none = {f"sigma_{ability}": None for ability in ("init", "exp", "agg")}
    uniform = render(tmp_path, metrics_file=metrics(tmp_path / "uniform.jsonl", **none))
    assert "This objective learns no σ." in Page(uniform).text
    assert uniform.count("<svg") == 2
    none |= {f"L_{ability}": None for ability in ("init", "exp", "agg")}
    vanilla = render(tmp_path, metrics_file=metrics(tmp_path / "vanilla.jsonl", **none))
    assert vanilla.count("<svg") == 2
    assert "At the end of training" not in vanilla
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "holds no losses" in render(tmp_path, metrics_file=empty)


def test_training_of_a_resumed_run(tmp_path: Path) -> None:
    file = tmp_path / "resumed.jsonl"
    file.write_text(
        '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 2, "lo\n[1]\n\n'
        '{"step": 2, "loss": 1.5}\n{"step": 3, "loss": NaN}\n{"loss": 1.0}\n'
    )
    training = read_training(file)
    assert [row["step"] for row in training.rows] == [1, 2, 3]
    assert training.unreadable == 3
    curve = training.curve("loss", "loss", "student")
    assert curve is not None
    assert curve.values.tolist() == [3.0, 1.5]
    assert training.curve("lr", "lr", "student") is None
    assert "3 lines of the metrics file could not be read" in render(tmp_path, metrics_file=file)


def test_headlines() -> None:
    given = models()
    student, base, teacher = given["StepER"], given["Base"], given["Teacher"]
    assert headline({"s": student}) == "The student answers 62.5% of 8 questions exactly."
    assert headline({"GPT": ModelReport("other", base.summary)}).startswith("GPT answers 12.5%")
    assert "down from 62.5%" in headline(
        {"s": ModelReport("student", base.summary), "b": ModelReport("base", student.summary)}
    )
    assert "as many as before training" in headline(
        {"s": student, "b": ModelReport("base", student.summary)}
    )
    nothing = ModelReport("teacher", summarize([chain(0.0)]))
    assert headline({"s": student, "t": nothing}).endswith("exactly; its teacher answers 0.0%.")
    one = ModelReport("student", summarize([chain(1.0)]))
    assert headline({"s": one}) == "The student answers 100.0% of 1 question exactly."
    assert cost_line(given) == (
        "A question takes it 1.50 s, the teacher 1.50 s; "
        "it has 1.54B parameters, the teacher 70.6B."
    )
    assert cost_line({"s": student, "b": base}) is None
    assert cost_line({"s": student, "t": ModelReport("teacher", teacher.summary)}) == (
        "A question takes it 1.50 s, the teacher 1.50 s."
    )


def test_models_asked_different_questions(tmp_path: Path) -> None:
    few = ModelReport("base", summarize([chain(1.0, hops=None), chain(0.0, hops=2)]))
    failed = ModelReport("other", summarize([chain(0.0, hops=4, steps=[], error="died")]))
    text = Page(render(tmp_path, models={**models(), "Base": few, "Dead": failed})).text
    assert "2 hops 1 to 4 75.0% 0.0% 75.0% 50.0% –" in text
    assert "Unknown 1 – 100.0% – – –" in text
    assert "Questions 8 2 8 8 1" in text
    assert "Steps 2.0 2.0 2.0 2.0 –" in text


def test_the_page_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    given: dict[str, Any] = {"title": "t", "models": models(), "metrics_file": None}
    write_evaluation_page(path, **given, chains={"StepER": CHAINS})
    before = path.read_bytes()
    broken = chain(1.0)
    del broken["gold_answers"]
    with pytest.raises(Exception, match="gold_answers"):
        write_evaluation_page(path, **given, chains={"StepER": [broken]})
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"report.html", "report.md"}


def test_its_numbers_stand_in_markdown_too(tmp_path: Path) -> None:
    render(tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# HotpotQA &#60;dev&#62;"
    assert lines[2].startswith("The student answers 62.5% of 8 questions exactly")
    head = "| Answers | StepER | Base | Teacher | vanilla &#60;KD&#62; |"
    at = lines.index(head)
    assert lines[at + 1] == "| --- | --- | --- | --- | --- |"
    assert lines[at + 2] == "| Exact match | 62.5% | 12.5% | 75.0% | 50.0% |"


def test_half_a_surrogate_pair_does_not_stop_it(tmp_path: Path) -> None:
    assert "Quell?" in render(tmp_path, chains={"StepER": [chain(1.0, answer="Quell\ud83d")]})


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    assert render(tmp_path) == render(tmp_path)


def test_every_reason_to_stop_is_said_in_words() -> None:
    assert set(STOP_REASONS) == set(get_args(StopReason))
