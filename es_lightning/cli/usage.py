"""Help and versions, written here so that they need nothing imported."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from es_lightning.system.version import __version__

HEAVY = ("fit", "validate", "test")
"""Commands that LightningCLI runs."""

HELP = """usage: es-lightning COMMAND [OPTIONS]

Fine-tune language models by evolution strategies.

train and evaluate:
  fit         tune a model, evaluate it before and after, export it
  sweep       fit with many settings and seeds, and keep the best config
  baseline    train by reinforcement learning on the same task: GRPO and others, through TRL
  compare     runs side by side: rewards at equal cost, with what certainty
  analyze     any tuned model beside its base: weights, divergence, rewards, what it has forgotten
  validate    evaluate a model on the task's validation problems
  test        evaluate a model on the task's test problems
  plan        compute what a fit will take: memory, time, price
  replay      rebuild the model of any generation, or of a probe's candidate, from its seeds
  ui          show the runs made here in a browser (MLflow)
  to-mlflow   put runs into MLflow that were made without it
  fetch       get the embedded model, once

look at the landscape:
  probe       perturb a model at random: what the rewards around it look like
  curvature   slope and curvature from perturbations, beside autograd's
  degenerate  whether a probe's improving candidates share a direction
  vote        a probe's best candidates on other prompts, alone and by majority
  tune-step   which sigma, learning rate and population a fit should have
  scan        measure the reward along lines and planes through models
  simulate    the theory of rise and decay: simulate it, or fit it to a run

  --help      this text; es-lightning COMMAND --help says more about a command
  --version   the versions of es-lightning and of what it stands on

examples:
  es-lightning fit -c configs/demo.yaml                          a first run, in minutes on a CPU
  es-lightning fit -c configs/demo.yaml --model.sigma 0.002      with another value than the file has
  es-lightning fit -c recipes/sparse.yaml -c configs/demo.yaml   with the parts of a recipe
  es-lightning fit -c configs/demo.yaml --ckpt_path last         go on with a run that was stopped
  es-lightning validate -c configs/demo.yaml --model.base runs/demo/model
  es-lightning plan -c configs/countdown.yaml --device h100 --count 8
  es-lightning replay --journal runs/demo/journal.jsonl --output rebuilt
"""

COMMAND_HELP = """usage: es-lightning {command} -c FILE [-c FILE ...] [--OPTION VALUE ...]

{what}
A value of the command line wins over a file, a later file over an earlier one. FILE is yours, or the
name of a packaged config, such as demo.yaml or recipes/sparse.yaml.

the run:
  -c, --config FILE                     YAML with options; what is a.b here is b: below a: there
  --trainer.max_steps N                 number of generations; without it, one pass over the problems
  --trainer.val_check_interval N        evaluate on validation problems every N generations
  --trainer.default_root_dir FOLDER     the run's folder (runs/NAME, after the config's name)
  --ckpt_path last                      go on with the run in that folder
  --overwrite true                      replace the run in that folder (false)
  --seed_everything INT                 keys all noise of the run (0)

the model:
  --model.base MODEL                    embedded, tiny, a Hugging Face folder, or a hub id (embedded)
  --model.population N                  members of a generation (30)
  --model.sigma X                       noise scale, in units of the weights (0.001)
  --model.optimizer CLASS               an optimizer of torch.optim (SGD)
  --model.optimizer.lr X                learning rate, alpha in the papers (0.0005)
  --model.lr_scheduler CLASS            a scheduler of torch.optim.lr_scheduler (none)
  --model.shaping NAME                  from rewards to weights: centered_rank, FixedScale, ... (z_score)
  --model.antithetic true               members come in pairs of opposite signs (false)
  --model.keep_centre true              member 0 is the centre itself (false)
  --model.noise CLASS                   RademacherNoise, LowRankNoise, ... (GaussianNoise)
  --model.sigma_schedule CLASS          CosineSchedule, SuccessRule, ...; population_schedule alike (none)
  --model.regularisers+=CLASS           AnchoredDecay, SparseUpdate, ClipNorm (none)
  --model.kl_penalty.weight X           reward that a nat from the base model costs (none)

the completions:
  --model.engine CLASS                  VLLMEngine, VLLMAdapterEngine or HFEngine (VLLMEngine)
  --model.engine.dtype NAME             auto, float32, bfloat16 or float16 (auto)
  --model.sampling.max_tokens N         most new tokens of a completion (256)
  --model.sampling.temperature X        0 decodes greedily (0.0)
  --model.sampling.n N                  completions per prompt (1)
  --model.sampling.pass_k K             reward of a prompt: the expected best of K of them (1)

the task:
  --data.task CLASS                     Conciseness, Countdown, ReasoningGym, ... or a class of yours
  --data.task.OPTION VALUE              an option of that task
  --data.objective log_likelihood       of right answers, in place of a reward (reward)
  --data.prompts_per_generation N       problems per generation (all)
  --data.draw passes                    or independent, or fixed: which of them (passes)
  --data.val_prompts N                  validation problems (all)
  --data.test_prompts N                 test problems (all)
  --data.test_with_val true             test them at every validation, not at both ends alone (false)

watching:
  --trainer.callbacks+=CLASS            KLDrift, PopulationHealth, SigmaFinder, ... or a class of yours
  --trainer.logger false                do without MLflow
  --report.export false                 write no model at the end
  --checkpoint.every_n_train_steps N    a checkpoint every N generations

the machine:
  --trainer.accelerator NAME            auto, cpu or gpu (auto)
  --trainer.devices N                   processes, each with its share of the population (auto)

  --help all                            every option, those of Lightning too
  --print_config                        all values, without running
"""

WHAT = {
    "fit": "Tune a model on a task by evolution strategies: evaluate before and after, export the model.\n",
    "validate": "Evaluate a model on the validation problems of a task, without tuning it.\n",
    "test": "Evaluate a model on the test problems of a task, without tuning it.\n",
}
BELOW = ("lightning", "torch", "vllm", "transformers")  # what a run's numbers depend on most


def show(text: str) -> None:
    """Write a text that was asked for to the standard output."""
    sys.stdout.write(text)


def help_of(command: str) -> str:
    """Return the short help of a command of LightningCLI; of es-lightning itself for any other word."""
    if command not in WHAT:
        return HELP
    return COMMAND_HELP.format(command=command, what=WHAT[command])


def versions() -> str:
    """Return this version and those of the libraries that runs depend on, from their metadata."""
    lines = [f"es-lightning {__version__}"]
    for name in BELOW:
        lines.append(f"  {name:12} {_version(name)}")
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu"):  # vLLM has one for CPUs
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "not installed"
