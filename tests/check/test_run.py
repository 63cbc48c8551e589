"""Running a build, in separate processes, whatever it does to them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kernels_core.check import Report, check
from kernels_core.check.run import observe

pytest.importorskip("torch")

MakeBuild = Callable[..., Path]
RunBuild = Callable[..., Report]

ID = "_relu_605f22e"
ABOUT = {"name": "activation", "id": ID}

INIT = "from . import layers\n\n__all__ = ['layers']\n"

OPERATOR = f"""
import torch

NAMESPACE = "{ID}"

@torch.library.custom_op(f"{{NAMESPACE}}::relu", mutates_args=())
def relu(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=0)

@relu.register_fake
def _(x):
    return torch.empty_like(x)

def _setup(ctx, inputs, output):
    ctx.save_for_backward(output)

def _backward(ctx, grad):
    (output,) = ctx.saved_tensors
    return grad * (output > 0)

relu.register_autograd(_backward, setup_context=_setup)
"""

LAYERS = """
import torch
from torch import nn
from .operator import relu

class ReLU(nn.Module):
    has_backward = True
    can_torch_compile = True

    scale: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(x) * self.scale
"""

TEST = """
import activation
import torch
from activation import layers
from activation.layers import ReLU

def test_relu():
    assert layers is activation.layers
    layer = ReLU()
    layer.scale = 2.0
    torch.manual_seed(0)
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer(x), 2 * torch.relu(x))
"""

FILES = {"__init__.py": INIT, "layers.py": LAYERS, "operator.py": OPERATOR}


@pytest.fixture
def run(make_build: MakeBuild) -> RunBuild:
    """Run a build of a good kernel, with some files replaced; `beside` another build, too."""

    def report(
        files: Mapping[str, str] = {},
        *,
        metadata: Mapping[str, Any] | None = ABOUT,
        tests: str | None = None,
        variant: str = "torch-cpu",
        whole: bool = True,
        beside: bool = False,
    ) -> Report:
        repository = make_build(variant, {**(FILES if whole else {}), **files}, metadata)
        if tests is not None:
            (repository / "tests").mkdir()
            (repository / "tests" / "test_it.py").write_text(textwrap.dedent(tests))
        ignore = [] if beside else ["run-beside"]
        return check(repository, run=True, select=["run"], ignore=ignore)

    return report


def rules(report: Report) -> list[str]:
    return [each.rule.id for each in report.findings]


def only(report: Report) -> tuple[str, str]:
    """The rule and the message of the only finding."""
    (finding,) = report.findings
    assert finding.variant == "torch-cpu"
    return finding.rule.id, finding.problem.message


def test_a_good_kernel_proves_all_that_it_claims(run: RunBuild) -> None:
    report = run(tests=TEST, beside=True)
    assert not report.findings
    assert not report.not_judged


def test_without_tests_what_they_would_show_is_not_judged(run: RunBuild) -> None:
    report = run()
    assert not report.findings
    (reason,) = report.not_judged
    assert "the repository has no tests" in reason


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no such device')", "RuntimeError: no such device"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import os; os._exit(0)", "exit code 0"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.abort()", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_an_import_that_fails_is_a_finding(run: RunBuild, code: str, said: str) -> None:
    report = run({"__init__.py": f"print('{{')\n{code}\n"})
    rule, message = only(report)
    assert rule == "run-import"
    assert said in message
    assert report.not_judged == ("run: everything after the import: it failed",)


def test_a_torch_without_triton_is_no_fault_of_the_kernel(run: RunBuild) -> None:
    # As Python says it; where the tests run, Triton may be installed.
    report = run({"__init__.py": "raise ModuleNotFoundError(\"No module named 'triton'\")\n"})
    assert not report.findings
    assert report.not_judged[0] == ("run: the import: it needs Triton, which is not installed")


def test_the_line_of_the_kernel_that_raised_is_named(run: RunBuild) -> None:
    (finding,) = run({"operator.py": "import torch\n\ntorch.no_such_name\n"}).findings
    assert finding.problem.path == "build/torch-cpu/operator.py"
    assert finding.problem.line == 3


def test_a_kernel_that_hangs_is_ended(run: RunBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_LOADING_LIMIT", 4)
    code = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', "
    code += "'import time; time.sleep(60)'])\ntime.sleep(60)\n"
    rule, message = only(run({"__init__.py": code}))
    assert rule == "run-import"
    assert "timed out after 4 seconds" in message


def test_what_a_kernel_prints_disturbs_nothing(run: RunBuild) -> None:
    noise = (
        "import os, sys\nprint('{\"event\": \"done\"}' * 10000)\nos.write(2, b'\\xff\\0' * 9999)\n"
    )
    noise += "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    assert not run({"__init__.py": noise + INIT}, tests=TEST).findings


def test_operators_in_another_namespace_are_found(run: RunBuild) -> None:
    rule, message = only(run(metadata={"name": "activation", "id": "_relu_0000000"}))
    assert rule == "run-namespace"
    assert ID in message
    assert "_relu_0000000" in message


def test_operators_in_a_namespace_of_torch_are_found(run: RunBuild) -> None:
    code = "import torch\nlibrary = torch.library.Library('aten', 'FRAGMENT')\n"
    code += "library.define('mine(Tensor x) -> Tensor')\nimport torch.ao.quantization\n"
    rule, message = only(run({"__init__.py": code}))
    assert rule == "run-namespace"
    assert "torch.ops.aten" in message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent))\n"
            "import shared_helper\n",
            "shared_helper.py",
        ),
        (
            "import sys, types\nif 'activation_state' in sys.modules: raise ImportError('twice')\n"
            "sys.modules['activation_state'] = types.ModuleType('activation_state')\n",
            "ImportError: twice",
        ),
    ],
)
def test_two_versions_that_get_in_each_others_way_are_found(
    run: RunBuild, code: str, said: str
) -> None:
    rule, message = only(run({"__init__.py": code, "shared_helper.py": "x = 1"}, beside=True))
    assert rule == "run-beside"
    assert said in message


def test_a_namespace_that_no_version_changes_is_left_to_its_own_rule(run: RunBuild) -> None:
    report = run({"operator.py": OPERATOR.replace(ID, "relu")}, metadata=None, beside=True)
    assert not report.findings
    assert "namespace-unique" in report.not_judged[0]


def test_layers_that_loading_refuses_are_found(run: RunBuild) -> None:
    impure = LAYERS + "\nsetattr(ReLU, 'helper', lambda self: 1)\n"
    report = run({"layers.py": impure}, tests=TEST)
    rule, message = only(report)
    assert rule == "run-layers"
    assert "'helper'" in message
    assert not report.not_judged


def test_tests_may_be_a_package_with_settings_of_its_own(make_build: MakeBuild) -> None:
    repository = make_build("torch-cpu", FILES, ABOUT)
    files = {
        "pytest.ini": "[pytest]\nmarkers = kernels_ci: runs there\naddopts = --strict-markers\n",
        "tests/__init__.py": "",
        "tests/conftest.py": "import pytest\n@pytest.fixture\ndef scale(): return 2.0\n",
        "tests/utils.py": TEST.partition("def test")[0],
        "tests/test_it.py": "import pytest\nfrom .utils import ReLU, torch\n"
        "@pytest.mark.kernels_ci\ndef test_relu(scale):\n    layer = ReLU()\n"
        "    layer.scale = scale\n    layer(torch.ones(2))\n",
    }
    for name, content in files.items():
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(content)
    before = sorted(repository.rglob("*"))
    report = check(repository, run=True, select=["run"])
    assert not report.findings
    assert not report.not_judged
    assert sorted(repository.rglob("*")) == before


def test_tests_that_pytest_cannot_start_are_not_judged(make_build: MakeBuild) -> None:
    repository = make_build("torch-cpu", FILES, ABOUT)
    (repository / "tests").mkdir()
    (repository / "tests" / "conftest.py").write_text("import no_such_module")
    report = check(repository, run=True, select=["run"])
    assert not report.findings
    assert "no test ran" in report.not_judged[0]


def test_tests_that_fail_are_found(run: RunBuild) -> None:
    failing = TEST + "\ndef test_wrong():\n    assert ReLU is None, 'why not'\n"
    report = run(tests=failing)
    rule, message = only(report)
    assert rule == "run-tests"
    assert "test_wrong" in message
    assert "why not" in message
    assert report.findings[0].problem.path == "tests/test_it.py"


def test_a_test_that_ends_the_process_is_named(run: RunBuild) -> None:
    crashing = TEST + "\ndef test_crash():\n    import os\n    os.abort()\n"
    report = run(tests=crashing)
    rule, message = only(report)
    assert rule == "run-tests"
    assert "test_crash" in message
    assert "SIGABRT" in message
    (reason,) = report.not_judged
    assert "test_crash: the process ended" in reason


def test_tests_that_cannot_be_collected_are_found(run: RunBuild) -> None:
    assert only(run(tests="import activation.missing"))[0] == "run-tests"


def test_tests_that_need_what_is_not_installed_are_not_judged(run: RunBuild) -> None:
    report = run(tests="import no_such_module")
    assert not report.findings
    assert any("no_such_module" in reason for reason in report.not_judged)


def test_calls_that_must_be_refused_are_no_samples(run: RunBuild) -> None:
    test = """
