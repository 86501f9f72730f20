"""The probe on landscapes with known answers, and what a kill leaves of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from es_lightning.errors import UsageError
from es_lightning.landscape import known
from es_lightning.landscape.known import KnownLandscape
from es_lightning.landscape.probing.probe import Probe, ProbeSettings
from es_lightning.landscape.probing.results import LINES, TABLE, ProbeResults
from es_lightning.landscape.probing.store import ABOUT
from es_lightning.landscape.probing.summary import ProbeTable, SigmaSummary, summarise
from es_lightning.landscape.statistics.best_of import best_of

SIGMA, COUNT = 0.5, 720  # candidates
LARGE = ProbeSettings(sigmas=(SIGMA,))
SMALL = ProbeSettings(sigmas=(0.1, 0.2), members=10, batches=2, largest=10)


def probed(landscape: KnownLandscape, folder: Path, chosen: ProbeSettings = LARGE) -> SigmaSummary:
    """What the whole way from seeds to the summary says of a landscape."""
    Probe(landscape, chosen, folder).run()
    results = ProbeResults.read(folder)
    rewards = {sigma: results.rewards(sigma) for sigma in results.sigmas}
    return next(iter(summarise(ProbeTable("known", results.centre, rewards, chosen.antithetic))))


def close_to(share: float) -> object:
    """Within four standard errors of a share of all candidates."""
    return pytest.approx(share, abs=4 * np.sqrt(max(share * (1 - share), 1e-9) / COUNT))


def test_a_linear_reward_improves_every_other_time_and_its_best_of_n_is_the_null(tmp_path: Path) -> None:
    summary = probed(known.linear(), tmp_path)
    assert summary.statistics.improve.value == close_to(0.5)
    assert summary.curve.n90 == pytest.approx(29, abs=3)
    assert summary.curve.like_the_null
    assert summary.held_out is not None
    np.testing.assert_allclose(summary.held_out.gain, summary.held_out.seen, atol=1e-12)  # prompts agree


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_a_maximum_has_no_improving_candidate_and_a_dimension_of_its_rank(rank: int, tmp_path: Path) -> None:
    summary = probed(
        known.quadratic(rank), tmp_path, replace(LARGE, sigmas=(SIGMA, 2 * SIGMA), antithetic=True)
    )
    assert summary.statistics.improve.value == 0
    assert summary.dimension is not None
    assert summary.dimension.low <= rank <= summary.dimension.high
    assert summary.statistics.mean.value == pytest.approx(-(SIGMA**2) * rank / 2, rel=0.25)


def test_a_plateau_has_its_share_of_exact_zeros(tmp_path: Path) -> None:
    summary = probed(known.plateau(edge=1.2 * SIGMA), tmp_path)
    assert summary.statistics.zeros == close_to(stats.norm.cdf(1.2))
    assert summary.statistics.improve.value == close_to(stats.norm.sf(1.2))


def test_a_ridge_improves_as_often_as_the_integral_says(tmp_path: Path) -> None:
    slope, curvature, across = 1.0, 2.0, 3
    chi = np.random.default_rng(0).chisquare(across, 400_000)
    expected = stats.norm.sf(curvature * SIGMA / 2 * chi / slope).mean()
    summary = probed(known.ridge(slope, curvature, across), tmp_path)
    assert summary.statistics.improve.value == close_to(float(expected))


def test_nothing_betters_the_bottom_of_a_double_well(tmp_path: Path) -> None:
    summary = probed(known.double_well(), tmp_path, replace(LARGE, sigmas=(0.05,)))
    assert summary.statistics.improve.value == 0
    assert summary.statistics.mean.value == pytest.approx(
        -4 * 0.05**2, rel=0.25
    )  # J'' = -8 height / distance^2


def test_rewards_in_steps_stay_in_steps_and_the_chosen_gains_less_elsewhere(tmp_path: Path) -> None:
    summary = probed(known.steps(), tmp_path)
    np.testing.assert_allclose(summary.changes * 64, np.round(summary.changes * 64), atol=1e-9)
    assert summary.statistics.zeros > 0
    assert summary.held_out is not None
    assert (summary.held_out.gain[1:] < summary.held_out.seen[1:]).all()  # of several, the winner's curse


@pytest.mark.slow
def test_pure_noise_finds_nothing(tmp_path: Path) -> None:
    """The claim of a gain on held-out prompts is made in at most 5 % of 200 probes."""
    few = replace(LARGE, members=60, batches=2, largest=30)
    found = 0
    for index in range(200):
        summary = probed(known.pure_noise(32, index), tmp_path / str(index), few)
        assert summary.held_out is not None
        found += bool(summary.held_out.low[list(summary.held_out.sizes).index(30)] > 0)
    assert found / 200 <= 0.05


def test_seeds_are_the_same_at_every_sigma_and_others_in_every_batch(tmp_path: Path) -> None:
    table = Probe(known.linear(), SMALL, tmp_path).run().table.to_pydict()
    by_group = {}
    for sigma, batch, seed in zip(table["sigma"], table["batch"], table["seed"], strict=True):
        by_group.setdefault((batch, sigma), []).append(seed)
    assert by_group[0, 0.1] == by_group[0, 0.2]
    assert by_group[1, 0.1] == by_group[1, 0.2]
    assert not set(by_group[0, 0.1]) & set(by_group[1, 0.1])
    assert table["candidate"] == list(range(SMALL.total))


def test_the_table_holds_what_the_seeds_give(tmp_path: Path) -> None:
    landscape = known.quadratic(3, prompts=4, start=0.7)
    results = Probe(landscape, replace(SMALL, antithetic=True, largest=5), tmp_path, {"task": "known"}).run()
    for number in (0, 1, 17, SMALL.total - 1):
        each = results.candidate(number)
        expected = landscape.rewards((landscape.start + each.sigma * landscape.noise(each.member))[None])[0]
        np.testing.assert_allclose(each.rewards, expected, rtol=1e-13)
        assert each.sign == (1, -1)[number % 2]
    assert results.header["task"] == "known"
    np.testing.assert_allclose(results.changes(0.1), results.rewards(0.1).mean(2) - results.centre.mean())
    read = ProbeResults.read(tmp_path)
    assert read.table.equals(results.table)
    assert read.header == results.header
    with pytest.raises(UsageError, match="no candidate 40"):
        read.candidate(SMALL.total)


# A kill


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Probe(_chunks_of_three(), SMALL, folder).run()
    return folder


def _chunks_of_three() -> KnownLandscape:
    return replace(known.steps(prompts=5), at_once=3)


@given(st.floats(0, 1))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_kill_leaves_of_the_lines_leads_to_the_same_table(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    lines = (whole / LINES).read_bytes()
    folder = tmp_path_factory.mktemp("killed")
    (folder / LINES).write_bytes(lines[: round(share * len(lines))])
    Probe(_chunks_of_three(), SMALL, folder).run()
    assert (folder / LINES).read_bytes() == lines
    assert (folder / TABLE).read_bytes() == (whole / TABLE).read_bytes()


def test_finished_chunks_are_not_evaluated_again(whole: Path, tmp_path: Path) -> None:
    lines = (whole / LINES).read_text().splitlines(keepends=True)
    (tmp_path / LINES).write_text("".join(lines[: 2 + 14]))  # 10 of the first group, 4 of the second
    asked = []

    class Counting(KnownLandscape):
        def members(self, members, sigma):
            asked.append((sigma, len(members)))
            return super().members(members, sigma)

    like = _chunks_of_three()
    Probe(Counting(like.rewards, like.start, 3), SMALL, tmp_path).run()
    assert asked[:3] == [(0.2, 3), (0.2, 3), (0.2, 1)]  # of the second group, three were on disk whole
    assert sum(count for _, count in asked) == SMALL.total - 13


@pytest.mark.parametrize("ended", [True, False])
def test_more_batches_go_on_with_a_probe_and_end_with_the_table_of_all(
    ended: bool, whole: Path, tmp_path: Path
) -> None:
    like, asked = _chunks_of_three(), []

    class Counting(KnownLandscape):
        def members(self, members, sigma):
            asked.extend(member.seed for member in members)
            return super().members(members, sigma)

    landscape = Counting(like.rewards, like.start, 3)
    first = Probe(landscape, replace(SMALL, batches=1), tmp_path).run()
    assert first.rewards(0.1).shape[:2] == (1, 10)
    if not ended:  # killed in the second sigma of the only batch
        (tmp_path / TABLE).unlink()
        lines = (tmp_path / LINES).read_text().splitlines(keepends=True)
        (tmp_path / LINES).write_text("".join(lines[: 2 + 16]))
    asked.clear()
    SMALL.check_begun(tmp_path)
    Probe(landscape, SMALL, tmp_path).run()
    assert len(asked) == 20 + (0 if ended else 4)
    for name in (LINES, TABLE, ABOUT):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_probe_killed_while_it_grows_is_still_the_smaller_one_and_grows_on(
    whole: Path, tmp_path: Path
) -> None:
    Probe(_chunks_of_three(), replace(SMALL, batches=1), tmp_path).run()
    small = (tmp_path / TABLE).read_bytes()
    lines = (whole / LINES).read_text().splitlines(keepends=True)
    (tmp_path / LINES).write_text("".join(lines[: 2 + 20 + 7]))  # killed in the second batch
    assert ProbeResults.read(tmp_path).rewards(0.1).shape[:2] == (1, 10)
    assert (tmp_path / TABLE).read_bytes() == small
    Probe(_chunks_of_three(), SMALL, tmp_path).run()
    assert (tmp_path / TABLE).read_bytes() == (whole / TABLE).read_bytes()


def test_batches_that_were_asked_for_and_not_begun_may_be_taken_back(whole: Path, tmp_path: Path) -> None:
    Probe(_chunks_of_three(), SMALL, tmp_path).run()
    lines = (tmp_path / LINES).read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"batches":2', '"batches":30')
    (tmp_path / LINES).write_text("".join(lines))
    SMALL.check_begun(tmp_path)
    Probe(_chunks_of_three(), SMALL, tmp_path).run()
    assert (tmp_path / TABLE).read_bytes() == (whole / TABLE).read_bytes()


def test_a_probe_from_before_the_largest_reward_was_kept_goes_on_with_it(tmp_path: Path) -> None:
    Probe(_chunks_of_three(), replace(SMALL, batches=1), tmp_path, {"task": "known"}).run()
    about = {"task": "known", "largest_reward": 1.0}
    more = Probe(_chunks_of_three(), SMALL, tmp_path, about).run()
    assert len(more.table) == 40
    assert ProbeResults.read(tmp_path).header["largest_reward"] == 1.0
    with pytest.raises(UsageError, match=r"other settings \(largest_reward 1\.0, and not 2\.0\)"):
        Probe(_chunks_of_three(), SMALL, tmp_path, about | {"largest_reward": 2.0}).run()


def test_fewer_batches_than_there_are_are_refused(whole: Path) -> None:
    before = (whole / LINES).read_bytes()
    message = (
        "2 batches of a probe, and 1 were asked for: give --probe.batches 2 to go on with it, more to add"
    )
    with pytest.raises(UsageError, match=message):
        Probe(_chunks_of_three(), replace(SMALL, batches=1), whole).run()
    with pytest.raises(UsageError, match="other settings"):
        replace(SMALL, batches=3, seed=1).check_begun(whole)
    assert (whole / LINES).read_bytes() == before


def test_a_rank_on_another_machine_goes_on_where_rank_0_does(whole: Path, tmp_path: Path) -> None:
    lines = (whole / LINES).read_text().splitlines()
    like, asked = _chunks_of_three(), []

    class SecondRank(KnownLandscape):
        def members(self, members, sigma):
            asked.append(len(members))
            return super().members(members, sigma)

        def share(self, payload):
            assert not payload
            return "\n".join(lines[: 2 + 13]).encode()

    landscape = SecondRank(like.rewards, like.start, 3)
    results = Probe(landscape, SMALL, tmp_path / "not_here", writes=False).run()
    assert results.table.equals(ProbeResults.read(whole).table)
    assert sum(asked) == SMALL.total - 13
    assert not (tmp_path / "not_here").exists()


SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from es_lightning.landscape import known
from es_lightning.landscape.probing.probe import Probe, ProbeSettings

class Slow(known.KnownLandscape):
    def members(self, members, sigma):
        time.sleep(0.02)
        return super().members(members, sigma)

like = known.steps(prompts=5)
settings = ProbeSettings(sigmas=(0.1, 0.2), members=10, batches=2, largest=10)
print("ready", flush=True)
Probe(Slow(like.rewards, like.start, 3), settings, Path(sys.argv[1])).run()
"""


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
def test_a_probe_killed_again_and_again_ends_with_the_same_table(whole: Path, tmp_path: Path) -> None:
    random, kills = np.random.default_rng(0), 0
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    for attempt in range(8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), cwd=tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if attempt < 4:
            time.sleep(random.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills >= 2
    assert (tmp_path / TABLE).read_bytes() == (whole / TABLE).read_bytes()


# Nothing to see


class Counted(KnownLandscape):
    """Notes how many members are evaluated at each sigma."""

    asked: ClassVar[list[float]] = []

    def members(self, members, sigma):
        self.asked.extend([sigma] * len(members))
        return super().members(members, sigma)


def test_a_constant_reward_is_refused_after_one_batch_of_every_sigma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(Counted, "asked", asked)
    like = known.linear()
    flat = Counted(lambda points: np.full((len(points), 4), 0.25), like.start, 3)
    for evaluated in (20, 0):  # the second time everything is on disk
        asked.clear()
        with pytest.raises(UsageError, match=r"none of 20 candidates at sigma 0.1 to 0.2 .*larger sigmas"):
            Probe(flat, SMALL, tmp_path).run()
        assert len(asked) == evaluated
    lines = (tmp_path / LINES).read_text().splitlines(keepends=True)
    assert len(lines) == 2 + 20
    (tmp_path / LINES).write_text("".join(lines[: 2 + 13]))  # killed in the second group
    asked.clear()
    with pytest.raises(UsageError, match="none of 20 candidates"):
        Probe(flat, SMALL, tmp_path).run()
    assert asked == [0.2] * 7
    with pytest.raises(UsageError, match="none of 20 candidates"):  # of one batch, before the report
        Probe(flat, replace(SMALL, batches=1), tmp_path / "one").run()


@pytest.mark.parametrize("changed", [0.1, 0.2])
def test_one_prompt_of_one_candidate_at_one_sigma_is_enough_to_go_on(changed: float, tmp_path: Path) -> None:
    class Nearly(KnownLandscape):
        def members(self, members, sigma):
            table = np.full((len(members), 4), 0.25)
            table[0, 3] += sigma == changed and members[0].index == 0
            return table

    flat = Nearly(lambda points: np.full((len(points), 4), 0.25), known.linear().start)
    assert len(Probe(flat, SMALL, tmp_path).run().table) == SMALL.total


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": ()}, "probe.sigmas"),
        ({"sigmas": (0.1, 0.0)}, "above 0"),
        ({"sigmas": (0.1, float("inf"))}, "above 0"),
        ({"sigmas": (0.1, 0.1)}, "once"),
        ({"members": 1, "largest": 1}, "at least 2"),
        ({"batches": 0}, "probe.batches is 0"),
        ({"prompts": 0}, "probe.prompts is 0"),
        ({"split": "dev"}, "train, val or test"),
        ({"members": 20, "largest": 50}, "raise probe.members, or lower probe.largest"),
        ({"members": 11, "antithetic": True, "largest": 5}, "even"),
        ({"antithetic": True}, "a batch has 5 pairs, of which no 10 can be drawn"),
    ],
)
def test_settings_that_no_probe_can_have(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **changes)


