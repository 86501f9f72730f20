"""Members as adapters in vLLM: numbers as with whole weights, and traps with the wrong way shown to fail."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from es_lightning.algorithm.noise import LowRankNoise, noise_of
from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.errors import UsageError
from es_lightning.evaluation.members import adapters as members_adapters
from es_lightning.evaluation.reference import reference_logprobs
from es_lightning.grading.scorer import Grading
from es_lightning.journal.replay import replay
from es_lightning.models import BaseModel
from es_lightning.models.base_model import resolve
from es_lightning.records import Member, Prompt
from es_lightning.rollout import Sampling, VLLMAdapterEngine, encode
from es_lightning.rollout.adapters import Factors
from es_lightning.rollout.vllm import prompt_logprobs
from es_lightning.rollout.vllm_adapter import _without_slot
from tests.helpers import ranks
from tests.helpers.families import FAMILIES, Family, make
from tests.helpers.fits import Letters, Records, fit, module, trainer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
TEXTS = ("What is the capital of France?", "Name the largest planet.", "hot")
NOISE, SIGMA, GREEDY = LowRankNoise(rank=2, vectors="frozen"), 0.3, Sampling(max_tokens=8)
MEMBERS = Population(6, antithetic=True).members(0)
OPTIONS: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 0.1}


@pytest.fixture(scope="module")
def centre() -> nn.Module:
    return BaseModel("tiny").load()


@pytest.fixture(scope="module")
def names(centre: nn.Module) -> list[str]:
    return [name for name, _ in centre.named_parameters() if "proj" in name]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    texts = [*TEXTS, "a long beginning of two blocks of the cache " * 8]
    return encode([Prompt(text[:9], text) for text in texts], BaseModel("tiny").tokenizer)


@pytest.fixture(scope="module")
def running(names: list[str]) -> Iterator[VLLMAdapterEngine]:
    engine = VLLMAdapterEngine(max_loras=3, **OPTIONS)
    assert engine.reached(resolve("tiny")) == names
    engine.expect(names, 2, 6)
    engine.start(resolve("tiny"), 512)
    yield engine
    engine.close()


@pytest.fixture
def engine(running: VLLMAdapterEngine, centre: nn.Module) -> VLLMAdapterEngine:
    """With the centre loaded."""
    running.load_weights((name, parameter.detach()) for name, parameter in centre.named_parameters())
    return running


@pytest.fixture
def environment() -> Iterator[None]:
    """What vLLM sets while it starts is gone afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def adapters(centre: nn.Module, names: list[str], members: Sequence[Member] = MEMBERS[:3]) -> list[Any]:
    return [
        [matrix for matrix in each if matrix[0] in names]
        for each in members_adapters(centre, members, NOISE, SIGMA)
    ]


def swapped(engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], member: Member | None) -> None:
    """Load the whole weights of a member, as VLLMEngine does; None is the centre."""
    scale = 0.0 if member is None else member.sign * SIGMA
    seed = 0 if member is None else member.seed
    engine.load_weights(
        (
            name,
            NOISE.perturbed(seed, name, theta, scale, torch.float32) if name in names else theta.detach(),
        )
        for name, theta in centre.named_parameters()
    )


def logprobs(engine: VLLMAdapterEngine, prompts: list[Prompt]) -> Tensor:
    return torch.cat(engine.logprobs([prompt.token_ids for prompt in prompts]))


def each_logprobs(engine: VLLMAdapterEngine, prompts: list[Prompt]) -> list[Tensor]:
    return [torch.cat(rows) for rows in engine.logprobs_each([prompt.token_ids for prompt in prompts])]


@pytest.fixture(scope="module")
def expected(
    running: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt]
) -> dict[Any, tuple[Tensor, Any]]:
    """Log-probabilities and texts of the centre (None) and of each member, with its whole weights."""
    found = {}
    for member in (None, *MEMBERS):
        swapped(running, centre, names, member)
        found[member] = logprobs(running, prompts), running.generate(prompts, GREEDY)
    assert min((found[m][0] - found[None][0]).abs().max() for m in MEMBERS) > 0.1  # what can be seen
    return found


