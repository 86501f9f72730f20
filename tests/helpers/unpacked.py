"""vLLM with its matrices as they were loaded, as on GPUs."""

from pathlib import Path

from es_lightning.rollout import VLLMEngine


class Unpacked(VLLMEngine):
    """On a CPU vLLM packs no matrix where oneDNN seems to be missing; this lasts for the process."""

    def start(self, folder: Path, max_length: int) -> None:
        """Start without oneDNN."""
        import vllm._custom_ops

        vllm._custom_ops._supports_onednn = False
        super().start(folder, max_length)
