"""The kit on the real plugins, and on copies of them with one edit each: it finds exactly that."""

from __future__ import annotations

import attrs
import pytest

from kernels_core.testing import BackendConformance

PLUGINS = ("acme", "cpu", "cuda", "mps", "rocm", "xpu")


@attrs.frozen
class Breaker:
    """One edit of a plugin, and what the kit finds.

    Attributes:
        rule: the one rule that it breaks.
        plugin: the plugin.
        file: name of the file.
        old: a text that it has once; "" removes the file.
        new: its replacement.
        found: a part of what the failure says was found.
        variant: tells breakers of one rule apart.
        stated: the entry point in the conformance test, if the edit renames it.
    """

    rule: str
    plugin: str
    file: str
    old: str
    new: str
    found: str
    variant: str = ""
    stated: str = ""

    @property
    def edits(self) -> list[tuple[str, str, str]]:
        """The edit, and that of the conformance test."""
        edits = [(self.file, self.old, self.new)]
        if self.stated:
            old, new = f'plugin = "{self.plugin}"', f'plugin = "{self.stated}"'
            edits.append(("test_conformance.py", old, new))
        return edits

    @property
    def copy(self) -> str:
        """A name for the broken copy of the plugin."""
        return f"{self.rule}{self.variant}"


BREAKERS = [
    # What a plugin is.
    Breaker(
        "entry-point",
        "rocm",
        "entry_points.txt",
        "rocm = kernels_backend_rocm.plugin",
        "rocm = kernels_backend_rocm.plugin\nrocm = kernels_backend_rocm.facts",
        "2 entry points have this name: kernels_backend_rocm.facts of kernels-backend-rocm",
    ),
    Breaker(
        "import",
        "xpu",
        "plugin.py",
        "import re\n",
        "import re\nimport pyzes_of_a_machine_with_the_driver\n",
        "No module named 'pyzes_of_a_machine_with_the_driver'",
    ),
    Breaker(
        "hooks",
        "cuda",
        "plugin.py",
        "def kernels_match_archs(",
        "def kernels_match_arch(",
        "did you mean kernels_match_archs?",
    ),
    Breaker(
        "declaration",
        "mps",
        "plugin.py",
        'noarch_name="metal"',
        'noarch_name="Metal"',
        "must declare a lower-case identifier as noarch_name",
    ),
    Breaker(
        "declaration-pure",
        "xpu",
        "plugin.py",
        "priority=100",
        'priority=__import__("os").getpid()',
        "later",
    ),
    Breaker(
        "api-version",
        "rocm",
        "plugin.py",
        "api_version=1",
        'api_version=__import__("kernels_core").hookspecs.API_VERSION',
        "with a core of another API version, it no longer declares 1",
    ),
    Breaker(
        "name",
        "mps",
        "entry_points.txt",
        "mps = kernels_backend_mps.plugin",
        "metal = kernels_backend_mps.plugin",
        "the entry point is 'metal', the backend 'mps'",
        stated="metal",
    ),
    Breaker(
        "torch-lazy",
        "cpu",
        "plugin.py",
        "from kernels_backend_cpu import _probe\n",
        "import torch\nfrom kernels_backend_cpu import _probe\n",
        "torch was imported by importing kernels_backend_cpu.plugin",
    ),
    Breaker("typed", "xpu", "py.typed", "", "", "package 'kernels_backend_xpu' has no py.typed"),
    Breaker(
        "properties-own",
        "cuda",
        "plugin.py",
        "properties=(CUDAProperties,)",
        'properties=(CUDAProperties, __import__("kernels_core").ROCMProperties)',
        "ROCMProperties belongs to device type 'rocm'",
    ),
    Breaker(
        "properties-values",
        "acme",
        "plugin.py",
        "@attrs.frozen\nclass Lanes",
        "@attrs.frozen(eq=False)\nclass Lanes",
        "Lanes(at_least=32) equals Lanes(at_least=64)",
    ),
    # Tags.
    Breaker(
        "tags-valid",
        "mps",
        "plugin.py",
        'if text == "metal"',
        'if text == "metal4"',
        "the recorded tag 'metal' is not parsed",
    ),
    Breaker(
        "tags-hostile",
        "mps",
        "plugin.py",
        'if text == "metal"',
        'if text.strip() == "metal"',
        "parse_tag(' metal')",
    ),
    Breaker(
        "tags-unclaimed",
        "cpu",
        "plugin.py",
        'return BackendTag("cpu", "cpu") if text == "cpu"',
        'return BackendTag("cpu", text) if text in ("cpu", "metal")',
        "'metal' is claimed by kernels-backend-mps",
    ),
    # Detection and facts.
    Breaker(
        "recorded-machines",
        "cuda",
        "hosts.json",
        '"assumed": "nothing"',
        '"assumed": ""',
        "machine 'one NVIDIA H200': 'assumed' is empty",
    ),
    Breaker(
        "detection-recorded",
        "rocm",
        "plugin.py",
        "_major_minor(runtime.rocm or runtime.hip)",
        "_major_minor(runtime.hip)",
        "runtime_version='7.16', reason='') where",
    ),
    Breaker(
        "detection-answers",
        "xpu",
        "plugin.py",
        'return Detection(0, reason=f"torch {host.torch.version} was built without XPU support")',
        "return None",
        "kernels_detect must return a Detection, got NoneType: None",
    ),
    Breaker(
        "detection-truthful",
        "mps",
        "plugin.py",
        'return Detection(0, reason=f"MPS needs macOS on Apple silicon, and {found}")',
        "return Detection(1)",
        "and torch can use 0 'mps' devices",
    ),
    Breaker(
        "detection-leaves-devices",
        "acme",
        "plugin.py",
        "    count = extension.device_count()\n",
        '    torch.ones(1, device="acme")\n    count = extension.device_count()\n',
        "torch has initialised 'acme' devices",
    ),
    Breaker(
        "detection-leaves-fork",
        "cpu",
        "plugin.py",
        "    return Detection(1)",
        "    import os\n\n"
        "    os.register_at_fork(after_in_child=lambda: os._exit(7))  # as some drivers do\n"
        "    return Detection(1)",
        "a forked child failed: its process ended with exit status 7",
    ),
    Breaker(
        "detection-without-torch",
        "rocm",
        "plugin.py",
        "if host.torch is None:",
        "if False:",
        "kernels_detect raised ModuleNotFoundError: import of torch halted",
    ),
    Breaker(
        "detection-failing",
        "cuda",
        "plugin.py",
        "    runtime = _probe.runtime()\n",
        "    try:\n        runtime = _probe.runtime()\n"
        '    except Exception:\n        runtime = _probe.Runtime("13.0", (13, 0), 1)\n',
        "runtime() raised RuntimeError('the driver does not answer')",
    ),
    Breaker(
        "facts-recorded",
        "cuda",
        "plugin.py",
        "_probe.gpu(index)",
        "_probe.gpu(0)",
        "device 2: name is 'NVIDIA GeForce RTX 4090' where 'NVIDIA GeForce RTX 5090' is expected",
    ),
    Breaker(
        "facts-values",
        "rocm",
        "plugin.py",
        "capability=(gpu.major, gpu.minor)",
        "capability=[gpu.major, gpu.minor]",
        "cannot be copied and compared: TypeError: unhashable type: 'list'",
    ),
    Breaker(
        "facts-answer",
        "cpu",
        "plugin.py",
        "features=known_features(processor.flags, processor.torch)",
        "features=known_features(processor.flags, processor.torch)"
        ' | {str(__import__("time").time_ns())}',
        "later",
    ),
    # Matching.
    Breaker(
        "match-tag-recorded",
        "cuda",
        "plugin.py",
        "tag.version[1] <= minor",
        "tag.version[1] < minor",
        "'cu128' does not fit: built for CUDA 12.8, and the runtime is 12.8",
    ),
    Breaker(
        "match-tag-order",
        "cuda",
        "plugin.py",
        "Match.yes(tag.version[1])",
        "Match.yes()",
        "'cu128' has rank (), and 'cu126' has rank ()",
    ),
    Breaker(
        "match-tag-total",
        "mps",
        "plugin.py",
        "if macos is None:",
        "if False:",
        "kernels_match_tag raised packaging.version.InvalidVersion",
    ),
    Breaker(
        "match-device-recorded",
        "xpu",
        "plugin.py",
        "match_architectures(required, facts.architectures)",
        "match_architectures(required, facts.architectures[:-1])",
        "{'Architectures': ['bmg']} does not fit",
    ),
    Breaker(
        "match-device-order",
        "rocm",
        "plugin.py",
        "return match_capability(required, facts.capability)",
        "match = match_capability(required, facts.capability)\n"
        "    return Match.yes(100, *match.rank) if match.fits else match",
        "has rank (1, -8), and ROCMProperties(min_capability=90, max_capability=90) has rank (100",
    ),
    Breaker(
        "match-device-total",
        "cuda",
        "plugin.py",
        "    return match_capability(required, facts.capability)",
        "    assert required.max_capability < 1000\n"
        "    return match_capability(required, facts.capability)",
        "kernels_match_device raised AssertionError",
    ),
    Breaker(
        "match-device-foreign",
        "rocm",
        "plugin.py",
        "properties=(Architectures, ROCMProperties)",
        "properties=(Architectures, ROCMProperties, Architectures.__base__)",
        "kernels_match_device raised AttributeError: 'Foreign' object",
    ),
    Breaker(
        "match-archs-recorded",
        "rocm",
        "plugin.py",
        "intersection(facts.architectures)",
        "intersection([facts.architecture])",
        "'gfx10-3-generic' does not fit: built for gfx10-3-generic, and the device is gfx1030",
    ),
    Breaker(
        "match-archs-total",
        "cuda",
        "_archs.py",
        "        return None\n",
        '        raise ValueError(f"{arch!r} is no architecture")\n',
        "is no architecture",
    ),
    Breaker(
        "answers-repeatable",
        "cpu",
        "plugin.py",
        "    return match_features(required, facts.features)",
        "    match = match_features(required, facts.features)\n"
        "    return Match(match.fits, (*match.rank, hash('tie')), match.reason)",
        "kernels_match_device",
    ),
    # What it provides.
    Breaker(
        "select-permutes",
        "xpu",
        "plugin.py",
        "@hookimpl\ndef kernels_match_device(",
        "@hookimpl\n"
        "def kernels_select(candidates):\n"
        "    return [candidate for candidate in candidates if candidate.properties]\n\n\n"
        "@hookimpl\ndef kernels_match_device(",
        "kernels_select must return the given candidates in some order, or None",
    ),
    Breaker(
        "bundled",
        "cpu",
        "bundled.py",
        "LocalLayerRepository(_REPOSITORY, layer_name=name)",
        'f"{_REPOSITORY}:{name}"',
        "is not a kernel repository",
    ),
    Breaker(
        "bundled",
        "cpu",
        "bundled.py",
        'name: {"cpu": Local',
        'name: {"cuda": Local',
        "must provide kernels for its own device type 'cpu' only",
        variant="-own",
    ),
]


