"""Classes of a script or notebook are sent by value, with all that hangs on them.

They must arrive where neither the kernel nor kernels-core is installed.
"""

import subprocess
import sys

import pytest

for package in ("cloudpickle", "dill", "joblib"):
    pytest.importorskip(package)

SENDER = """
import sys
import cloudpickle, dill, joblib, torch
from torch import nn
from kernels_core import *

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x):
        return self.weight * x

replace_kernel_forward_from_hub(Scale, "Scale")

class Derived(Scale):
    __slots__ = ()
    def __init__(self, size=3):
        super().__init__()
        self.size = size

    def __reduce__(self):
        return self.__class__, (self.size,), self.__dict__

kernel, folder = sys.argv[1:]
mapping = {"Scale": {"cpu": LocalLayerRepository(kernel, layer_name="Times10")}}
never = Derived()
model = kernelize(nn.Sequential(Scale(), Derived()), mode=Mode.INFERENCE, mapping=mapping)
assert model(torch.ones(3)).tolist() == [400, 400, 400]
undone = unkernelize(kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE, mapping=mapping))
ways = {
    "cloudpickle": cloudpickle.dumps,
    "dill": dill.dumps,
    "dill-byref": lambda model: dill.dumps(model, byref=False, recurse=True),
    "joblib": joblib.externals.loky.cloudpickle_wrapper.CloudpickledObjectWrapper,
}
del ways["joblib"]
for name, dumps in ways.items():
    for what, one in {"model": model, "undone": undone, "never": never}.items():
        with open(f"{folder}/{what}.{name}", "wb") as file:
            file.write(dumps(one))
"""
