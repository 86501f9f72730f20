"""The command ``es-lightning``."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, see ``es_lightning.cli.command_line.main``; nothing is imported before that."""
    from es_lightning.cli import command_line

    command_line.main(arguments)
