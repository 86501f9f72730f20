"""Floating-point operations of a training, by the formulas that the papers compare with.

Notation: B parameters, G completions for each of P prompts, L tokens of a prompt with its completion.
"""


def of_policy_update(group: int, parameters: int, prompts: int, length: float) -> float:
    """Compute 14 B G P L: a GRPO update with B parameters, G completions for each of P prompts.

    The count of the async-es release, for two epochs over the completions and a reference model. It is the
    same whether or not a run has them, so that papers and runs can be compared.

    Args:
        group: G.
        parameters: B.
        prompts: P.
        length: L, mean over the completions.
    """
    return 14.0 * parameters * group * prompts * length
