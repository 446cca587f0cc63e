"""The launchers: what they render is what bash, YAML and the JobSet schema accept, and two
processes on loopback make one run.
"""

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
NANO = ROOT / "tests" / "train" / "nano.py"
COMMAND = (
    "pretrain",
    "--config",
    "experiments/vitl_pod.py",
    "--workdir",
    "/mnt/shared/it's a $HOME",
    "--config.steps=3",
)
HERE = os.environ | {"JAX_PLATFORMS": "cpu"}  # with the flags of conftest.py, which compile quickly
JOBSET = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())


def launch(name: str, *options: str, command=COMMAND, **more) -> subprocess.CompletedProcess:
    words = [sys.executable, str(LAUNCH / f"{name}.py"), *options, "--", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=ROOT, **more)


def rendered(tmp_path: Path, name: str, *options: str) -> str:
    out = tmp_path / "rendered"
    done = launch(name, "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    return out.read_text()


def bash_accepts(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_two_processes_on_loopback_give_the_losses_of_one(tmp_path):
    runpy.run_path(str(NANO))["write_studies"](tmp_path / "store")
    found = {}
    for processes, devices in ((1, 2), (2, 1)):
        run = tmp_path / f"of {processes}"
        words = [
            "--workdir",
            str(run),
            f"--config.data.store={tmp_path / 'store'}",
            "--config.steps=3",
            "--config.mesh.data=2",
        ]
        # DINO: its centring is a sum over both processes
        words += [f"--config.objective.{name}=0" for name in ("mae", "ibot", "koleo")]
        shape = ("--processes", str(processes), "--devices", str(devices))
        done = launch(
            "local", *shape, command=["pretrain", "--config", str(NANO), *words], env=HERE
        )
        assert done.returncode == 0, done.stderr
        found[processes] = [
            json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
    # one process writes, and each step once
    assert [line["step"] for line in found[2]] == [0, 1, 2]
    assert len({line["loss"] for line in found[2]}) == 3
    np.testing.assert_allclose(
        [line["loss"] for line in found[2]], [line["loss"] for line in found[1]], rtol=1e-6
    )


def test_one_failing_process_fails_the_run(tmp_path):
    done = launch(
        "local", "--processes", "2", command=["inspect", str(tmp_path / "no store")], env=HERE
    )
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
    text = rendered(tmp_path, "slurm", *options)
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
    assert shlex.split(srun)[3:] == ["/a b/python", "-m", "mmv_jax.cli", *COMMAND]


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
    jobset = yaml.safe_load(
        rendered(
            tmp_path,
            "gke",
            "--name",
            "vitl",
            "--image",
            "registry/mmv:1",
            "--claim",
            "runs",
            *where,
        )
    )
    jsonschema.validate(jobset, JOBSET)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == list(COMMAND)
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


def test_the_jobset_schema_refuses_a_field_that_jobsets_do_not_have(tmp_path):
    jobset = yaml.safe_load(
        rendered(
            tmp_path, "gke", "--image", "registry/mmv:1", "--claim", "runs", "--tpu", "v5e:4x4"
        )
    )
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "restartsPolicy"
    ] = "Never"
    with pytest.raises(jsonschema.ValidationError, match="restartsPolicy"):
        jsonschema.validate(jobset, JOBSET)


@pytest.mark.parametrize(
    "tpu, name",
    [
        ("v5p:4x4x8", "v5p-256"),
        ("v5e:4x4", "v5litepod-16"),
        ("v6e:16x16", "v6e-256"),
        ("v4:2x2x2", "v4-16"),
    ],
)
def test_the_script_for_virtual_machines_asks_for_that_slice(tmp_path, tpu, name):
    text = rendered(
        tmp_path,
        "tpu_vm",
        "--name",
        "vitl",
        "--zone",
        "us-east5-a",
        "--nfs",
        "10.0.0.2:/share",
        "--tpu",
        tpu,
    )
    assert bash_accepts(text)
    assert f"--accelerator-type={name} " in text
    assert "nfs=10.0.0.2:/share\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("words=")]
    # quoted once for this shell, once for the host's
    assert shlex.split(shlex.split(line, comments=True)[0].removeprefix("words=")) == list(COMMAND)


@pytest.mark.parametrize("name", ["v5p", "v9:2x2", "v5e:4xx", "v5e:0x4"])
def test_a_slice_that_does_not_exist_is_wrong_use(tmp_path, name):
    done = launch("gke", "--out", str(tmp_path / "x"), "--image", "i", "--tpu", name)
    assert done.returncode == 2
    assert "v5p:4x4x8" in done.stderr  # says how it is written
    assert not (tmp_path / "x").exists()


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