import activation, pytest, torch
def test_refused():
    with pytest.raises(RuntimeError):
        torch.ops.%s.relu(torch.ones(2), 1)
    with pytest.raises(AttributeError):
        activation.layers.ReLU()(torch.ones(2))
"""
    report = run(tests=test % ID)
    assert not report.findings
    assert report.not_judged == ("run: layer ReLU: no test calls it",)


def test_what_no_test_calls_is_not_judged(run: RunBuild) -> None:
    report = run(tests="import activation\n\ndef test_nothing(): ...\n")
    assert not report.findings
    assert [reason.partition(":")[2].strip() for reason in report.not_judged] == [
        "layer ReLU: no test calls it",
        f"opcheck of {ID}::relu: no test calls it",
    ]


def test_an_operator_whose_fake_is_wrong_fails_opcheck(run: RunBuild) -> None:
    wrong = OPERATOR.replace("torch.empty_like(x)", "x.new_empty(7)")
    layers = LAYERS.replace("can_torch_compile = True", "can_torch_compile = False")
    rule, message = only(run({"operator.py": wrong, "layers.py": layers}, tests=TEST))
    assert rule == "run-opcheck"
    assert f"{ID}::relu" in message


def test_an_operator_that_changes_its_argument_fails_opcheck(run: RunBuild) -> None:
    wrong = OPERATOR.replace("x.clamp(min=0)", "x.clamp_(min=0).clone()")
    layers = LAYERS.replace("= True", "= False")
    test = TEST.replace("layer(x), 2 * torch.relu(x)", "layer(x.clone()), 2 * torch.relu(x)")
    rule, _ = only(run({"operator.py": wrong, "layers.py": layers}, tests=test))
    assert rule == "run-opcheck"


def test_a_layer_that_breaks_the_graph_is_found(run: RunBuild) -> None:
    breaking = LAYERS.replace("return", "print(x.sum().item())\n        return")
    rule, message = only(run({"layers.py": breaking}, tests=TEST))
    assert rule == "run-compile"
    assert "ReLU" in message


def test_a_layer_that_claims_no_compiling_is_not_compiled(run: RunBuild) -> None:
    breaking = LAYERS.replace("return", "print(x.sum().item())\n        return")
    breaking = breaking.replace("can_torch_compile = True", "")
    assert not run({"layers.py": breaking}, tests=TEST).findings


NO_GRADIENT = OPERATOR.replace("relu.register_autograd", "str")
WRONG_GRADIENT = OPERATOR.replace("grad * (output > 0)", "3 * grad * (output > 0)")
DETACHED = LAYERS.replace("relu(x)", "relu(x.detach())")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {
                "operator.py": NO_GRADIENT.replace("str(", "print(").replace(
                    "setup_context=_setup", "end=''"
                )
            },
            "ReLU",
        ),
        ({"layers.py": DETACHED}, "no gradient"),
        ({"operator.py": WRONG_GRADIENT}, "the gradient in a direction is"),
    ],
)
def test_gradients_that_are_claimed_and_not_there_or_wrong_are_found(
    run: RunBuild, files: dict[str, str], said: str
) -> None:
    report = run(files, tests=TEST)
    gradients = [each for each in report.findings if each.rule.id == "run-gradient"]
    assert said in gradients[0].problem.message
    assert set(rules(report)) <= {"run-gradient", "run-opcheck"}


TURNING = """
import torch
from torch import nn

class Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)

    @staticmethod
    def backward(ctx, grad):
        return {sign} * Turn.apply(grad)

class ReLU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Turn.apply(x)
"""


@pytest.mark.parametrize(("sign", "found"), [(-1, []), (1, ["run-gradient"])])
def test_a_gradient_that_turns_the_wrong_way_is_found(
    run: RunBuild, sign: int, found: list[str]
) -> None:
    tests = """
        import torch
        from activation.layers import ReLU

        def test_turn():
            assert ReLU()(torch.randn(3, 4)).shape == (3, 4)
    """
    assert rules(run({"layers.py": TURNING.format(sign=sign)}, tests=tests)) == found


def test_a_layer_that_claims_no_gradient_needs_none(run: RunBuild) -> None:
    layers = DETACHED.replace("has_backward = True", "has_backward = False")
    assert not run({"layers.py": layers}, tests=TEST).findings


def test_a_build_for_another_machine_is_not_judged(run: RunBuild) -> None:
    report = run(variant="torch13-cxx98-cpu-s390x-linux")
    assert not report.findings
    assert "torch13-cxx98-cpu-s390x-linux" in report.not_judged[0]


def test_a_build_whose_dependencies_are_missing_is_not_judged(run: RunBuild) -> None:
    report = run(metadata={**ABOUT, "python-depends": ["no-such-distribution"]})
    assert not report.findings
    assert "no-such-distribution" in report.not_judged[0]


def test_only_the_builds_that_are_asked_for_are_run(make_build: MakeBuild, run: RunBuild) -> None:
    run({"__init__.py": "raise RuntimeError"})
    repository = make_build("torch-universal", FILES, ABOUT)
    report = check(repository, run=True, select=["run"], variants=["torch-universal"])
    assert not report.findings


def test_builds_of_the_older_layout_are_run(run: RunBuild) -> None:
    older = {f"activation/{name}": content for name, content in FILES.items()}
    assert not run(older, whole=False, metadata=None, tests=TEST).findings


def test_what_no_chosen_rule_is_about_is_not_tried(make_build: MakeBuild, run: RunBuild) -> None:
    assert rules(run(tests="raise RuntimeError")) == ["run-tests"]
    repository = make_build("torch-universal", {})
    report = check(repository, variants=["torch-cpu"], run=True, select=["run-import"])
    assert not report.findings
    assert not report.not_judged


def test_nothing_is_run_without_being_asked_for(make_build: MakeBuild, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    repository = make_build("torch-cpu", {"__init__.py": code})
    check(repository)
    assert not (tmp_path / "ran").exists()
