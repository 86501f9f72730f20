"""A task for tests, in a module of its own: the processes that grade load it without torch or Lightning."""

from es_lightning.records import Prompt
from es_lightning.task import Reward, Task


class Letters(Task):
    """Earns the share of vowels: any change of the weights shows."""

    count = 4

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/{i}", f"{split} {i}") for i in range(self.count)]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        vowels = sum(letter in "aeiou" for letter in completion)
        return {"reward": vowels + 0.01 * sum(map(ord, completion)) / 1000, "accuracy": float(vowels > 0)}


class Answered(Letters):
    """Letters whose problems have right answers, for objectives that need them."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/{i}", f"{split} {i}", "aeiou"[i:]) for i in range(self.count)]


class Bytes(Task):
    """Earns the mean byte of the completion; has no test split."""

    def problems(self, split: str) -> list[Prompt]:
        return [Prompt(f"{split}/{i}", f"{split} {i}") for i in range(0 if split == "test" else 3)]

    def reward(self, prompt: Prompt, completion: str) -> float:
        return sum(completion.encode()) / 1000


class TrainingAlone(Letters):
    """Letters without held-out problems."""

    def problems(self, split: str) -> list[Prompt]:
        return super().problems(split) if split == "train" else []