def test_too_few_problems_are_refused_and_a_pool_is_drawn_by_its_seed() -> None:
    with pytest.raises(UsageError, match="split train has 63 problems"):
        SMALL.choose(range(63))
    first = SMALL.choose(range(200))
    assert first == sorted(set(first))
    assert len(first) == 64
    assert SMALL.choose(range(200)) == first != replace(SMALL, pool_seed=1).choose(range(200))


def test_the_folder_of_another_probe_is_refused_and_left_alone(whole: Path) -> None:
    before = (whole / LINES).read_bytes()
    with pytest.raises(UsageError, match=r"other settings \(seed 1234, and not 1\)"):
        Probe(_chunks_of_three(), replace(SMALL, seed=1), whole).run()
    with pytest.raises(UsageError, match=r"other settings \(seed 1234, and not 1\)"):
        replace(SMALL, seed=1).check_begun(whole)  # without a model
    SMALL.check_begun(whole)
    SMALL.check_begun(whole / "nowhere")
    assert (whole / LINES).read_bytes() == before


def test_largest_is_the_reports_alone(whole: Path) -> None:
    before = (whole / TABLE).read_bytes()
    Probe(_chunks_of_three(), replace(SMALL, largest=5), whole).run()
    assert (whole / TABLE).read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", "no JSON\n", '{"format": 99}\n'])
