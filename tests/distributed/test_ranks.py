"""One rank among others: lanes, what ranks tell one another, and ranks that cannot work together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from es_lightning.algorithm.population import Population
from es_lightning.datamodule import TaskDataModule
from es_lightning.distributed.ranks import Lane, Ranks, compare_centres, lane_of
from es_lightning.distributed.strategy import PopulationStrategy
from es_lightning.errors import RankError, UsageError
from es_lightning.models.embedded import tiny_folder
from es_lightning.rollout import HFEngine
from tests.helpers.fits import Letters, module, trainer


@given(st.integers(2, 100), st.integers(1, 12))
def test_ranks_share_all_members_evenly(size: int, world: int) -> None:
    members = Population(size).members(0)
    shards = [lane_of(rank, world).share(members) for rank in range(world)]
    assert sorted((m for part in shards for m in part), key=lambda m: m.index) == list(members)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_the_last_centres_are_compared_too() -> None:
    compare_centres([b"a", b"a"], 3)
    with pytest.raises(RankError, match="rank 1 has another centre than rank 0 before generation 3: b and a"):
        compare_centres([b"a", b"b"], 3)


@pytest.mark.parametrize(("world", "size"), [(3, 2), (4, 3), (1, 2)])
def test_ranks_that_do_not_divide_into_lanes_are_refused(world: int, size: int) -> None:
    with pytest.raises(
        UsageError, match=f"{world} ranks do not divide into lanes of tensor_parallel_size {size}"
    ):
        lane_of(0, world, size)


def test_lanes_are_consecutive_ranks() -> None:
    lanes = [lane_of(rank, 6, 2) for rank in range(6)]
    assert [lane.index for lane in lanes] == [0, 0, 1, 1, 2, 2]
    assert [lane.leads for lane in lanes] == [True, False] * 3


def test_several_ranks_need_the_population_strategy(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    tuned = module(engine=HFEngine("float32", tensor_parallel_size=2))
    with pytest.raises(UsageError, match="needs trainer.strategy population"):
        run.fit(tuned, TaskDataModule(Letters()))
    with pytest.raises(UsageError, match="1 ranks do not divide into lanes"):
        trainer(tmp_path, strategy="population").fit(
            module(engine=HFEngine("float32", tensor_parallel_size=2)), TaskDataModule(Letters())
        )


def test_transformers_repeats_no_key_value_heads() -> None:
    HFEngine("float32", tensor_parallel_size=2).check(tiny_folder())
    with pytest.raises(UsageError, match="HFEngine cannot divide the model's 2 key-value heads by it"):
        HFEngine("float32", tensor_parallel_size=4).check(tiny_folder())


def test_more_ranks_than_members_are_refused() -> None:
    strategy = PopulationStrategy(cluster_environment=LightningEnvironment())
    strategy.cluster_environment.set_world_size(3)
    with pytest.raises(UsageError, match="population is 2, but there are 3 lanes"):
        Ranks(strategy).check(population=2)


def test_a_centre_is_divided_in_lanes_of_several_ranks_alone() -> None:
    with pytest.raises(UsageError, match="lanes have one rank each: raise model.engine.tensor_parallel_size"):
        Ranks(PopulationStrategy(shard_centre=True)).check(population=2)
    assert Ranks(PopulationStrategy()).divide(nn.Linear(2, 2)).holds("weight")


class Two(PopulationStrategy):
    """The first of two ranks."""

    world_size, global_rank = 2, 0


@pytest.mark.parametrize(
    ("callbacks", "biased", "message"),
    [
        ([WeightAveraging()], True, "WeightAveraging keeps a copy of the whole centre"),
        ([], False, "the model has 1 tensors, too few for the 2 ranks of a lane"),
    ],
)
def test_what_a_divided_centre_cannot_do_is_refused(
    tmp_path: Path, callbacks: list[Callback], biased: bool, message: str
) -> None:
    strategy, tuned = Two(shard_centre=True), module()
    tuned.trainer = trainer(tmp_path, callbacks=callbacks)
    strategy.connect(tuned)
    with pytest.raises(UsageError, match=message):
        Ranks(strategy, lane_size=2).divide(nn.Linear(2, 2, bias=biased))


def test_a_centre_is_divided_without_a_fit_too() -> None:
    with pytest.raises(UsageError, match="too few for the 2 ranks of a lane"):
        Ranks(Two(shard_centre=True), lane_size=2).divide(nn.Linear(2, 2, bias=False))


def test_a_rank_on_its_own_tells_everything_to_itself() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.world, ranks.lane) == (0, 1, Lane())
    assert ranks.exchange(b"told") == ranks.from_lanes(b"told") == [b"told"]
    assert ranks.lane.share([1, 2, 3]) == [1, 2, 3]
    ranks.check(population=2)
    ranks.check_centre("abcd", generation=3)


def test_a_strategy_without_ranks_is_a_rank_on_its_own() -> None:
    for strategy in (SingleDeviceStrategy(), PopulationStrategy()):
        assert Ranks(strategy).exchange(b"told") == [b"told"]


class Three(PopulationStrategy):
    """The second of three ranks; every rank's message ends with its number."""

    world_size, global_rank = 3, 1

    def exchange(self, payload: bytes) -> list[bytes]:
        return [payload + str(rank).encode() for rank in range(3)]


def test_the_first_rank_of_a_lane_speaks_for_it() -> None:
    assert Ranks(Three()).from_lanes(b"r") == [b"r0", b"r1", b"r2"]
    assert Ranks(Three(), lane_size=3).lane == Lane(0, 1, leads=False)
    assert Ranks(Three(), lane_size=3).from_lanes(b"r") == [b"0"], "this rank does not lead: it tells nothing"


def test_another_centre_is_named_with_its_rank() -> None:
    with pytest.raises(
        RankError, match="rank 1 has another centre than rank 0 before generation 7: r1 and r0"
    ):
        Ranks(Three()).check_centre("r", generation=7)
