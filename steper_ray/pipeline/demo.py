"""`steper demo`: from a toy world to a served student, every stage on its real engine.

It is the pipeline of `steper run` (`ledger.py`, which skips what is up to date) with the stage that invents
the world before it, and questions to the served student behind it. The result is `summary.json`.
"""

import json
import time
from typing import TYPE_CHECKING, Any, Final

from steper_ray.files import write_whole
from steper_ray.pipeline.ledger import run_pending_stages
from steper_ray.pipeline.stages import ORDER
from steper_ray.ray_runtime.progress import stage_done, stage_progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question


DEMO_STAGES: Final = ORDER
"""The stages in order."""


def demo(config: "RunConfig") -> None:
    """Run every stage, serve the student, ask it a question of each hop count, and print the scores.

    Needs a running Ray. Raises InputError and StageError as the stages do. Stages that finished with the
    same settings are skipped, so a second run resumes the first.
    """
    done = run_pending_stages(DEMO_STAGES, config)
    served, seconds = _ask_served_student(config)
    stages = {name: {"seconds": done[name]["seconds"]} for name in DEMO_STAGES}
    stages["serve"] = {"seconds": round(seconds, 3)}
    _finish(config, stages, served)


def first_of_each_hops(questions: "Iterable[Question]") -> "list[Question]":
    """The first question of each hop count, fewest hops first."""
    first: dict[int, Question] = {}
    for question in questions:
        first.setdefault(question.hops or 0, question)
    return [first[hops] for hops in sorted(first)]


def _ask_served_student(config: "RunConfig") -> tuple[dict[str, Any], float]:
    """Serve the student, ask it held-out questions; (its replies and how many are right, seconds)."""
    import httpx

    from steper_ray.data.questions import load_questions
    from steper_ray.serving.session import running_server
    from steper_ray.tasks.qa import exact_match

    questions = first_of_each_hops(load_questions(config.questions, "dev", config.folder.inputs))
    replies: list[dict[str, Any]] = []
    lines: list[str] = []
    started = time.monotonic()
    with stage_progress("serve", "starting the server"), running_server(config) as url:
        for asked in questions:
            response = httpx.post(
                f"{url}/v1/answer", json={"question": asked.question}, timeout=120
            ).raise_for_status()
            reply = response.json()
            right = exact_match(reply["answer"], asked.gold_answers) == 1.0
            replies.append(
                {
                    "question": asked.question,
                    "hops": asked.hops,
                    "gold": asked.answer,
                    "right": right,
                    **reply,
                }
            )
            lines.append(f"asked over HTTP: {asked.question}")
            lines += [f"{s['step']}. [{s['ability']}] {s['rationale']}" for s in reply["steps"]]
            verdict = "right" if right else f"wrong, it is {asked.answer}"
            lines.append(f"answer: {reply['answer']} ({verdict}), {reply['seconds']:.2f} s")
    seconds = time.monotonic() - started
    answers = {"right": sum(reply["right"] for reply in replies), "replies": replies}
    lines.append(f"{answers['right']} of {len(replies)} right")
    stage_done("serve", seconds, lines)
    return answers, seconds


def _finish(config: "RunConfig", stages: dict[str, Any], served: dict[str, Any]) -> None:
    """Write `summary.json`; print the scores and the path of each result."""
    scores = json.loads((config.folder.evaluation / "summary.json").read_text())
    models = {
        name: {key: summary["overall"][key] for key in ("em", "f1", "acc")}
        for name, summary in scores.items()
    }
    summary_file = config.folder.root / "summary.json"
    write_whole(
        summary_file,
        json.dumps({"models": models, "stages": stages, "served": served}, indent=2) + "\n",
    )
    base, student, teacher = (models[name]["em"] for name in ("base", "student", "teacher"))
    share = f", {100 * student / teacher:.0f} % of the teacher's {teacher:.1%}" if teacher else ""
    total = sum(stage["seconds"] for stage in stages.values())
    print(f"\nexact match on held-out questions: base {base:.1%} → student {student:.1%}{share}")
    print(f"all stages: {total / 60:.1f} minutes\n")
    for name, path in {
        "report": config.folder.evaluation / "report.html",
        "summary": summary_file,
        "student": config.folder.student,
        "corpus": config.folder.corpus,
        "chains": config.folder.chains,
        "examples": config.folder.examples,
        "metrics": config.folder.metrics,
        "logs": config.folder.logs,
    }.items():
        print(f"{name:>9}  {path}")
