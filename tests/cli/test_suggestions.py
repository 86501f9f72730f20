"""Mistakes as users make them: each ends in one sentence, which suggests the right word or none."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from es_lightning.algorithm.shaping import SHAPINGS
from es_lightning.cli import command_line as cli
from es_lightning.cli import entry
from es_lightning.cli.suggest import suggestion

ROOT = Path(__file__).parents[2]
SMOKE = ["-c", str(ROOT / "configs" / "smoke_cpu.yaml")]


class Parsed(Exception):
    """Raised once the configuration is parsed, before anything is built."""


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command that is refused, in an empty folder, and returns its one sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            entry.main(list(arguments))
        assert caught.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert lines[-1].startswith("es-lightning: ")
        assert "Traceback" not in "".join(lines)
        return lines[-1].removeprefix("es-lightning: ")

    return run


@pytest.fixture
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Parses a command, in an empty folder, and returns the values of its options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])

    def halt(self: cli.CommandLine) -> None:
        raise Parsed(self.config)

    monkeypatch.setattr(cli.CommandLine, "before_instantiate_classes", halt)

    def run(*arguments: str):
        with pytest.raises(Parsed) as caught:
            entry.main(list(arguments))
        return caught.value.args[0].fit

    return run


def suggested(sentence: str) -> str | None:
    found = re.search(r"Did you mean (.*)\?", sentence)
    return found[1] if found else None


INTERNALS = ("NestedArg", "Union", "Subtypes", "<class", "typing.", "Parser key", "dot import", "Namespace(")

ON_THE_COMMAND_LINE = [
    # options of each level
    ("--model.sigm 1", "model.sigma"),
    ("--modle.sigma 1", "model.sigma"),
    ("--sigma 1", "model.sigma"),
    ("--max_steps 3", "trainer.max_steps"),
    ("--trainer.max_step 3", "trainer.max_steps"),
    ("--ckpt_pth last", "ckpt_path"),
    ("--overwrit true", "overwrite"),
    ("--data.tsk Conciseness", "data.task"),
    ("--report.exprt true", "report.export"),
    ("--checkpoint.save_top 2", "checkpoint.save_top_k"),
    ("--hepl", "help"),
    ("--data.task.varant paper", "variant"),
    ("--model.engine.dtyp float32", "dtype"),
    ("--model.engine.init_args.batchsize 3", "batch_size"),
    ("--model.sampling.max_tokn 3", "max_tokens"),
    ("--data.grading.worker 2", "workers"),
    ("--model.optimizer SGD --model.optimizer.lrr 0.1", "lr"),
    ("--trainer.callbacks+=KLDrift --trainer.callbacks.everyy 3", "every"),
    ("--wholly_unknown 3", None),
    ("--model.wholly_unknown 3", None),
    ("--model.engine.wholly_unknown 3", None),
    # classes
    ("--data.task Concisenes", "Conciseness"),
    ("--model.engine HFEngin", "HFEngine"),
    ("--model.noise CorelatedNoise", "CorrelatedNoise"),
    ("--model.noise LowRank", "LowRankNoise"),
    ("--model.noise LowRankNoise --model.noise.rnk 2", "rank"),
    ("--model.noise Xyzzy", None),
    ("--model.noise FilteredNoise --model.noise.exclude *norm*", None),
    ("--model.sigma_schedule Cosine", "CosineSchedule"),
    ("--model.population_schedule Linear", "LinearSchedule"),
    ("--model.sigma_schedule CosineSchedule --model.sigma_schedule.generation 5", "generations"),
    ("--model.regularisers ClipNorm", None),
    ("--model.regularisers Clip", "ClipNorm"),
    ("--model.regularisers+=ClipNrm", "ClipNorm"),
    ("--model.regularisers+=ClipNorm --model.regularisers.mx_norm 1", "max_norm"),
    ("--model.kl_penalty 0.1", None),
    ("--model.sampling.passk 3", "pass_k"),
    ("--data.objective loglikelihood", "log_likelihood"),
    ("--model.optimizer SDG", "SGD"),
    ("--model.optimizer torch.optim.SDG", "SGD"),
    ("--model.lr_scheduler CosineAnealingLR", "CosineAnnealingLR"),
    ("--model.lr_scheduler ReduceLROnPlatau", "ReduceLROnPlateau"),
    ("--trainer.callbacks KLDrif", "KLDrift"),
    ("--trainer.callbacks+=SigmaFindr", "SigmaFinder"),
    ("--trainer.callbacks+=ModelCheckpont", "ModelCheckpoint"),
    ("--trainer.logger MLFlowLoger", "MLFlowLogger"),
    ("--model.shaping es_lightning.algorithm.shaping.zscore", "z_score"),
    ("--model.shaping centred_rank", "centered_rank"),
    ("--model.shaping Fixed", "FixedScale"),
    ("--model.shaping FixedScale --model.shaping.scal 1", "scale"),
    ("--model.shaping Xyzzy", None),
    ("--model.shaping json.JSONDecoder", None),
    ("--data.task Xyzzy", None),
    ("--model.optimizer Xyzzy", None),
    # values
    ("--model.engine.dtype float3", "float32"),
    ("--model.engine.dtype xyzzy", None),
    ("--model.sigma abc", None),
    ("--model.population many", None),
    ("--model.sigma", None),
    ("--overwrite maybe", None),
    ("--seed_everything x", None),
    ("--data.grading.workers two", None),
    ("--model.lr_scheduler CosineAnnealingLR", None),
    ("--data.task math.sqrt", None),
    ("--data.task nosuch.module.Thing", None),
    ("stray", None),
]

IN_A_FILE = [
    ("modle: {sigma: 1}", "model.sigma"),
    ("model: {sigm: 1}", "model.sigma"),
    ("trainer: {loger: false}", "trainer.logger"),
    ("overwrit: true", "overwrite"),
    ("data: {task: Conciseness, train_promts: 3}", None),
    ("model: {engine: HFEngin}", "HFEngine"),
    ("model: {engine: {class_path: HFEngine, init_args: {dtyp: float32}}}", "dtype"),
    ("model: {engine: {class_path: HFEngine, init_args: {dtype: float3}}}", "float32"),
    ("model: {engine: {class_path: HFEngine, init_arg: {dtype: float32}}}", "init_args"),
    ("model: {optimizer: {class_path: SDG, init_args: {lr: 1}}}", "SGD"),
    ("model: {optimizer: {class_path: SGD, init_args: {lrr: 1}}}", "lr"),
    ("model: {lr_scheduler: {class_path: StepLR, init_args: {step_sise: 1}}}", "step_size"),
    ("trainer: {callbacks: [{class_path: KLDrif}]}", "KLDrift"),
    ("trainer: {callbacks: [KLDrif]}", "KLDrift"),
    ("trainer: {callbacks: [KLDrift, {class_path: BestModel, init_args: {evry: 3}}]}", None),
    ("trainer: {callbacks: [{class_path: KLDrift, init_args: {everyy: 3}}]}", "every"),
    ("trainer: {callbacks: {class_path: KLDrift, init_args: {everyy: 3}}}", "every"),
    ("data: {task: {class_path: Countdwn}}", "Countdown"),
    ("data: {task: {class_path: Conciseness, init_args: {varant: x}}}", "variant"),
    ("model: {regularisers: {class_path: ClipNorm, init_args: {max_norm: 1}}}", None),
    ("model: {regularisers: [{ClipNorm: {max_norm: 1}}]}", None),
    ("model: {regularisers: [{class_path: ClipNorm, max_norm: 1}]}", None),
    ("model: {regularisers: [{class_path: ClipNorm, init_args: {max: 1}}]}", None),
    ("model: {sigma_schedule: [CosineSchedule]}", None),
    ("model: {noise: {class_path: FilteredNoise, init_args: {exclude: '*norm*'}}}", None),
    ("model: {shaping: {class_path: FixedScal, init_args: {scale: 1}}}", "FixedScale"),
    ("model: {shaping: {class_path: centered_rank}}", None),
    ("model: {shaping: [centered_rank]}", None),
    ("model: {kl_penalty: 0.1}", None),
    ("model: {sampling: {temprature: 1}}", "temperature"),
    ("model: {sampling: {temperature: hot}}", None),
    ("model: {sigma: abc}", None),
    ("model: {base: 3}", None),
    ("trainer: {max_steps: ten}", None),
    ("fit: {model: {sigma: 1}}", None),
    ("model: [1, 2]", None),
    ("model: {sigma: 1", None),
    ("just text", None),
    ("", None),
]


@pytest.mark.parametrize(("typed", "word"), ON_THE_COMMAND_LINE, ids=str)
def test_on_the_command_line(typed: str, word: str | None, refused) -> None:
    sentence = refused("fit", *SMOKE, *typed.split())
    assert suggested(sentence) == word, sentence
    assert not any(internal in sentence for internal in INTERNALS), sentence
    assert len(sentence) < 250


@pytest.mark.parametrize(("text", "word"), IN_A_FILE, ids=str)
def test_in_a_file(text: str, word: str | None, refused, tmp_path: Path) -> None:
    Path("mine.yaml").write_text(f"# mine\n{text}\n" if text else "")
    sentence = refused("fit", *SMOKE, "-c", "mine.yaml")
    assert suggested(sentence) == word, sentence
    assert not any(internal in sentence for internal in INTERNALS), sentence
    where = r"mine\.yaml " if text in ("just text", "") else r"mine\.yaml, line [23]: "
    assert re.match(where, sentence), sentence


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--model.sigma abc", "model.sigma is abc: give a number."),
        ("--model.population many", "model.population is many: give a whole number."),
        ("--overwrite maybe", "overwrite is maybe: give true or false."),
        ("--model.sigma", "--model.sigma needs a value after it."),
        (
            "--model.engine.dtype float3",
            "model.engine: dtype is float3: give auto, float32, bfloat16 or float16.",
        ),
        ("--model.lr_scheduler CosineAnnealingLR", "CosineAnnealingLR needs T_max"),
        ("--data.task nosuch.Thing", "nosuch.Thing cannot be imported: No module named 'nosuch'."),
        ("--data.task math.sqrt", "data.task: math.sqrt is no Task."),
        (
            "--model.regularisers ClipNorm",
            "takes a list: give --model.regularisers+=ClipNorm, or in YAML a dash before each entry.",
        ),
        ("--model.kl_penalty 0.1", "give its options, such as model.kl_penalty.weight."),
        ("--model.noise TableNoise", "model.noise is TableNoise: name a class, such as GaussianNoise or "),
        (
            "--model.shaping null",
            "model.shaping is None: name a function, or a class that can stand for one.",
        ),
        (
            "--model.shaping Xyzzy",  # the classes of other tests are no shapings
            "There are z_score, none, centered_rank, prompt_centred, prompt_z_score, leave_one_out",
        ),
        (
            "--model.shaping math.pi",
            "model.shaping is math.pi: name a function, or a class that can stand for one.",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(typed: str, words: str, refused) -> None:
    assert words in refused("fit", *SMOKE, *typed.split())


@pytest.mark.parametrize(
    ("command", "word"),
    [("fitt", "fit"), ("tset", "test"), ("rplay", "replay"), ("xyzzy", None), ("sweeps", "sweep")],
)
def test_an_unknown_command_lists_those_that_there_are(command: str, word: str | None, refused) -> None:
    sentence = refused(command, *SMOKE)
    assert sentence.startswith(f"there is no command {command}: ")
    assert all(name in sentence for name in ("fit", "validate", "test", "replay", "ui", "fetch"))
    assert suggested(sentence) == word


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ui", "--prot", "1"], "port"),
        (["fetch", "--hlp"], "help"),
        (["fetch", "it"], None),
        (["replay", "--jornal", "x"], "journal"),
        (["replay", "--journal", "x"], None),
        (["replay", "--journal", "x", "--output", "y", "--trust_remote_code", "perhaps"], None),
    ],
    ids=str,
)
def test_small_commands(arguments: list[str], word: str | None, refused) -> None:
    assert suggested(refused(*arguments)) == word


def test_without_a_task(refused) -> None:
    assert refused("fit") == "data.task is missing: give --data.task, or a config file with -c."


# What is taken ----------------------------------------------------------------------------------------


def test_an_engines_option_without_a_class_is_one_of_the_default(parsed) -> None:
    config = parsed("fit", "--data.task", "Conciseness", "--model.engine.dtype", "float32")
    assert config.model.engine.class_path.endswith("VLLMEngine")
    assert config.model.engine.init_args.dtype == "float32"
    Path("mine.yaml").write_text("model: {engine: {dtype: float32}}")
    assert parsed("fit", "-c", "mine.yaml", "--data.task", "Conciseness").model.engine == config.model.engine
    config = parsed("fit", *SMOKE, "--model.engine.dtype", "float32")
    assert config.model.engine.class_path.endswith("HFEngine")
    assert parsed("fit", "--data.task", "Conciseness").model.engine is None


def test_another_plug_ins_option_without_a_class(parsed) -> None:
    config = parsed("fit", *SMOKE, "--model.sampling.temperature", "0.5")
    assert config.model.sampling.temperature == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.lr_scheduler", "ReduceLROnPlateau", "--model.lr_scheduler.mode", "max"],
        ["--model.lr_scheduler=ReduceLROnPlateau", "--model.lr_scheduler.mode=max"],
        [
            "--model.lr_scheduler.class_path",
            "ReduceLROnPlateau",
            "--model.lr_scheduler.init_args.mode",
            "max",
        ],
        ["-c", "mine.yaml"],
    ],
    ids=" ".join,
)
def test_reduce_on_plateau_by_its_short_name(arguments: list[str], parsed) -> None:
    text = "model: {lr_scheduler: {class_path: ReduceLROnPlateau, init_args: {mode: max}}}"
    Path("mine.yaml").write_text(text)
    scheduler = parsed("fit", *SMOKE, *arguments).model.lr_scheduler
    assert scheduler.class_path == "torch.optim.lr_scheduler.ReduceLROnPlateau"
    assert scheduler.init_args.mode == "max"


@pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda shaping: shaping.__name__)
@pytest.mark.slow
def test_a_shaping_by_its_short_name(shaping: Any, parsed) -> None:
    name = shaping.__name__
    Path("mine.yaml").write_text(f"model: {{shaping: {name}}}")
    given = [["--model.shaping", name], [f"--model.shaping={name}"], ["-c", "mine.yaml"]]
    found = [parsed("fit", *SMOKE, *arguments).model.shaping for arguments in given]
    path = f"{shaping.__module__}.{name}"
    assert [getattr(each, "class_path", each) for each in found] == [
        path if name[0].isupper() else shaping
    ] * 3


def test_the_options_of_shapings_and_regularisers(parsed) -> None:
    typed = (
        "--model.shaping FixedScale --model.shaping.scale 0.2 --model.regularisers+=ClipNorm "
        "--model.regularisers.max_norm 2 --model.regularisers+=AnchoredDecay --model.regularisers.l2 10"
    )
    model = parsed("fit", *SMOKE, *typed.split()).model
    assert model.shaping.init_args.scale == 0.2
    clip, anchor = model.regularisers
    assert (clip.init_args.max_norm, anchor.init_args.l2) == (2.0, 10.0)
    Path("mine.yaml").write_text("model: {shaping: {class_path: FixedScale, init_args: {scale: 0.2}}}")
    assert parsed("fit", *SMOKE, "-c", "mine.yaml").model.shaping == model.shaping


@pytest.mark.parametrize(
    "text", ["{class_path: KLDrift}", "KLDrift", "[KLDrift]", "[{class_path: KLDrift}]", None]
)
def test_one_callback_needs_no_dash(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["es-lightning"])
    instantiate = cli.CommandLine.instantiate_trainer

    def halt(self: cli.CommandLine) -> None:
        raise Parsed(instantiate(self))

    monkeypatch.setattr(cli.CommandLine, "instantiate_trainer", halt)
    Path("mine.yaml").write_text(f"trainer: {{callbacks: {text}}}")
    given = ["-c", "mine.yaml"] if text else ["--trainer.callbacks", "KLDrift"]
    with pytest.raises(Parsed) as caught:
        entry.main(["fit", *SMOKE, *given, "--trainer.logger", "false"])
    names = [type(callback).__name__ for callback in caught.value.args[0].callbacks]
    assert names.count("KLDrift") == names.count("GracefulStop") == 1


# Packaged configs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sparse.yaml", "recipes/sparse.yaml", "configs/recipes/sparse.yaml"])
def test_a_packaged_recipe_is_found_by_its_name(name: str, parsed) -> None:
    model = parsed("fit", "-c", "smoke_cpu.yaml", "-c", name, "--model.population", "4").model
    assert model.regularisers[0].class_path.endswith("SparseUpdate")
    assert (model.base, model.population) == ("tiny", 4)


@pytest.mark.parametrize("name", ["smoke_cpu.yaml", "configs/smoke_cpu.yaml"])
def test_a_packaged_config_is_found_by_its_name(name: str, parsed) -> None:
    assert parsed("fit", "-c", name).model.base == "tiny"
    assert parsed("fit", f"--config={name}").model.base == "tiny"


def test_ones_own_config_comes_before_a_packaged_one(parsed) -> None:
    Path("smoke_cpu.yaml").write_text("{data: {task: Conciseness}, model: {base: mine}}")
    assert parsed("fit", "-c", "smoke_cpu.yaml").model.base == "mine"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("demoo.yaml", "demo.yaml, which comes with the package"),
        ("configs/smoke-cpu.yaml", "smoke_cpu.yaml, which comes with the package"),
        ("nofile.yaml", None),
        ("elsewhere/demo.txt", "demo.yaml, which comes with the package"),
    ],
)
def test_a_missing_config_is_named(name: str, word: str | None, refused) -> None:
    sentence = refused("fit", "-c", name)
    assert sentence.startswith(f"there is no config file {name}.")
    assert suggested(sentence) == word


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("--sigm", ["--sigma"], " Did you mean sigma?"),
        ("SDG", ["SGD", "Adam"], " Did you mean SGD?"),
        ("sgd", ["SGD"], " Did you mean SGD?"),
        ("n_test", ["sigma", "dtype"], ""),
        ("", ["sigma"], ""),
        ("sigma", [], ""),
        ("linear", ["ListedSchedule", "LinearSchedule"], " Did you mean LinearSchedule?"),
        ("lin", ["LinearSchedule"], ""),
    ],
)
def test_the_nearest_word(word: str, candidates: list[str], expected: str) -> None:
    assert suggestion(word, candidates) == expected


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_words_for_what_is_no_number_are_no_classes(value: str, refused) -> None:
    sentence = refused("fit", *SMOKE, "--model.optimizer.init_args.lr", value)
    assert sentence == f"model.optimizer.init_args.lr is {value}: give a number."
