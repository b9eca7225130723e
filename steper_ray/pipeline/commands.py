"""The subcommands of `steper`: every stage, and the commands that are no stage.

Those look at a run (`prompt`, `show`), use its student (`serve`), run several stages (`run`, `demo`) or
deal with jobs (`jobs/commands.py`); they print for themselves.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from steper_ray.pipeline.command import Command
from steper_ray.pipeline.jobs.commands import JOB_COMMANDS
from steper_ray.pipeline.stage import Option
from steper_ray.pipeline.stages import STAGES

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def run_prompt(
    config: "RunConfig",
    *,
    question: str,
    rationale: Sequence[str],
    model: str | None,
    teacher: bool,
) -> None:
    """Print the prompt of each step of a question."""
    from steper_ray.pipeline.prompt import show_prompts

    for line in show_prompts(config, question, rationales=rationale, model=model, teacher=teacher):
        print(line)


def run_show(config: "RunConfig", *, id: str) -> None:
    """Print a chain, or every chain of a question."""
    from steper_ray.selection.show import show

    show(
        config.folder.chains,
        id,
        select=config.select,
        framework=config.reasoning.framework,
    )


def run_serve(config: "RunConfig", *, update: bool, new_key: str | None) -> None:
    """Serve the student until Ctrl-C, update a running server, or make an API key."""
    from steper_ray.serving.keys import new_key as make_key

    if new_key is not None:
        print(make_key(config.serve, new_key))
        return
    from steper_ray.pipeline.check import checked_session
    from steper_ray.pipeline.execute import prepare
    from steper_ray.serving.session import find_cluster, serve_until_interrupted, update_server

    prepare(config)
    if update:
        find_cluster(config)
    with checked_session(config):
        if update:
            update_server(config)
        else:
            serve_until_interrupted(config)


def run_several(config: "RunConfig", *, stages: str) -> None:
    """Run a range of stages, skipping those that are up to date."""
    from steper_ray.pipeline.stage_range import run_range

    run_range(config, stages)


def run_demo(config: "RunConfig") -> None:
    """Run the toy world from its invention to an answer of the served student."""
    from steper_ray.pipeline.check import checked_session
    from steper_ray.pipeline.demo import DEMO_STAGES, demo
    from steper_ray.pipeline.execute import prepare

    prepare(config, DEMO_STAGES)
    with checked_session(config):
        demo(config)


def run_check(config: "RunConfig") -> None:
    """Say what would stop the run."""
    from steper_ray.models.hub import use_hub
    from steper_ray.pipeline.check import check_run
    from steper_ray.ray_runtime.session import ray_session

    use_hub(config.hub)
    with ray_session():
        check_run(config)


def run_stage_command(name: str, config: "RunConfig") -> None:
    """Run one stage as a command."""
    from steper_ray.pipeline.execute import run_stages

    run_stages([name], config)


OTHER_COMMANDS: Final = {
    "prompt": Command(
        help="print the exact prompt of each step of a question, with its tokens",
        packages=("reasoning",),
        sections=("reasoning",),
        options=(
            Option("--question", "the question to ask", metavar="QUESTION", required=True),
            Option(
                "--rationale",
                "what the model is assumed to write at the next step; may be given several times",
                metavar="TEXT",
                repeated=True,
            ),
            Option(
                "--model",
                "whose tokenizer and settings to use; default: the base student's (train.model)",
                metavar="MODEL",
                group="whose",
            ),
            Option("--teacher", "the teacher's (build.teacher)", group="whose"),
        ),
        run=run_prompt,
    ),
    "show": Command(
        help="print one chain so that a person can judge it",
        packages=("selection",),
        sections=("select",),
        options=(Option("id", "id of a chain or of a question", metavar="ID"),),
        run=run_show,
    ),
    "check": Command(
        help="say what would stop a run: storage, packages, GPUs, models, disks, port",
        packages=("pipeline", "ray_runtime"),
        sections=(),
        run=run_check,
    ),
    "serve": Command(
        help="serve the student over HTTP until Ctrl-C",
        packages=("serving",),
        sections=("serve",),
        writes=("serve.cluster.json",),
        options=(
            Option(
                "--update",
                "change the running server over to these settings, while it goes on answering",
                group="task",
            ),
            Option(
                "--new-key",
                "make an API key, show it once, and add its hash to serve.keys_file",
                metavar="NAME",
                group="task",
            ),
        ),
        run=run_serve,
    ),
    "run": Command(
        help="several stages in order without what is up to date: index..eval, or a..b",
        packages=("pipeline",),
        sections=(),
        writes=("stages.json",),
        options=(
            Option(
                "stages",
                "first and last stage, of index, build, train, eval and serve; default: index..eval",
                metavar="a..b",
                default="index..eval",
            ),
        ),
        run=run_several,
    ),
    "demo": Command(
        help="all of it on the toy world",
        packages=("pipeline",),
        sections=(),
        writes=("stages.json", "summary.json"),
        run=run_demo,
        needs_run_file=False,
    ),
}
"""The commands that are no stage, by name."""


def all_commands() -> dict[str, Command]:
    """Every subcommand by name, the stages first."""
    stages = {
        name: Command(
            help=stage.help,
            packages=stage.packages,
            sections=stage.sections,
            writes=stage.writes,
            options=stage.options,
            run=partial(run_stage_command, name),
        )
        for name, stage in STAGES.items()
    }
    return stages | OTHER_COMMANDS | JOB_COMMANDS
