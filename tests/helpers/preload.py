"""What the ranks of a test need, imported once; they fork from a process that has it."""

import os

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", MPLBACKEND="agg")

import torch  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402, F401

import es_lightning.cli.command_line  # noqa: E402, F401
import tests.helpers.ranks  # noqa: E402, F401

torch.set_num_threads(1)