def require_members(
    found: Sequence[Tensor], expected: dict[Any, tuple[Tensor, Any]], members: Sequence[Member]
) -> None:
    for member, rows in zip(members, found, strict=True):
        torch.testing.assert_close(rows, expected[member][0], atol=1e-3, rtol=0)


def require_wrong(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() > 0.05


def test_members_in_a_batch_have_the_numbers_and_texts_of_whole_weights(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt], expected: Any
) -> None:
    for members in (MEMBERS[:3], MEMBERS[3:], MEMBERS[1:2]):  # chunks; the second has the sign of its pair
        engine.load_adapters(adapters(centre, names, members))
        require_members(each_logprobs(engine, prompts), expected, members)
        for member, texts in zip(members, engine.generate_each(prompts, GREEDY), strict=True):
            assert texts == expected[member][1]
        with engine.using(len(members) - 1):
            assert engine.generate(prompts, GREEDY) == expected[members[-1]][1]
            torch.testing.assert_close(logprobs(engine, prompts), expected[members[-1]][0], atol=1e-3, rtol=0)
        # The centre, with adapters in the slots, in a batch of its own.
        torch.testing.assert_close(logprobs(engine, prompts), expected[None][0], atol=1e-3, rtol=0)
        assert engine.generate(prompts, GREEDY) == expected[None][1]
    assert len({str(texts) for _, texts in expected.values()}) == 7


def test_samples_of_an_adapter_are_those_of_its_whole_weights(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt]
) -> None:
    sampling = Sampling(max_tokens=4, temperature=1.0, n=2, seed=5)
    engine.load_adapters(adapters(centre, names, MEMBERS[:1]))
    [found] = engine.generate_each(prompts[:2], sampling)
    swapped(engine, centre, names, MEMBERS[0])
    assert found == engine.generate(prompts[:2], sampling)


def use_vllms_kernel(model: Any) -> None:
    from vllm.lora.punica_wrapper import get_punica_wrapper

    manager = model.lora_manager
    room = (manager.max_num_batched_tokens, manager.max_num_seqs, manager.device)
    kernel = get_punica_wrapper(*room, lora_config=manager.lora_config)
    for name in manager.punica_wrapper_mapping:
        manager.punica_wrapper_mapping[name] = kernel
    for layer in manager.modules.values():
        layer.set_mapping(kernel)


def test_beside_members_the_centre_would_get_the_last_adapter_by_vllms_own_kernel(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt], expected: Any
) -> None:
    ids = [prompt.token_ids for prompt in prompts]

    def of_the_centre_beside_a_member() -> Tensor:  # the wrong way
        mixed = [None] * len(ids) + [engine._held[0]] * len(ids)
        outputs = engine._run(ids * 2, [engine._scoring()] * len(mixed), lora_request=mixed)
        return torch.cat([prompt_logprobs(output) for output in outputs[: len(ids)]])

    engine.load_adapters(adapters(centre, names))
    torch.testing.assert_close(of_the_centre_beside_a_member(), expected[None][0], atol=1e-3, rtol=0)
    engine.load_adapters(adapters(centre, names))
    engine.llm.apply_model(use_vllms_kernel)
    require_members(each_logprobs(engine, prompts), expected, MEMBERS[:3])
    require_wrong(of_the_centre_beside_a_member(), expected[None][0])
    torch.testing.assert_close(logprobs(engine, prompts), expected[None][0], atol=1e-3, rtol=0)


def test_a_reload_drops_all_adapters_and_nothing_asks_for_them(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt], expected: Any
) -> None:
    engine.load_adapters(adapters(centre, names))
    held = list(engine._held)
    swapped(engine, centre, names, None)
    with pytest.raises(RuntimeError, match="there are no adapters: call load_adapters first"):
        engine.generate_each(prompts, GREEDY)
    engine._held = held  # the wrong way: vLLM would look for a file
    with pytest.raises(Exception, match="adapter 1|in-memory|No adapter found"):
        engine.generate_each(prompts, GREEDY)
    engine.load_adapters(adapters(centre, names))
    require_members(each_logprobs(engine, prompts), expected, MEMBERS[:3])


