"""`mmv`: exit codes, help, and mistakes told in a line."""

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mmv_jax import cli
from mmv_jax.cli import COMMANDS, main
from mmv_jax.commands.table import help_of
from mmv_jax.config import packaged_configs
from mmv_jax.errors import UserError, WorkFailed
from mmv_jax.train import loop


def exit_code(words) -> int:
    """Of `mmv` with these words; argparse leaves by SystemExit."""
    try:
        return main(words)
    except SystemExit as left:
        return int(left.code)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_is_understood(name, capsys, monkeypatch):
    assert exit_code([name, "--help"]) == 0
    example = capsys.readouterr().out.partition("example: mmv ")[2]
    assert example.split()[0] == name
    called = []
    monkeypatch.setitem(COMMANDS, name, (COMMANDS[name][0], lambda args: called.append(args) or 0))
    assert main(shlex.split(example)) == 0
    assert called[0].command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_what_each_word_means(name):
    add_arguments, _ = COMMANDS[name]
    said = help_of(add_arguments)
    assert said.summary.endswith(".") and len(said.summary) <= 80
    assert said.text, "what it reads and writes, and when to use it"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert not [action.dest for action in parser._actions if not action.help]


def test_help_lists_every_command(capsys):
    assert exit_code(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # what explains them stands further in
    listed = {line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)


@pytest.mark.parametrize(
    "words, named",
    [
        (["inspect", "store", "--verfy"], "--verfy"),
        # no abbreviations: they would change their meaning when an option is added
        (["inspect", "store", "--ver"], "--ver"),
        (["inspect", "store", "--config.seed=1"], "--config.seed=1"),
        (
            ["pretrain", "--config", "x.py", "--workdir", "https://host/run"],
            "--workdir: https://host/run is not the address of a bucket. Give gs://",
        ),
        (
            [
                "export",
                "--checkpoint",
                "s3://bucket/run",
                "--format",
                "huggingface",
                "--out",
                "s3://bucket/out",
            ],
            "--out: s3://bucket/out is an address",
        ),
        (["inspect"], "STORE"),
        (["train"], "train"),
        ([], "COMMAND"),
    ],
)
def test_wrong_use_is_2_and_named(words, named, capsys):
    assert exit_code(words) == 2
    assert named in capsys.readouterr().err


# and what the message names: a file or, where its name may be a patient's, the argument
MISSING = {
    "manifest folder nowhere --out out.csv": "ROOT",
    "ingest nowhere.csv --store store": "nowhere.csv",
    "inspect nowhere": "nowhere",
    "pretrain --config nowhere.py --workdir run": "nowhere.py",
    "status nowhere": "nowhere",
    "evaluate --config nowhere.py --workdir run": "nowhere.py",
    "embed --checkpoint nowhere --store nowhere --out out": "nowhere",
}


@pytest.mark.parametrize("line, named", MISSING.items(), ids=[line.split()[0] for line in MISSING])
def test_what_is_missing_is_named_in_one_line(line, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mmv {line.split()[0]}: ")
    assert named in error
    assert error.count("\n") == 1


def test_an_unknown_name_of_a_config_is_named(capsys, tmp_path):
    words = f"pretrain --config demo --workdir {tmp_path}/run --config.step=5"
    assert exit_code(words.split()) == 2
    assert "config.step does not exist. Did you mean steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, says",
    [
        (UserError("mend it"), 2, "mend it"),
        (WorkFailed("it diverged"), 1, "it diverged"),
        (KeyboardInterrupt(), 1, "stopped."),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, says, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setitem(COMMANDS, "status", (COMMANDS["status"][0], fail))
    assert main(["status", "run"]) == code
    assert capsys.readouterr().err == f"mmv status: {says}\n"


def test_sigterm_cleans_up_as_ctrl_c_does_and_the_message_says_what_to_do(capsys, monkeypatch):
    cleaned = []

    def work(args):
        try:
            with contextlib.suppress(BaseException):  # as JAX does while it traces
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            time.sleep(10)
        finally:
            time.sleep(0.3)  # is not stopped in its turn
            cleaned.append(True)

    monkeypatch.setattr(cli, "AGAIN_S", 0.1)
    monkeypatch.setitem(COMMANDS, "evaluate", (COMMANDS["evaluate"][0], work))
    assert main(["evaluate"]) == 143
    assert cleaned
    said = "mmv evaluate: stopped. The same command goes on from here.\n"
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


UNWRITABLE = {
    "manifest folder images --out nodir/m.csv": "OUT: No such file",  # by its temporary name
    "pretrain --config demo --workdir images/1.png": "WORKDIR: ",
    "evaluate --config eval_demo --checkpoint run --workdir images/1.png": "WORKDIR: ",
}


@pytest.mark.parametrize(
    "line, says", UNWRITABLE.items(), ids=[line.split()[0] for line in UNWRITABLE]
)
def test_what_the_system_refuses_is_one_line_that_names_the_argument(
    line, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "images" / "1.png")
    monkeypatch.setattr(
        "mmv_jax.train.loop.pretrain", lambda config, workdir: workdir.mkdir(parents=True)
    )
    assert main(line.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"mmv {line.split()[0]}: {says}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left", "Anna_Miller.png"), OSError("8 requested and 0 written")],
    ids=["errno", "numpy"],
)
def test_a_full_disk_is_told_without_a_path(error, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setitem(COMMANDS, "status", (COMMANDS["status"][0], fail))
    assert main(["status", "run"]) == 1
    told = capsys.readouterr().err
    assert "Miller" not in told
    assert "No space left" in told or "room on the disk" in told


def test_a_connection_that_fails_is_not_taken_for_a_full_disk(capsys, monkeypatch):
    def fail(args):
        raise ConnectionError("token required by 10.0.0.1")

    monkeypatch.setitem(COMMANDS, "status", (COMMANDS["status"][0], fail))
    assert main(["status", "run"]) == 1
    told = capsys.readouterr().err
    assert "ConnectionError" in told and "server" in told and "disk" not in told


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise ValueError("a broken promise")

    monkeypatch.setitem(COMMANDS, "status", (COMMANDS["status"][0], fail))
    with pytest.raises(ValueError, match="a broken promise"):
        main(["status", "run"])


def test_an_ingest_of_nothing_but_broken_files_is_1(tmp_path, capsys):
    (tmp_path / "broken.dcm").write_text("no image")
    (tmp_path / "manifest.csv").write_text(
        "study_id,path,patient_id,split,modality\n1,broken.dcm,1,train,CXR\n"
    )
    assert (
        main(
            ["ingest", f"{tmp_path}/manifest.csv", "--store", f"{tmp_path}/store", "--workers", "1"]
        )
        == 1
    )
    assert "0 studies ingested" in capsys.readouterr().out


def test_a_process_ends_with_the_code_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", cli.__name__, "inspect", f"{tmp_path}/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("done, told, code", [(3, "75", 75), (3, None, 0), (8, "75", 0)])
def test_a_run_that_was_told_to_stop_says_so_to_whom_it_matters(
    done, told, code, monkeypatch, tmp_path
):
    monkeypatch.setattr(loop, "pretrain", lambda config, workdir: SimpleNamespace(step=done))
    monkeypatch.delenv("MMV_STOPPED_EXIT_CODE", raising=False)
    if told:
        monkeypatch.setenv("MMV_STOPPED_EXIT_CODE", told)
    line = f"pretrain --config demo --config.steps=8 --workdir {tmp_path / 'run'}"
    assert main(line.split()) == code


MISTAKES = {
    "pretrain --config demo --workdir run --steps=20": "write --config.steps=20",
    "pretrain --config demo --workdir run --steps 20": "write --config.steps=20",
    "pretrain --config demo --workdir run --peak_lr=1": "write --config.optimizer.peak_lr=1",
    "pretrain --config dmo --workdir run": "Did you mean demo?",
    "pretrain --config eval_demo --workdir run": "the config of an evaluation, which `mmv eval",
    "evaluate --config demo --workdir run": "the config of a pretraining, which `mmv pretrain`",
    "fit-bac --config demo --workdir run": "which `mmv pretrain` reads. `mmv fit-bac` needs",
    "pretrain --config bac --workdir run": "which `mmv fit-bac` reads",
    "pretrain --config broken.py --workdir run": "broken.py, line 2: ",
    "pretrain --config raises.py --workdir run": "raises.py, line 2: NameError: name 'Config",
    "pretrain --config lacks.py --workdir run": "config.steps (Of the whole run; ",
    "pretrain --config stray.py --workdir run": "config.sed does not exist. Did you mean seed or",
    "pretrain --config demo --workdir run --sweep optimizer.peak_lr": "--sweep optimizer.peak_lr",
    "pretrain --config demo --workdir run --sweep optimizer.peak=1,2": "mean optimizer.peak_lr",
}


@pytest.mark.parametrize("line, says", MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_in_a_config_is_told_in_a_line(line, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def get_config():\n    return (\n")
    (tmp_path / "raises.py").write_text("def get_config():\n    return ConfigDict()\n")
    demo = packaged_configs()[0].parent / "demo.py"
    text = demo.read_text()
    (tmp_path / "lacks.py").write_text(text.replace("dict(seed=0, steps=250)", "dict(seed=0)"))
    (tmp_path / "stray.py").write_text(text.replace("seed=0,", "seed=0, sed=1,"))
    assert exit_code(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


BEFORE = Path(__file__).parent / "before"


@pytest.mark.full
def test_a_dry_run_runs_one_step_and_keeps_nothing(capsys, tmp_path):
    words = f"pretrain --config {BEFORE / 'config.py'} --workdir {tmp_path / 'run'} --dry-run"
    terms = [f"--config.objective.{name}=0" for name in ("dino", "ibot", "koleo")]
    assert main([*words.split(), f"--config.data.store={BEFORE / 'store'}", *terms]) == 0
    told = capsys.readouterr().out
    assert "parameters" in told
    assert re.search(r"run in \d+\.\d+ s, loss \d", told)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, says",
    [
        ("--config.data.store=nowhere", "nowhere is not a store"),
        ("--config.rows.per_step=7", "Set --config.rows.per_step=8"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(change, says, capsys, tmp_path):
    words = f"pretrain --config {BEFORE / 'config.py'} --workdir {tmp_path / 'run'} --dry-run"
    assert main([*words.split(), f"--config.data.store={BEFORE / 'store'}", change]) == 2
    assert says in capsys.readouterr().err


def test_a_sweep_goes_on_where_a_run_fails(capsys, tmp_path, monkeypatch):
    trained = {}

    def pretrain(config, workdir):
        trained[workdir.name] = config.optimizer.clip
        if config.optimizer.clip == 2.0:
            raise WorkFailed("it diverged")
        return SimpleNamespace(step=config.steps)

    monkeypatch.setattr(loop, "pretrain", pretrain)
    words = f"pretrain --config demo --workdir {tmp_path} --sweep optimizer.clip=1.0,2,3.0"
    assert main(words.split()) == 1
    # `clip` is not in the file: every key can be swept
    assert trained == {"optimizer.clip=1.0": 1.0, "optimizer.clip=2": 2.0, "optimizer.clip=3.0": 3}
    printed = capsys.readouterr()
    assert "optimizer.clip=2 failed: WorkFailed: it diverged" in printed.err
    assert "2 of 3 runs" in printed.out


def test_the_configs_of_the_package_are_listed_and_explained(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in packaged_configs()]
    assert main(["config", "demo"]) == 0
    told = capsys.readouterr().out
    assert "steps = 250  (needed)" in told
    assert "encoder.qk_norm = False  (default False)\n    normalises queries and keys" in told
    assert main(["config", "eval_demo"]) == 0
    assert "tasks.cxr_heart.mask = 'anatomy'  (default '')" in capsys.readouterr().out


def test_versions_are_printed(capsys):
    assert exit_code(["--version"]) == 0
    assert re.match(r"mmv_jax \d.*  jax \d", capsys.readouterr().out)


def test_the_demo_runs_the_commands_in_turn_and_ends_with_the_first_failure(tmp_path, monkeypatch):
    called = []
    for name in ("phantom", "ingest", "inspect", "pretrain", "evaluate"):
        code = 1 if name == "pretrain" else 0

        def run(args, code=code):
            called.append(args)
            return code

        monkeypatch.setitem(COMMANDS, name, (COMMANDS[name][0], run))
    assert main(["demo", "--workdir", str(tmp_path)]) == 1
    assert [args.command for args in called] == ["phantom", "ingest", "inspect", "pretrain"]
    assert called[-1].overrides == [f"--config.data.store={tmp_path / 'store'}"]


@pytest.mark.full
def test_the_wheel_holds_configs_and_launchers(tmp_path):
    root = Path(__file__).resolve().parents[1]
    build = [sys.executable, "-m", "pip", "wheel", str(root), "--no-deps", "-q", "-w"]
    subprocess.run([*build, str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    beside = [*root.glob("experiments/*.py"), *root.glob("launch/**/*.*")]
    for path in beside:
        if "__pycache__" not in path.parts:
            assert f"mmv_jax/{path.relative_to(root)}" in held
    assert "mmv_jax/py.typed" in held
