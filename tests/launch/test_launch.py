"""The launchers: what they render is what bash, YAML and the JobSet schema accept, and two
processes on loopback make one run.
"""

import argparse
import importlib
import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path

import jax
import jsonschema
import numpy as np
import pytest
import yaml

from mmv_jax.cli import main
from mmv_jax.errors import UserError
from mmv_jax.parallel import make_mesh
from mmv_jax.train import loop

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
sys.path.insert(0, str(LAUNCH))  # the launchers are scripts, which import each other by name
Slice = importlib.import_module("slices").Slice
NANO = ROOT / "tests" / "train" / "nano.py"
COMMAND = (
    "pretrain",
    "--config",
    "experiments/vitl_pod.py",
    "--workdir",
    "/mnt/shared/it's a $HOME",
    "--config.steps=3",
)
PLACES = {"v5p:4x4x8": 128, "v5e:4x4": 16, "v5e:2x2": 4, "v6e:16x16": 256, "v4:2x2x2": 8}


def command_for(devices: int) -> tuple[str, ...]:
    """`COMMAND` on so many devices."""
    fsdp = min(devices, 8)
    return (*COMMAND, f"--config.mesh.data={devices // fsdp}", f"--config.mesh.fsdp={fsdp}")


JOBSET = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())


def launch(name: str, *options: str, command=COMMAND) -> subprocess.CompletedProcess:
    """A launcher's `main`, in this process: each new one would import all of JAX again."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = importlib.import_module(name).main([*options, "--", *command])
        except SystemExit as ended:  # argparse's way to refuse
            code = ended.code
    return subprocess.CompletedProcess(name, code, out.getvalue(), err.getvalue())


@pytest.fixture
def start_local(monkeypatch, capfd):
    """`launch/local.py` in this process; what it starts are processes of their own."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    before = {told: signal.getsignal(told) for told in (signal.SIGTERM, signal.SIGINT)}

    def start(*options: str, command) -> subprocess.CompletedProcess:
        capfd.readouterr()
        code = importlib.import_module("local").main([*options, "--", *command])
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    yield start
    for told, handler in before.items():
        signal.signal(told, handler)


def rendered(tmp_path: Path, name: str, *options: str, devices: int = 128) -> str:
    out = tmp_path / "rendered"
    done = launch(name, "--out", str(out), *options, command=command_for(devices))
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    return out.read_text()


