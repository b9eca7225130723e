"""`steper`: one subcommand a stage. Parses, builds the configuration, runs.

Exit codes: 0 done, 1 a stage failed, 2 something given was wrong, 130 ended with Ctrl-C.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

TOY_RUN_FILE: Final = Path(__file__).parent / "toy" / "run.yaml"

COMMANDS: Final = {
    "toy": "invent a toy world: passages, questions, tiny models",
    "index": "passages → a Lance dataset with its BM25 index",
    "build": "questions → the teacher's chains → step-wise examples",
    "train": "step-wise examples → a trained student",
    "eval": "compare models on held-out questions, write report.html",
    "compare": "train the student in several ways and test which learns best",
    "serve": "serve the student over HTTP until Ctrl-C",
    "demo": "all of it on the toy world",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="steper",
        description="Step-wise knowledge distillation of multi-step retrieval reasoning, on Ray.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--config",
            type=Path,
            required=name != "demo",
            default=TOY_RUN_FILE,
            metavar="FILE",
            help="the run file (YAML)",
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="section.key=value",
            help="override one value of the run file; may be given several times",
        )
        if name == "train":
            command.add_argument(
                "--push-to-hub",
                metavar="OWNER/NAME",
                help="upload the student to the Hugging Face Hub (train.push_to_hub)",
            )
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    from steper_ray.config import load_config
    from steper_ray.errors import InputError, find_steper_error
    from steper_ray.stages import run_command

    overrides = list(arguments.set)
    if getattr(arguments, "push_to_hub", None):
        overrides.append(f"train.push_to_hub={arguments.push_to_hub}")
    try:
        run_command(arguments.command, load_config(arguments.config, overrides))
    except KeyboardInterrupt:
        print("steper: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        known = find_steper_error(error)
        if known is None:
            raise
        print(f"steper {arguments.command}: {known}", file=sys.stderr)
        return 2 if isinstance(known, InputError) else 1
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
