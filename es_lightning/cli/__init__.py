"""The command ``es-lightning``."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, see ``es_lightning.cli.entry.main``; nothing is imported before that."""
    from es_lightning.system.signals import ending_at_once

    with ending_at_once():
        from es_lightning.cli import entry
    entry.main(arguments)
