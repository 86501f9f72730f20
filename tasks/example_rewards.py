"""Examples of reward functions for ``PythonRewards``; put your own into a file of your own."""


def mentions(prompt: str, completion: str, answer: str) -> float:
    """Return 1.0 if the row's answer occurs in the completion, in upper or lower case, else 0.0."""
    return float(answer.casefold() in completion.casefold())


async def brevity(prompt: str, completion: str, **row: object) -> dict[str, float]:
    """Return 1 - characters / 200, at least 0, and a component; async, as a call to a service would be."""
    characters = len(completion.strip())
    return {"reward": max(0.0, 1 - characters / 200), "characters": float(characters)}
