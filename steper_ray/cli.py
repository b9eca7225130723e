"""`steper`: the command line, made from the table of commands. Parses, reads the run file, runs.

Exit codes: 0 done, 1 a stage failed, 2 something given was wrong, 130 ended with Ctrl-C.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

from steper_ray.pipeline.command import Command
from steper_ray.pipeline.commands import all_commands
from steper_ray.pipeline.stage import Option
from steper_ray.text import is_unicode

TOY_RUN_FILE: Final = Path(__file__).parent / "toy" / "run.yaml"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="steper",
        description="Step-wise knowledge distillation of multi-step retrieval reasoning, on Ray.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in all_commands().items():
        _add_command(
            commands.add_parser(name, help=command.help, description=command.help), command
        )
    return root


def _add_command(subparser: argparse.ArgumentParser, command: Command) -> None:
    """Give the parser of a command its options."""
    subparser.add_argument(
        "--config",
        type=Path,
        required=command.needs_run_file,
        default=TOY_RUN_FILE,
        metavar="FILE",
        help="the run file (YAML)",
    )
    subparser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help="override one value of the run file; may be given several times",
    )
    groups: dict[str, argparse._MutuallyExclusiveGroup] = {}
    for option in command.options:
        target: Any = subparser
        if option.group is not None:
            if option.group not in groups:
                groups[option.group] = subparser.add_mutually_exclusive_group()
            target = groups[option.group]
        names = [option.name] if option.short is None else [option.short, option.name]
        target.add_argument(*names, **_settings_of(option))


def _settings_of(option: Option) -> dict[str, Any]:
    """How argparse is told about an option."""
    if option.metavar is None:
        return {"help": option.help, "action": "store_true"}
    settings: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
    if option.name.startswith("-"):
        settings["required"] = option.required
    elif option.default is not None:
        settings["nargs"] = "?"
    if option.default is not None:
        settings["default"] = option.default
    if option.repeated:
        settings |= {"action": "append", "default": []}
    return settings


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if (garbled := next((word for word in words if not is_unicode(word)), None)) is not None:
        shown = garbled.encode("utf-8", "backslashreplace").decode()
        print(
            f"steper: the argument {shown} is not UTF-8 text; type it in a UTF-8 terminal, and rename a "
            "file or folder that is called so",
            file=sys.stderr,
        )
        return 2
    if (unknown := _unknown_command(words)) is not None:
        print(f"steper: {unknown}", file=sys.stderr)
        return 2
    given = parser().parse_args(words)
    signal.signal(signal.SIGTERM, _interrupt)
    from steper_ray.errors import InputError, find_steper_error
    from steper_ray.run.loading import load_config

    command = all_commands()[given.command]
    overrides, arguments = list(given.set), {}
    for option in command.options:
        name = option.name.strip("-").replace("-", "_")
        value = getattr(given, name)
        if option.setting is None:
            arguments[name] = value
        elif value not in (None, False):
            overrides.append(f"{option.setting}={'true' if value is True else value}")
    if command.takes_run_file:
        arguments |= {"run_file": given.config, "overrides": overrides}
    try:
        return command.run(load_config(given.config, overrides), **arguments) or 0
    except KeyboardInterrupt as error:
        print(f"steper: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        known = find_steper_error(error)
        if known is None:
            raise
        print(f"steper {given.command}: {known}", file=sys.stderr)
        return 2 if isinstance(known, InputError) else 1


def _unknown_command(arguments: list[str]) -> str | None:
    """A line about a first argument that is no command, with the nearest one; None if it is one."""
    commands = all_commands()
    if not arguments or arguments[0].startswith("-") or arguments[0] in commands:
        return None
    from steper_ray.run.section import did_you_mean

    hint = did_you_mean(arguments[0], commands) or "steper --help lists the commands"
    return f"no command {arguments[0]!r}; {hint}"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
