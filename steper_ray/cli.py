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
    "prompt": "print the exact prompt of each step of a question, with its tokens",
    "plan": "predict time, tokens and size of a build from a small sample",
    "build": "questions → the teacher's chains → step-wise examples",
    "select": "choose again among the teacher's chains, without the teacher",
    "show": "print one chain so that a person can judge it",
    "train": "step-wise examples → a trained student",
    "eval": "compare models on held-out questions, write report.html",
    "compare": "train the student in several ways and test which learns best",
    "sweep": "sweep over σ, learning rates and other settings of the training",
    "serve": "serve the student over HTTP until Ctrl-C",
    "demo": "all of it on the toy world",
}

PUSHED: Final = {
    "build": ("examples with their card", "build"),
    "select": ("examples with their card", "build"),
    "train": ("student", "train"),
}
"""Commands that can push to the Hub: what, and the section that says where to."""


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
        if name == "prompt":
            command.add_argument("--question", required=True, help="the question to ask")
            command.add_argument(
                "--rationale",
                action="append",
                default=[],
                metavar="TEXT",
                help="what the model is assumed to write at the next step; may be given several times",
            )
            whose = command.add_mutually_exclusive_group()
            whose.add_argument(
                "--model",
                metavar="MODEL",
                help="whose tokenizer and settings to use; default: the base student's (train.model)",
            )
            whose.add_argument(
                "--teacher", action="store_true", help="the teacher's (build.teacher)"
            )
        if name == "show":
            command.add_argument("id", metavar="ID", help="id of a chain or of a question")
        if name in PUSHED:
            what, section = PUSHED[name]
            command.add_argument(
                "--push-to-hub",
                metavar="OWNER/NAME",
                help=f"upload the {what} to the Hugging Face Hub ({section}.push_to_hub)",
            )
        if name == "plan":
            command.add_argument(
                "--sample",
                metavar="N",
                help="questions that each teacher is asked, and the build then not (build.plan_sample)",
            )
        if name == "serve":
            task = command.add_mutually_exclusive_group()
            task.add_argument(
                "--update",
                action="store_true",
                help="change the running server over to these settings, while it goes on answering",
            )
            task.add_argument(
                "--new-key",
                metavar="NAME",
                help="make an API key, show it once, and add its hash to serve.keys_file",
            )
        if name == "build":
            command.add_argument(
                "--fresh",
                action="store_true",
                help="throw away the chains that are there and ask every question again",
            )
            command.add_argument(
                "--mix",
                action="store_true",
                help="add chains to existing ones that another version made by other rules (build.mix)",
            )
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    from steper_ray.errors import InputError, find_steper_error
    from steper_ray.pipeline.execute import run_command
    from steper_ray.run.loading import load_config

    overrides = list(arguments.set)
    if getattr(arguments, "push_to_hub", None):
        overrides.append(f"{PUSHED[arguments.command][1]}.push_to_hub={arguments.push_to_hub}")
    if getattr(arguments, "sample", None) is not None:
        overrides.append(f"build.plan_sample={arguments.sample}")
    if getattr(arguments, "fresh", False):
        overrides.append("build.fresh=true")
    if getattr(arguments, "mix", False):
        overrides.append("build.mix=true")
    try:
        config = load_config(arguments.config, overrides)
        if arguments.command == "prompt":
            from steper_ray.reasoning.preview import show_prompts

            for line in show_prompts(
                config,
                arguments.question,
                rationales=arguments.rationale,
                model=arguments.model,
                teacher=arguments.teacher,
            ):
                print(line)
        elif arguments.command == "show":
            from steper_ray.selection.show import show

            show(config, arguments.id)
        elif getattr(arguments, "new_key", None) is not None:
            from steper_ray.serving.keys import new_key

            print(new_key(config.serve, arguments.new_key))
        else:
            run_command(arguments.command, config, update=getattr(arguments, "update", False))
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
