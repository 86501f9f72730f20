"""Floating-point operations of a training, by the formulas that the papers compare with.

Notation: B or D parameters, G completions for each of P prompts, N members of a population, L tokens of a
prompt with its completion. The counts are those of the async-es release.
"""


def of_generation(members: int, parameters: int, prompts: int, length: float) -> float:
    """Compute 2 N D P L: a generation of evolution strategies, all of whose work is forward passes.

    Making noise and the update are a few operations per member and parameter, and are not counted.

    Args:
        members: N.
        parameters: D.
        prompts: P, or completions of a member, if a prompt has several.
        length: L, mean over the completions.
    """
    return 2.0 * members * parameters * prompts * length


def of_policy_update(group: int, parameters: int, prompts: int, length: float) -> float:
    """Compute 14 B G P L: a GRPO update with B parameters, G completions for each of P prompts.

    That is for two epochs over the completions and a reference model. It is the same whether or not a run has
    them, so that papers and runs can be compared.

    Args:
        group: G.
        parameters: B.
        prompts: P.
        length: L, mean over the completions.
    """
    return 14.0 * parameters * group * prompts * length
