"""``python -m es_lightning``: the same as the command ``es-lightning``."""

from es_lightning.cli import main

if __name__ == "__main__":
    main()
