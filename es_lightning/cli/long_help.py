"""The help with every option, those of Lightning's Trainer too, but for those that do nothing here."""

from __future__ import annotations

from argparse import Action
from typing import Any

from jsonargparse import DefaultHelpFormatter

from es_lightning.system.trainer_options import WITHOUT_MEANING

WITHOUT_EFFECT = {
    *(f"trainer.{name}" for name in WITHOUT_MEANING),  # refused
    "trainer.max_epochs",  # max_steps sets the length
    "trainer.min_epochs",
    "trainer.limit_predict_batches",  # there is no predict
    "trainer.inference_mode",
    "trainer.use_distributed_sampler",
    "trainer.reload_dataloaders_every_n_epochs",
    "checkpoint.every_n_epochs",
    "checkpoint.save_on_train_epoch_end",
}


OTHERWISE = {"trainer.max_steps": "Number of generations; -1, the default, is one pass over the problems."}
"""What Lightning's own words say wrongly here."""


class HelpFormatter(DefaultHelpFormatter):
    """Leaves out what has no effect, and the list of all options before their descriptions."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Show one line of usage."""
        super().add_usage("%(prog)s -c FILE [--OPTION VALUE ...]", [], [], prefix)

    def add_argument(self, action: Action) -> None:
        """Show an option that has an effect."""
        if action.dest not in WITHOUT_EFFECT:
            action.help = OTHERWISE.get(action.dest, action.help)
            super().add_argument(action)
