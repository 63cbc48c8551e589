"""Classes and functions of a script are sent by value, with all that hangs on them.

They must arrive where neither the kernel nor kernels-core is installed.
"""

import json
import subprocess
import sys

import pytest

for package in ("cloudpickle", "dill"):
    pytest.importorskip(package, reason=f"needs {package}: pip install {package}")

SENDER = """
import copyreg, io, sys
import cloudpickle, dill, torch
from torch import nn
from kernels_core import *


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x):
        return self.weight * x


replace_kernel_forward_from_hub(Scale, "Scale", condition=lambda module: True)


class Reducing(Scale):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def __reduce__(self):
        return self.__class__, (self.size,), self.__dict__


class WithArguments(Scale):
    def __new__(cls, size, *, name):
        made = super().__new__(cls)
        made.__dict__["made"] = size, name
        return made

    def __init__(self, size, *, name):
        super().__init__()

    def __getnewargs_ex__(self):
        return self.made[:1], {"name": self.made[1]}


class Recording(type):
    known = {}

    def __init__(cls, name, bases, namespace):
        super().__init__(name, bases, namespace)
        Recording.known[name] = cls


class Recorded(Scale, metaclass=Recording):
    pass


class Registered(Scale):
    pass


copyreg.pickle(Registered, lambda module: (Registered, ()))


@use_kernel_forward_from_hub("double")
def double(x, depth=0):
    return x + x if depth == 1 else double(x, depth + 1)


@use_kernelized_func(double)
class Doubling(Scale):
    def forward(self, x):
        return double(x)


kernel, sent = sys.argv[1:]
mapping = {
    "Scale": {"cpu": LocalLayerRepository(kernel, layer_name="Times10")},
    "double": {"cpu": LocalLayerRepository(kernel, layer_name="Tenfold")},
}


def ready(module, state):
    if state != "never kernelized":
        kernelize(module, mode=Mode.INFERENCE, mapping=mapping, use_fallback=False)
        assert module(torch.ones(3))[0] >= 10
    return unkernelize(module) if state == "undone" else module


def saved(module):
    file = io.BytesIO()
    torch.save(module, file, pickle_module=cloudpickle, pickle_protocol=5)
    return file.getvalue()


dumps = {
    "cloudpickle": cloudpickle.dumps,
    "dill": dill.dumps,
    "dill, recurse": lambda module: dill.dumps(module, recurse=True),
    "torch.save": saved,
}
makes = [
    Scale, lambda: Reducing(3), lambda: WithArguments(3, name="a"), Registered, Doubling, Recorded
]
dill.dump({
    f"{number} {state}, {name}": dump(ready(make(), state))
    for number, make in enumerate(makes)
    for state in ("kernelized", "undone", "never kernelized")
    for name, dump in dumps.items()
    # by default, dill sends no globals of a script that is run with -c, and these need some
    if not (name == "dill" and number in (1, 3, 4))
    # nor classes that hold themselves
    if not (name.startswith("dill") and number == 5)
}, open(sent, "wb"))
"""

RECEIVER = """
import io, json, sys

sys.modules["kernels_core"] = None  # as if it were not installed
import dill, torch

outputs = {}
for name, data in dill.load(open(sys.argv[1], "rb")).items():
    try:
        if name.endswith("torch.save"):
            module = torch.load(io.BytesIO(data), weights_only=False)
        else:
            module = dill.loads(data)
        outputs[name] = module(torch.ones(3)).tolist()
    except Exception as error:
        outputs[name] = repr(error)
print(json.dumps(outputs))
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_arrive_as_the_original(make_kernel, tmp_path):
    make_kernel(
        """
        class Times10(nn.Module):
            def forward(self, x): return 10 * self.weight * x

        class Tenfold(nn.Module):
            def forward(self, x, depth=0): return 10 * x
        """
    )
    run(SENDER, tmp_path / "kernel", tmp_path / "sent")
    outputs = json.loads(run(RECEIVER, tmp_path / "sent"))
    assert len(outputs) == 57
    assert {name: out for name, out in outputs.items() if out != [2, 2, 2]} == {}