def test_a_file_that_is_none_of_a_probe(text: str, tmp_path: Path) -> None:
    (tmp_path / LINES).write_text(text)
    if not text:
        Probe(_chunks_of_three(), SMALL, tmp_path).run()  # killed before its first line
        return
    with pytest.raises(UsageError, match="is no file of a probe, or is damaged"):
        Probe(_chunks_of_three(), SMALL, tmp_path).run()


def test_a_folder_without_a_finished_probe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no probe"):
        ProbeResults.read(tmp_path)
    (tmp_path / LINES).write_text("{}\n")
    with pytest.raises(UsageError, match="a probe that has not ended: run its command again"):
        ProbeResults.read(tmp_path)
    (tmp_path / TABLE).write_bytes(b"PAR1 but no more")
    with pytest.raises(UsageError, match="damaged"):
        ProbeResults.read(tmp_path)


def test_another_base_model_is_noticed(whole: Path, tmp_path: Path) -> None:
    lines = (whole / LINES).read_text().splitlines(keepends=True)
    centre = json.loads(lines[1]) | {"checksum": "00"}
    (tmp_path / LINES).write_text(lines[0] + json.dumps(centre) + "\n")
    with pytest.raises(RuntimeError, match="the base model has changed"):
        Probe(_chunks_of_three(), SMALL, tmp_path).run()