def bash_accepts(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_two_processes(
    tmp_path, start_local, term: str, *, steps: int, run_alone: Callable
) -> None:
    """Losses of two processes with a device each are those of one with two devices."""
    runpy.run_path(str(NANO))["write_studies"](tmp_path / "store")
    others = {"mae", "dino", "ibot", "koleo"} - {term}
    command = ["pretrain", "--config", str(NANO), f"--config.data.store={tmp_path / 'store'}"]
    command += [*(f"--config.objective.{name}=0" for name in sorted(others))]
    command += [f"--config.steps={steps}", "--config.mesh.data=2", "--workdir"]
    two = ("--processes", "2", "--devices", "1")
    done = start_local(*two, command=[*command, str(tmp_path / "of 2")])
    assert done.returncode == 0, done.stderr
    run_alone([*command, str(tmp_path / "of 1")])
    of_two, of_one = lines_of(tmp_path / "of 2"), lines_of(tmp_path / "of 1")
    # one process writes, and each step once
    assert [line["step"] for line in of_two] == list(range(steps))
    assert len({line["loss"] for line in of_two}) == steps
    np.testing.assert_allclose(
        [line["loss"] for line in of_two], [line["loss"] for line in of_one], rtol=1e-6
    )


def test_two_processes_on_loopback_give_the_losses_of_one(tmp_path, monkeypatch, start_local):
    # The one process is this one, with two of its devices.
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    monkeypatch.setattr(loop, "make_mesh", wraps(make_mesh)(lambda **axes: mesh))

    def run_here(command):
        assert main(command) == 0

    # KoLeo compares the features of both processes, and is compiled soonest.
    check_two_processes(tmp_path, start_local, "koleo", steps=3, run_alone=run_here)


@pytest.mark.full
def test_two_processes_give_the_losses_of_one_that_is_started_alike(tmp_path, start_local):
    def start_one(command):
        done = start_local("--processes", "1", "--devices", "2", command=command)
        assert done.returncode == 0, done.stderr

    # DINO: its centring is a sum over both processes.
    check_two_processes(tmp_path, start_local, "dino", steps=6, run_alone=start_one)


def test_one_failing_process_fails_the_run(tmp_path, start_local):
    done = start_local("--processes", "2", command=["inspect", str(tmp_path / "no store")])
    assert done.returncode == 2
    assert done.stderr.count("is not a store") == 2  # both said why


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_batch_script_starts_a_task_a_gpu(tmp_path, gpus):
    options = [
        "--nodes",
        "2",
        "--tasks-per-node",
        "4",
        "--gpus-per-node",
        str(gpus),
        "--python",
        "/a b/python",
    ]
    text = rendered(tmp_path, "slurm", *options, devices=8)
    assert bash_accepts(text)
    directives = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in text.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert (directives["nodes"], directives["ntasks-per-node"]) == ("2", "4")
    assert directives.get("gpus-per-node") == (str(gpus) if gpus else None)
    srun = text[text.index("srun ") :].replace("\\\n", " ").splitlines()[0].removesuffix("&")
    # each word as it was given
    assert shlex.split(srun)[3:] == ["/a b/python", "-m", "mmv_jax.cli", *command_for(8)]


def test_a_batch_script_with_fewer_tasks_than_gpus_is_refused(tmp_path):
    done = launch("slurm", "--out", str(tmp_path / "x"), "--nodes", "1", "--gpus-per-node", "8")
    assert done.returncode == 2
    assert "one task a GPU" in done.stderr


@pytest.mark.parametrize(
    "where, hosts, limits",
    [
        (["--tpu", "v5p:4x4x8"], 32, {"google.com/tpu": 4}),
        (["--tpu", "v5e:2x2"], 1, {"google.com/tpu": 4}),
        (["--tpu", "v6e:16x16", "--spot"], 64, {"google.com/tpu": 4}),
        (["--gpu", "nvidia-h100-80gb", "--hosts", "4"], 4, {"nvidia.com/gpu": 8}),
    ],
)
def test_a_jobset_follows_its_schema_and_has_a_pod_a_host(tmp_path, where, hosts, limits):
    devices = PLACES.get(where[1], 32)
    options = ("--name", "vitl", "--image", "registry/mmv:1", "--claim", "runs")
    jobset = yaml.safe_load(rendered(tmp_path, "gke", *options, *where, devices=devices))
    jsonschema.validate(jobset, JOBSET)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == list(command_for(devices))
    check_failures(jobset, job)
    assert container["resources"]["limits"] == limits
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in job["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"shared": {"claimName": "runs"}}
    assert {volume["name"]: volume["mountPath"] for volume in container["volumeMounts"]} == {
        "shared": "/mnt/shared",
        "shared-memory": "/dev/shm",
    }
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in job["template"]["spec"][
        "volumes"
    ]
    environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    assert int(environment.pop("MMV_STOPPED_EXIT_CODE")) > 0
    # On a TPU JAX asks the machine; elsewhere it is told, and the index of the pod is its process.
    assert environment == (
        {}
        if where[0] == "--tpu"
        else {"JAX_COORDINATOR_ADDRESS": "vitl-host-0-0.vitl:8476", "JAX_NUM_PROCESSES": str(hosts)}
    )


def check_failures(jobset: dict, job: dict) -> None:
    """Wrong use fails the run at once; a pod that is taken away has all start again."""
    count, fail = job["podFailurePolicy"]["rules"]
    assert count["action"] == "Count"
    assert count["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    codes = {"containerName": "mmv", "operator": "In", "values": [UserError.exit_code]}
    assert (fail["action"], fail["onExitCodes"]) == ("FailJob", codes)
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    assert job["backoffLimit"] == 0


def test_the_jobset_schema_refuses_a_field_that_jobsets_do_not_have(tmp_path):
    jobset = yaml.safe_load(
        rendered(
            *(tmp_path, "gke", "--image", "registry/mmv:1", "--claim", "runs", "--tpu", "v5e:4x4"),
            devices=16,
        )
    )
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "restartsPolicy"
    ] = "Never"
    with pytest.raises(jsonschema.ValidationError, match="restartsPolicy"):
        jsonschema.validate(jobset, JOBSET)


def tpu_script(tmp_path: Path, tpu: str, *options: str) -> str:
    """The script for virtual machines, as from a checkout without changes."""
    own = ("--name", "vitl", "--zone", "us-east5-a", "--nfs", "10.0.0.2:/share", "--tpu", tpu)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("check.uncommitted", lambda: [])
        return rendered(tmp_path, "tpu_vm", *own, *options, devices=PLACES[tpu])


def test_changes_that_are_not_committed_are_left_behind_and_so_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("check.uncommitted", lambda: ["a.py", "b.py", "c.py", "d.py"])
    own = ("--zone", "z", "--nfs", "10.0.0.2:/share", "--tpu", "v5p:4x4x8")
    told = "a.py, b.py, c.py and 1 more: not committed.*Commit them"
    refuse(tmp_path, "tpu_vm", own, COMMAND, told)


@pytest.mark.parametrize("tpu, name", [("v5p:4x4x8", "v5p-256"), ("v5e:4x4", "v5litepod-16")])
def test_the_script_for_virtual_machines_asks_for_that_slice(tmp_path, tpu, name):
    text = tpu_script(tmp_path, tpu)
    assert bash_accepts(text)
    assert f"--accelerator-type={name} " in text
    assert "nfs=10.0.0.2:/share\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("words=")]
    # quoted once for this shell, once for the host's
    words = shlex.split(shlex.split(line, comments=True)[0].removeprefix("words="))
    assert words == list(command_for(PLACES[tpu]))


@pytest.mark.parametrize("state, ends", [("SUSPENDED", 1), ("FAILED", 1), ("ACTIVE", 0)])
def test_a_slice_that_will_not_come_ends_the_wait_in_words(tmp_path, state, ends):
    text = tpu_script(tmp_path, "v5e:4x4", "--stage-to", "/scratch/store")
    (tmp_path / "gcloud").write_text(f'#!/bin/bash\necho "$*" >>"$0.log"\necho {state}\n')
    (tmp_path / "gcloud").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"], input=text, text=True, capture_output=True, env=os.environ | path, cwd=ROOT
    )
    assert done.returncode == ends, done.stderr
    asked = (tmp_path / "gcloud.log").read_text()
    if ends:
        assert f"its state is {state}" in done.stderr and "tpu-vm ssh" not in asked
    else:
        staged = "mmv stage stores/mimic_ctrate /scratch/store"
        assert asked.index(staged) < asked.index("mmv pretrain")
        assert "--config.data.store=/scratch/store" in asked


@pytest.mark.parametrize(
    "name, told",
    [
        *(("v5p", "v5p:4x4x8"), ("v9:2x2", "v5p:4x4x8"), ("v5e:4xx", "v5p:4x4x8")),
        *(("v5e:0x4", "v5p:4x4x8"), ("v5p:3x5x7", "multiples of 4"), ("v5e:2x3", "2x2, 2x4")),
        *(("v5p:8x4x4", "smallest first"), ("v5p:4x4", "4x4x4"), ("v6e:32x32", "16x16")),
    ],
)
def test_a_slice_that_is_not_offered_is_named_with_those_that_are(name, told):
    with pytest.raises(argparse.ArgumentTypeError, match=told):
        Slice.parse(name)


@pytest.mark.parametrize(
    "name, hosts, kind",
    [
        *(("v5p:16x16x24", 1536, "v5p-12288"), ("v6e:16x16", 64, "v6e-256")),
        *(("v4:2x2x2", 2, "v4-16"), ("v5e:1x1", 1, "v5litepod-1"), ("tpu7x:4x4x4", 16, None)),
    ],
)
def test_a_slice_that_is_offered_has_its_hosts_and_its_name(name, hosts, kind):
    found = Slice.parse(name)
    assert (found.hosts, found.accelerator_type) == (hosts, kind)


GKE = ("--image", "i", "--claim", "c", "--tpu", "v5p:4x4x8")
SLURM = ("--nodes", "16", "--tasks-per-node", "8", "--gpus-per-node", "8")
REFUSED = {
    "a command that does not exist": ("gke", GKE, ["pretrian"], "has no command 'pretrian'"),
    "a word that it does not know": ("gke", GKE, [*COMMAND, "--steps=3"], "not know --steps=3"),
    "a key that it does not have": ("gke", GKE, [*COMMAND, "--config.stps=3"], "stps"),
    "a mesh of another size": (
        *("gke", GKE, [*COMMAND, "--config.mesh.data=8"]),
        "data=8 × fsdp=8 = 64 devices, but .* has 128. Set --config.mesh.data=16",
    ),
    "rows that cannot be shared out": (
        *("slurm", SLURM, [*COMMAND, "--config.rows.per_step=1000"]),
        "per_step=1024",
    ),
    "a workdir that goes with its pod": (
        *("gke", GKE, [*COMMAND, "--workdir", "runs/x"]),
        "Give --workdir /mnt/shared/x",
    ),
    "a file that is not there": ("slurm", SLURM, ["pretrain", "--config", "no.py"], "--workdir"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_could_not_begin_is_refused_before_anything_is_written(tmp_path, case):
    refuse(tmp_path, *REFUSED[case])


def refuse(tmp_path, name, options, command, told):
    done = launch(name, "--out", str(tmp_path / "x"), *options, command=command)
    assert done.returncode == 2, done.stderr
    assert re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "x").exists()


def test_slurm_gets_account_container_and_what_a_cluster_asks_for(tmp_path):
    options = ["--account", "a1", "--qos", "high", "--constraint", "h100&ib", "--mem", "0"]
    options += ["--container", "/img/mmv.sif", "--container-mounts", "/s:/s", "--no-requeue"]
    options += ["--stage-to", "/scratch/store", "--python", "python3"]
    done = launch("slurm", "--out", str(tmp_path / "x"), *SLURM, *options)
    assert done.returncode == 0, done.stderr
    for words in ("stores/mimic_ctrate is not seen from here", "whether a run is in it"):
        assert words in done.stderr
    text = (tmp_path / "x").read_text()
    assert bash_accepts(text)
    for word in ("account=a1", "qos=high", "constraint=h100&ib", "mem=0", "no-requeue"):
        assert f"#SBATCH --{word}\n" in text
    inside = "apptainer exec --nv --bind /s:/s /img/mmv.sif python3 -m mmv_jax.cli"
    assert f"{inside} stage stores/mimic_ctrate /scratch/store || exit 1" in text
    assert text.index(f"{inside} stage") < text.index(f"{inside} pretrain")
    assert text.rstrip().count("--config.data.store=/scratch/store") == 1


def test_a_launcher_without_a_command_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(LAUNCH / "slurm.py"), "--out", "x", "--nodes", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "what to start is missing" in done.stderr


def test_the_loopback_script_is_one_that_bash_reads():
    assert bash_accepts((LAUNCH / "slurm_on_loopback.sh").read_text())
