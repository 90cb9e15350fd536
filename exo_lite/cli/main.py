"""The group of verbs. A verb's module is imported when the verb is asked for, what it needs when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from exo_lite import __version__
from exo_lite.cli.config_file import program_config_option
from exo_lite.cli.errors import INTERRUPTED, failure
from exo_lite.domain.errors import ExoLiteError

VERBS = {
    "node": ("exo_lite.cli.node", "node", "Run this machine's daemon."),
    "run": ("exo_lite.cli.run", "run", "Ask a model, or chat with it."),
    "status": ("exo_lite.cli.status", "status", "Show nodes, models and who holds which layers."),
    "plan": ("exo_lite.cli.plan", "plan", "Show which node would hold which layers, without loading."),
    "load": ("exo_lite.cli.load", "load", "Place a model and load it."),
    "unload": ("exo_lite.cli.load", "unload", "Unload a model from memory."),
    "bench": ("exo_lite.cli.bench", "bench", "Measure how fast a model answers."),
    "models": ("exo_lite.cli.models", "models", "List the models that exo_lite knows."),
    "show": ("exo_lite.cli.models", "show", "Show one model in full."),
    "import": ("exo_lite.cli.import_model", "import_model", "Import a model from a folder or a .gguf file."),
    "rm": ("exo_lite.cli.import_model", "remove", "Remove a model's files from this machine."),
    "version": ("exo_lite.cli.version", "version", "Show the versions that matter in a bug report."),
}
"""Each verb's module, its name there, and the line that `--help` shows."""

EPILOG = (
    "Every flag can also be set as EXO_LITE_<FLAG> in the environment and in the configuration file: there, a flag at"
    " the top holds for every verb that has it, one under [verb] for that verb. The command line goes before the"
    " environment, the environment before the file.\n\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon answers, 4 the model does not fit, 130 interrupted."
)


class VerbGroup(click.Group):
    """Imports verbs on demand and turns every way to fail into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, _, line) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExoLiteError as error:
            raise failure(error) from error
        except KeyboardInterrupt:
            click.echo(err=True)  # the terminal's ^C stands on a line of its own
            ctx.exit(INTERRUPTED)


@click.group(
    cls=VerbGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[program_config_option()],
)
@click.version_option(__version__, message="exo-lite %(version)s")
def main() -> None:
    """One computer for a Llama model, made of the machines that you already have."""
