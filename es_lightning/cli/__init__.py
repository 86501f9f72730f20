"""The command ``es-lightning``."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, see ``es_lightning.cli.command_line.main``; nothing is imported before that."""
    from es_lightning.system.signals import Interrupted, ending_at_once, interruptible_start

    with ending_at_once():  # the imports take seconds
        from es_lightning.cli import command_line
        from es_lightning.cli.console import stop
    try:
        with interruptible_start():
            command_line.main(arguments)
    except Interrupted as interrupted:
        stop(str(interrupted), exit_code=interrupted.exit_code)