def test_an_engine_that_does_not_repeat_itself_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    like, calls = known.linear(), iter(range(3))

    class Drifting(KnownLandscape):
        def centre(self):
            return super().centre() + 0.01 * next(calls)

    Probe(Drifting(like.rewards, like.start), SMALL, tmp_path).run()
    assert "The same centre earns +0.01 after the candidates, on 8 of 8 prompts something else" in caplog.text
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["drift"] == pytest.approx(0.01)
    np.testing.assert_allclose(about["centre_rewards_after"], np.add(about["centre_rewards"], 0.01))


def test_what_a_probe_is_stands_in_a_file_for_people_too(whole: Path) -> None:
    about, results = json.loads((whole / ABOUT).read_text()), ProbeResults.read(whole)
    assert about["centre_rewards"] == about["centre_rewards_after"] == results.centre.tolist()
    assert (about["drift"], about["members"], about["batches"]) == (0, 10, 2)
    assert about["checksum"] == results.header["checksum"]


def test_best_of_n_of_the_table_is_brute_force(tmp_path: Path) -> None:
    results = Probe(known.linear(), SMALL, tmp_path).run()
    changes = results.changes(0.1)[0]
    draws = np.random.default_rng(0).permuted(np.tile(changes, (20_000, 1)), axis=1)[:, :5].max(1)
    assert float(best_of(changes, [5])[0]) == pytest.approx(
        draws.mean(), abs=4 * draws.std() / np.sqrt(20_000)
    )
