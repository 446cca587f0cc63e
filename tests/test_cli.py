"""`mmv`: exit codes, help, and mistakes told in a line."""

import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from mmv_jax import cli
from mmv_jax.cli import COMMANDS, main
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
    assert example.startswith(f"{name} ")
    called = []
    monkeypatch.setitem(COMMANDS, name, (COMMANDS[name][0], lambda args: called.append(args) or 0))
    assert main(shlex.split(example)) == 0
    assert called[0].command == name


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
            ["pretrain", "--config", "x.py", "--workdir", "gs://bucket/run"],
            "--workdir: gs://bucket/run is an address",
        ),
        (
            [
                "embed",
                "--checkpoint",
                "s3://bucket/run",
                "--store",
                "s3://bucket/store",
                "--out",
                "x",
            ],
            "--checkpoint: s3://bucket/run is an address",
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
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'steps':"
        " 3})\n"
    )
    assert (
        exit_code(
            [
                "pretrain",
                "--config",
                f"{tmp_path}/mine.py",
                "--workdir",
                f"{tmp_path}/run",
                "--config.step=5",
            ]
        )
        == 2
    )
    assert "config.step does not exist. Did you mean steps?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, says",
    [
        (UserError("mend it"), 2, "mend it"),
        (WorkFailed("it diverged"), 1, "it diverged"),
        (KeyboardInterrupt(), 1, "stopped"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, says, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setitem(COMMANDS, "status", (COMMANDS["status"][0], fail))
    assert main(["status", "run"]) == code
    assert capsys.readouterr().err == f"mmv status: {says}{'' if says != 'stopped' else '.'}\n"


UNWRITABLE = {
    "manifest folder images --out nodir/m.csv": "OUT: No such file",
    "pretrain --config c.py --workdir images/1.png": "WORKDIR: ",
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
    monkeypatch.setattr("mmv_jax.config.load_config", lambda path, overrides: None)
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
    config = tmp_path / "eight.py"
    config.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return"
        " ConfigDict({'steps': 8})\n"
    )
    assert main(["pretrain", "--config", str(config), "--workdir", str(tmp_path / "run")]) == code
