"""PyTorch's pickles: their tensors are read, and nothing of them is ever run or loaded."""

import argparse
import collections
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from mmv_jax.convert import pickled
from mmv_jax.convert.stored import read_groups
from mmv_jax.errors import UserError

torch = pytest.importorskip("torch", reason="extra torch")


def contents() -> dict:
    x = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return collections.OrderedDict(
        plain=x,
        turned=x.T,  # strides of its own
        part=x[1:3, 2:4],  # shares the storage, and begins within it
        half=(x / 7).half(),
        brain=(x / 7).bfloat16(),
        whole=torch.tensor(7),
        empty=torch.zeros(0, 3),
        learnt=torch.nn.Parameter(x + 1),
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "before 1.6"])
def test_tensors_are_those_that_pytorch_loads(zipped, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(contents(), path, _use_new_zipfile_serialization=zipped)
    found = read_groups([path])[""]
    expected = torch.load(path, weights_only=True)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        value = expected[name].detach()
        value = value.float() if value.is_floating_point() else value
        np.testing.assert_array_equal(tensor.read(), value.numpy(), err_msg=name)
        assert tensor.read().shape == tensor.shape


def test_what_a_training_keeps_beside_its_weights_is_no_hindrance(tmp_path):
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "epoch": 3,
        "lossMIN": [np.float64(0.5), np.float32(1.0)],
        "teacher": linear.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, out=tmp_path, counts=collections.Counter("ab")),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "seen": collections.defaultdict(list),
        "history": np.ones(3),
    }
    torch.save(state, tmp_path / "x.pth.tar")
    found = read_groups([tmp_path / "x.pth.tar"])
    assert list(found["teacher"]) == ["weight", "bias"]
    np.testing.assert_array_equal(found["teacher"]["bias"].read(), linear.bias.detach().numpy())
    assert any(group.startswith("optimizer/") for group in found)


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


ATTACKS = {
    "a command": (True, os.system, "touch HERE"),
    "an import": (True, __import__, "antigravity"),
    "an evaluation": (True, eval, "open('HERE', 'w')"),
    "a way out by dots": (True, getattr, "HERE"),
    "code of torch": (True, torch.load, "HERE"),
    "a command, before 1.6": (False, os.system, "touch HERE"),
}


@pytest.mark.parametrize("zipped, function, argument", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(zipped, function, argument, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "x.pth"
    attack = {"w": torch.ones(2), "x": Attack(function, (argument.replace("HERE", str(mark)),))}
    torch.save(attack, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"asks for .*{function.__name__}") as told:
        read_groups([path])
    assert str(told.value).startswith("x.pth: ") and not mark.exists()


def test_a_whole_model_is_refused_by_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(UserError, match="torch.nn.modules.linear.Linear"):
        read_groups([tmp_path / "x.pt"])


def test_places_outside_of_the_storage_are_refused(tmp_path):
    storage = torch.ones(4).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    for first, shape, stride in (
        (2, (4,), (1,)),
        (0, (4,), (2,)),
        (0, (2, 4), (1, 1)),
        (9, (), ()),
    ):
        outside = Attack(
            torch._utils._rebuild_tensor_v2, (storage, first, shape, stride, False, {})
        )
        torch.save({"w": outside}, tmp_path / "x.pt")
        with pytest.raises(UserError, match="damaged"):
            read_groups([tmp_path / "x.pt"])


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _no_pickle(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")


def _garbage(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00(")


def _text(path):
    path.write_text("a page that says: log in first")


@pytest.mark.parametrize("spoil", [_cut, _no_pickle, _garbage, _text])
def test_a_damaged_file_is_one_clear_error(spoil, tmp_path):
    torch.save(contents(), tmp_path / "x.pt")
    spoil(tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt (is damaged|is no checkpoint)"):
        read_groups([tmp_path / "x.pt"])


def test_the_old_format_is_refused_when_it_is_cut(tmp_path):
    torch.save(contents(), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    _cut(tmp_path / "x.pt")
    with pytest.raises(UserError, match="damaged"):
        read_groups([tmp_path / "x.pt"])


@pytest.mark.parametrize(
    "deed",
    [
        "open('/dev/null')",
        "socket.socket()",
        "os.fork()",
        "os.system('true')",
        "__import__('antigravity')",
        "bytearray(8 << 30)",
    ],
)
def test_the_process_can_do_nothing_else_once_it_is_locked(deed):
    program = (
        "import os, runpy, socket, sys\n"
        f"lock = runpy.run_path({pickled.__file__!r})['lock']\n"
        f"lock()\ntry:\n    {deed}\nexcept BaseException:\n    sys.stdout.write('refused')\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stdout == "refused", out.stderr


def test_no_socket_can_be_opened_even_without_the_hook():
    program = (
        "import socket, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "try:\n    socket.socket()\nexcept OSError:\n    print('refused')\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stdout == "refused\n", out.stderr


def test_every_allowed_name_only_keeps_its_arguments():
    for entry in pickled.ALLOWED.values():
        assert isinstance(entry, str) or entry in (
            pickled.OrderedNames,
            pickled.Inert,
            pickled.rebuild,
            pickled.same,
            tuple,
        )
    assert pickle.Unpickler in pickled.Reader.__mro__