@pytest.fixture(scope="session")
def judged(kit):
    """The kit at work on all copies at once."""
    unbroken = {plugin: (plugin, []) for plugin in PLUGINS}
    kit.start(unbroken | {breaker.copy: (breaker.plugin, breaker.edits) for breaker in BREAKERS})
    return kit


def test_every_rule_has_a_breaker() -> None:
    rules = [name for name in dir(BackendConformance) if name.startswith("test_")]
    ids = {name.removeprefix("test_").replace("_", "-") for name in rules}
    assert {breaker.rule for breaker in BREAKERS} == ids


def test_every_plugin_is_broken() -> None:
    assert {breaker.plugin for breaker in BREAKERS} == set(PLUGINS)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_real_plugin_breaks_no_rule(plugin: str, judged) -> None:
    assert judged.broken_rules(plugin) == {}


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda breaker: breaker.copy)
def test_the_edit_breaks_the_rule_and_no_other(breaker: Breaker, judged) -> None:
    broken = judged.broken_rules(breaker.copy)
    assert set(broken) == {breaker.rule}, "\n".join(broken.values())
    contract, _, rest = broken[breaker.rule].partition("found: ")
    found, _, fix = rest.partition("fix: ")
    assert f"breaks the rule {breaker.rule}." in contract
    assert breaker.found in found
    assert fix.strip()