def test_alpha_is_the_rank_or_else_it_is_folded_in_place(
    engine: VLLMAdapterEngine,
    centre: nn.Module,
    names: list[str],
    prompts: list[Prompt],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.lora import peft_helper

    mine: list[list[Factors]] = adapters(centre, names, MEMBERS[:1])
    before = [(left.clone(), right.clone()) for _, left, right in mine[0]]
    for _ in "ab":
        engine.load_adapters(mine)
        require_members(each_logprobs(engine, prompts), expected, MEMBERS[:1])
    assert all(
        torch.equal(left, old[0]) and torch.equal(right, old[1])
        for (_, left, right), old in zip(mine[0], before, strict=True)
    )
    original = peft_helper.PEFTHelper
    monkeypatch.setattr(
        peft_helper,
        "PEFTHelper",
        lambda r, lora_alpha, target_modules: original(r, 2 * lora_alpha, target_modules),
    )
    sizes = []
    for _ in "ab":  # the wrong way: what was handed over changes, and again with the next time
        engine.load_adapters(mine)
        require_wrong(each_logprobs(engine, prompts)[0], expected[MEMBERS[0]][0])
        sizes.append(float(mine[0][0][1].abs().max()) / float(before[0][0].abs().max()))
    assert sizes == [2, 4]


def test_names_are_unstacked_or_else_queries_keys_and_values_get_one_adapter(
    engine: VLLMAdapterEngine,
    centre: nn.Module,
    names: list[str],
    prompts: list[Prompt],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stacked = {
        name: module.replace("q_proj", "qkv_proj").replace("k_proj", "qkv_proj").replace("v_proj", "qkv_proj")
        for name, module in engine._modules.items()
    }
    monkeypatch.setattr(engine, "_modules", {n: m.replace("qkqkv", "qkv") for n, m in stacked.items()})
    with pytest.raises(IndexError):  # the wrong way: the one that is left is taken for a list of three
        engine.load_adapters(adapters(centre, names))
    foreign = engine.llm.apply_model(_without_slot(engine._modules))[0]
    assert foreign == [name for name in names if "qkv" in stacked[name]]
    monkeypatch.undo()
    engine.load_adapters(adapters(centre, names))
    require_members(each_logprobs(engine, prompts), expected, MEMBERS[:3])


def test_names_and_numbers_are_fresh_or_else_the_cache_answers_for_others(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt], expected: Any
) -> None:
    assert len(prompts[-1].token_ids) > 256  # two blocks of the cache on CPUs
    assert engine.llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    long, told = prompts[-1:], []
    for members in (MEMBERS[:1], MEMBERS[2:3]):
        engine.load_adapters(adapters(centre, names, members))
        told.append(engine._held[0])
        [texts] = engine.generate_each(long, GREEDY)
        assert texts == expected[members[0]][1][-1:]
    assert (told[0].lora_name, told[0].lora_int_id) != (told[1].lora_name, told[1].lora_int_id)
    # The wrong way: a fresh number under an old name.
    from vllm.lora.request import LoRARequest

    engine.load_adapters(adapters(centre, names, MEMBERS[4:5]))
    fresh = engine._held[0].lora_int_id
    engine._held = [LoRARequest(told[0].lora_name, fresh, told[0].lora_path)]
    [stale] = engine.generate_each(long, GREEDY)
    engine.load_adapters(adapters(centre, names, MEMBERS[4:5]))
    [right] = engine.generate_each(long, GREEDY)
    assert right == expected[MEMBERS[4]][1][-1:]
    assert stale != right
    # And an old number, where the adapters before are not removed: vLLM keeps what it has.
    manager = engine.llm.apply_model(lambda model: model.lora_manager)[0]
    remove, manager.remove_all_adapters = manager.remove_all_adapters, lambda: None
    try:
        engine._served -= 1
        engine.load_adapters(adapters(centre, names, MEMBERS[2:3]))
        require_wrong(each_logprobs(engine, prompts)[0], expected[MEMBERS[2]][0])
    finally:
        manager.remove_all_adapters = remove
    engine.load_adapters(adapters(centre, names, MEMBERS[2:3]))
    require_members(each_logprobs(engine, prompts), expected, MEMBERS[2:3])


def test_adapters_are_not_changed_under_a_request_that_is_running(
    engine: VLLMAdapterEngine, centre: nn.Module, names: list[str], prompts: list[Prompt]
) -> None:
    engine.load_adapters(adapters(centre, names))
    from vllm.inputs import TokensPrompt

    engine.llm.enqueue([TokensPrompt(prompt_token_ids=list(prompts[0].token_ids))], use_tqdm=False)
    try:
        with pytest.raises(RuntimeError, match="a request is still running"):
            engine.load_adapters(adapters(centre, names))
    finally:
        engine._abort()
    engine.load_adapters(adapters(centre, names))


def test_thin_products_are_the_plain_formula_for_any_mixture_of_tokens() -> None:
    """Tokens in any order, of some adapters alone, of none, and a layer of two parts."""
    from vllm.lora.layers import LoRAMapping

    from es_lightning.rollout.thin_products import _kernel

    count, rank, width, parts = 5, 2, 16, (12, 8)
    generator = torch.Generator().manual_seed(3)
    first = tuple(torch.randn(count, 1, rank, width, generator=generator) for _ in parts)
    second = tuple(torch.randn(count, 1, part, rank, generator=generator) for part in parts)
    kernel, numbers = _kernel()(count, rank, (64, 64, "cpu")), list(range(1, count + 1))
    for owners in ([1, 1, 2, 2, 5], [4, 2, 4, 3, 2], [0, 3, 0], [0, 0], [5], [1]):  # 0 is none
        x = torch.randn(len(owners), width, generator=generator)
        mapping = LoRAMapping(tuple(owners), tuple(owners), is_prefill=True)
        kernel.update_metadata(mapping, numbers, count, 100)
        found = torch.ones(len(owners), sum(parts))
        kernel.add_lora_linear(found, x, first, second, 1.0, parts)
        for row, (owner, token) in enumerate(zip(owners, x, strict=True)):
            expected = torch.ones(sum(parts))
            if owner:
                sides = [(a[owner - 1, 0], b[owner - 1, 0]) for a, b in zip(first, second, strict=True)]
                expected += torch.cat([b @ (a @ token) for a, b in sides])
            torch.testing.assert_close(found[row], expected)


def test_neither_embedding_nor_head_nor_norms_have_slots(engine: VLLMAdapterEngine) -> None:
    modules = engine.llm.apply_model(lambda model: sorted(model.lora_manager.modules))[0]
    assert {module.rpartition(".")[2] for module in modules} == {
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
    }


@pytest.mark.usefixtures("environment")
def test_what_vllm_has_no_slot_for_is_refused_at_the_start(names: list[str]) -> None:
    engine = VLLMAdapterEngine(**OPTIONS, options={"lora_target_modules": ["o_proj"]})
    engine.expect(names, 2, 2)
    with pytest.raises(UsageError, match=r"do not reach model\.layers\.0\.self_attn\.q_proj\.weight, "):
        engine.start(resolve("tiny"), 64)


@pytest.mark.usefixtures("environment")
def test_a_rank_that_vllm_has_no_kernels_for_is_refused(names: list[str]) -> None:
    engine = VLLMAdapterEngine(**OPTIONS)
    with pytest.raises(UsageError, match="the noise has rank 513, and vLLM's adapters have at most 512"):
        engine.expect(names, 513, 2)
    with pytest.raises(UsageError, match="engine.max_loras is 0: give at least 1"):
        VLLMAdapterEngine(max_loras=0)


@pytest.mark.usefixtures("environment")
def test_a_model_without_adapters_in_vllm_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    make(FAMILIES["GPT-2"], tmp_path / "model")
    with pytest.raises(UsageError, match="adapters.*VLLMEngine"):
        VLLMAdapterEngine(**OPTIONS).check(tmp_path / "model")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_members_are_about_as_near_to_float32_as_the_centre(
    dtype: str, centre: nn.Module, names: list[str], prompts: list[Prompt]
) -> None:
    def exact(member: Member | None) -> Tensor:
        def change(name: str, theta: Tensor) -> Tensor:
            if member is None or name not in names:
                return theta
            return NOISE.perturbed(member.seed, name, theta, member.sign * SIGMA, torch.float32)

        return torch.cat([reference_logprobs(centre, [list(p.token_ids)], change)[0] for p in prompts])

    engine = VLLMAdapterEngine(**(OPTIONS | {"dtype": dtype}))
    engine.expect(names, NOISE.rank, 3)
    engine.start(resolve("tiny"), 512)
    try:
        named = centre.named_parameters()
        engine.load_weights((name, parameter.detach().to(engine.dtype)) for name, parameter in named)
        engine.load_adapters(adapters(centre, names))
        base, members = exact(None), [exact(member) for member in MEMBERS[:3]]
        own = (logprobs(engine, prompts) - base).abs().median()
        for rows, expected in zip(each_logprobs(engine, prompts), members, strict=True):
            off = (rows - expected).abs().median()
            assert off < 5 * own  # members have larger weights than the centre, and so rounding
            assert off < 0.1 * (expected - base).abs().median()
    finally:
        engine.close()


@pytest.mark.long
@pytest.mark.usefixtures("environment")
def test_a_fit_replays_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def engine(most: int) -> VLLMAdapterEngine:
        return VLLMAdapterEngine(max_loras=most, **OPTIONS)

    options = {"noise": LowRankNoise(), "antithetic": True, "population": 4}
    whole, records = fit(Letters(), tmp_path / "whole", steps=3, engine=engine(3), **options)
    entry = replay(tmp_path / "whole" / "journal.jsonl", tmp_path / "replayed")
    assert entry.checksum == whole.centre_checksum
    header = json.loads((tmp_path / "whole" / "journal.jsonl").read_text().splitlines()[0])
    assert header["noise"] == whole.noise.identity
    assert "embed_tokens" in header["noise"]
    whole.rollouts.engine.close()
    saved = ModelCheckpoint(tmp_path / "half", save_top_k=1, every_n_train_steps=1)
    data = TaskDataModule(Letters(), grading=Grading(workers=0))
    half = module(engine=engine(4), **options)
    trainer(tmp_path / "half", 1, [saved], enable_checkpointing=True).fit(half, data)
    half.rollouts.engine.close()
    rest, again = module(engine=engine(1), **options), Records()
    trainer(tmp_path / "half", 3, [again]).fit(rest, data, ckpt_path=saved.best_model_path)
    rest.rollouts.engine.close()
    assert rest.centre_checksum == whole.centre_checksum
    for one, other in zip(records.generations[-2:], again.generations[-2:], strict=True):
        assert one.index == other.index
        assert torch.equal(one.rewards, other.rewards)


@pytest.mark.ddp
@pytest.mark.long
@pytest.mark.parametrize(
    ("lane_size", "kv_heads"), [(1, 0), (2, 0), (2, 1)], ids=["two lanes", "one lane", "one head of keys"]
)
def test_two_ranks_have_the_bits_of_one_without_adapters(
    tmp_path: Path, lane_size: int, kv_heads: int
) -> None:
    """Also where two ranks hold each adapter together: each has its rows or columns of the thin matrices."""
    options: dict[str, Any] = {"noise": LowRankNoise(rank=2), "population": 6, "antithetic": True}
    if kv_heads:  # fewer than ranks: both have the same keys
        make(Family("llama", {"num_key_value_heads": kv_heads}), tmp_path / "model")
        options["base"] = str(tmp_path / "model")
    lane: dict[str, Any] = {"engine": "adapters", "tensor_parallel_size": lane_size}
    two = ranks.Run(tmp_path / "two", steps=2, options=options, **lane)
    assert ranks.fit(two, 2, seconds=240) == [0, 0], two.log()
    assert two.report(0)["checksum"] == two.report(1)["checksum"]
    header, *_ = (tmp_path / "two" / "journal.jsonl").read_text().splitlines()
    # Log-probabilities of members and of the centre, against transformers.
    assert json.loads(header)["engine_check"]["difference"] <= 1e-3
    options["noise"] = noise_of(json.loads(header)["noise"])
    one = ranks.Run(tmp_path / "one", steps=2, options=options)
    assert ranks.fit(one, 1) == [0]
    assert one.report()["checksum"] == two.report()["checksum"]
    assert one.lines() == two.lines()
