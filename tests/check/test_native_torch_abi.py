"""What native code uses of torch, and the architectures that it has code for."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kernels_core.check import check

Link = Callable[..., Path]
MakeBuild = Callable[..., Path]

ROOT = Path(__file__).parents[2]
STABLE = "torch-stable-abi210-cpu-x86_64-linux"


def using(*symbols: str) -> str:
    """C that uses symbols, which may be those of C++."""
    declared = "".join(
        f'extern void f{number}(void) __asm__("{symbol}");' for number, symbol in enumerate(symbols)
    )
    used = "".join(f"f{number}();" for number in range(len(symbols)))
    return f"{declared} void use(void) {{ {used} }}"


SHIMS = ("aoti_torch_get_data_ptr", "torch_call_dispatcher", "torch_library_impl")
CHECK = "_ZN3c106detail14torchCheckFailEPKcS2_j"
NEW_STRING = f"{CHECK}RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
OLD_STRING = f"{CHECK}RKSs"


# The stable ABI.


def test_the_stable_abi_passes(
    link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    # Names that begin like torch's namespaces, and std of the C++ library.
    others = ("_ZN7torchly3runEv", "_ZN8my_torch3runEv", "_ZN3att3runEv", "_ZSt9terminatev")
    assert rules(form(link(using(*SHIMS, *others))), STABLE) == []


@pytest.mark.parametrize(
    "symbol",
    [
        NEW_STRING,
        "_ZN2at4_ops5empty4callEv",
        "_ZNK3c1010TensorImpl15incref_pyobjectEv",
        "_ZTVN5torch8autograd4NodeE",
        "_ZN6caffe28TypeMeta26error_unsupported_typemetaES0_",
        "_ZNR5torch7Library4_defEv",
        "_Z16THPVariable_WrapRKN2at10TensorBaseE",
        "THPVariableClass",
    ],
)
def test_torchs_cxx_interface_in_a_stable_variant(
    symbol: str, link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    assert rules(form(link(using(*SHIMS, symbol))), STABLE) == [("torch-stable-abi", symbol)]


def test_torchs_cxx_interface_in_a_variant_for_one_release(
    link: Link, rules: Callable[..., object]
) -> None:
    library = link(using(NEW_STRING, *SHIMS))
    assert rules(library.read_bytes()) == []


@pytest.mark.parametrize(
    ("variant", "found"),
    [("torch-stable-abi210", True), ("torch-stable-abi211", False), ("torch213-cxx11", False)],
)
def test_a_function_that_is_newer_than_the_named_release(
    variant: str,
    found: bool,
    link: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., object],
) -> None:
    content = form(link(using(*SHIMS, "torch_from_blob")))
    expected = [("torch-stable-release", "torch_from_blob")] if found else []
    assert rules(content, f"{variant}-cpu-x86_64-linux") == expected


# The ABI of std::string.


@pytest.mark.parametrize(
    ("tag", "symbol", "fine"),
    [
        ("cxx11", NEW_STRING, True),
        ("cxx11", OLD_STRING, False),
        ("cxx98", NEW_STRING, False),
        ("cxx98", OLD_STRING, True),
        # Ss in a name, after a repetition, and in no symbol of torch.
        ("cxx11", "_ZN3c107ClassSs3runEv", True),
        ("cxx11", "_ZN3c103runENS_1SES0_Ss", False),
        ("cxx11", "_ZN2my3runESs", True),
        ("cxx98", "_ZN2my3runENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE", True),
    ],
)
def test_the_abi_of_strings(
    tag: str,
    symbol: str,
    fine: bool,
    link: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., object],
) -> None:
    content = form(link(using(symbol)))
    expected = [] if fine else [("torch-cxx-abi", symbol)]
    assert rules(content, f"torch26-{tag}-cpu-x86_64-linux") == expected


# The kernel of this repository's own tests.


def test_the_native_test_kernel_passes(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the kernel is built for the torch that is installed")
    specification = importlib.util.spec_from_file_location(
        "build_native", ROOT / "tests" / "native" / "build.py"
    )
    assert specification
    assert specification.loader
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    for stable in (False, True):
        build.build(tmp_path / "kernel", stable=stable)
    report = check(tmp_path / "kernel")
    assert report.native_modules == 2
    assert [(each.rule.id, each.problem) for each in report.findings] == []


# Code for accelerators.


def fatbin(*codes: tuple[int, int, int]) -> bytes:
    """A container as nvcc writes it: kind (1 assembly, 2 machine code), architecture, flags."""
    parts = b"".join(
        struct.pack("<HHIQ12xI8xQ16x", kind, 0x101, 64, 16, arch, 0x11 | flags) + bytes(16)
        for kind, arch, flags in codes
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(parts)) + parts


def bundle(*ids: str) -> bytes:
    """A container as clang writes it for offloading."""
    entries = b"".join(struct.pack("<QQQ", 4096, 0, len(each)) + each.encode() for each in ids)
    return struct.pack("<24sQ", b"__CLANG_OFFLOAD_BUNDLE__", len(ids)) + entries


def with_section(name: str, content: bytes) -> str:
    values = ",".join(map(str, content))
    return (
        f'__asm__(".pushsection {name},\\"a\\"\\n .balign 4096\\n .byte {values}\\n'
        ' .popsection"); int answer(void) { return 42; }'
    )


ARCH_ONLY, FAMILY_ONLY = 1 << 20, 1 << 21
CODE = fatbin((2, 80, 0), (2, 90, ARCH_ONLY)) + fatbin(
    (2, 80, 0), (2, 100, FAMILY_ONLY), (1, 90, 0)
)


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [
        (["8.0", "9.0a", "10.0f", "9.0+PTX"], []),
        (["8.0", "8.6", "9.0", "10.0"], []),
        (["7.5", "8.0", "9.0a", "10.0f"], ["device-archs-missing"]),
        (["8.0", "10.0f"], ["device-archs-unclaimed"] * 2),
        (["8.0+PTX", "9.0a", "10.0f"], ["device-archs-missing"]),
        ([], []),
    ],
)
def test_the_architectures_that_the_metadata_claims(
    claimed: Sequence[str],
    expected: Sequence[str],
    link: Link,
    form: Callable[[Path], bytes],
    make_build: MakeBuild,
) -> None:
    content = form(link(with_section(".nv_fatbin", CODE)))
    files = {"__init__.py": "", "module.abi3.so": content}
    metadata = {"backend": {"type": "cuda", "archs": claimed}}
    repository = make_build("torch213-cxx11-cu130-x86_64-linux", files, metadata)
    found = check(repository, select=["device"]).findings
    assert sorted(each.rule.id for each in found) == sorted(expected)


def test_the_code_of_all_files_counts(link: Link, make_build: MakeBuild) -> None:
    files = {
        "one.abi3.so": link(with_section(".nv_fatbin", fatbin((2, 80, 0)))).read_bytes(),
        "two.abi3.so": link(with_section(".nv_fatbin", fatbin((2, 90, 0)))).read_bytes(),
        "none.abi3.so": link("int answer(void) { return 42; }").read_bytes(),
    }
    metadata = {"backend": {"type": "cuda", "archs": ["8.0", "9.0"]}}
    repository = make_build("torch213-cxx11-cu130-x86_64-linux", files, metadata)
    assert check(repository, select=["device"]).clean


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [
        (["gfx942", "gfx90a"], []),
        (["gfx942", "gfx90a", "gfx1100"], ["device-archs-missing"]),
        (["gfx942"], ["device-archs-unclaimed"]),
    ],
)
def test_the_architectures_in_bundles(
    claimed: Sequence[str],
    expected: Sequence[str],
    link: Link,
    form: Callable[[Path], bytes],
    make_build: MakeBuild,
) -> None:
    code = bundle(
        "host-x86_64-unknown-linux--",
        "hipv4-amdgcn-amd-amdhsa--gfx942",
        "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-",
    )
    files = {"module.abi3.so": form(link(with_section(".hip_fatbin", code)))}
    metadata = {"backend": {"type": "rocm", "archs": claimed}}
    repository = make_build("torch213-cxx11-rocm72-x86_64-linux", files, metadata)
    found = check(repository, select=["device"]).findings
    assert [each.rule.id for each in found] == expected


@pytest.mark.parametrize(
    ("section", "content"),
    [
        (".nv_fatbin", CODE[:-24]),
        (".nv_fatbin", struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 2**63)),
        (".nv_fatbin", struct.pack("<IHHQHHIQ", 0xBA55ED50, 1, 16, 64, 2, 1, 0, 0) + bytes(48)),
        (".hip_fatbin", b"CCOB" + bytes(60)),
        (".hip_fatbin", struct.pack("<24sQ", b"__CLANG_OFFLOAD_BUNDLE__", 2**63)),
    ],
)
def test_of_code_in_an_unknown_form_nothing_is_said(
    section: str, content: bytes, link: Link, make_build: MakeBuild
) -> None:
    files = {"module.abi3.so": link(with_section(section, content)).read_bytes()}
    metadata = {"backend": {"type": "any", "archs": ["7.5", "gfx942"]}}
    repository = make_build("torch213-cxx11-cu130-x86_64-linux", files, metadata)
    assert check(repository, select=["device", "native-readable"]).clean


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("compression", [[], ["-Xfatbin", "-compress-all"]])
def test_code_that_nvcc_compiled(
    compression: Sequence[str], form: Callable[[Path], bytes], tmp_path: Path, make_build: MakeBuild
) -> None:
    source, target = tmp_path / "code.cu", tmp_path / "module.so"
    source.write_text("__global__ void twice(float *x) { x[threadIdx.x] *= 2; }")
    wanted = ("compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_90,code=compute_90")
    targets = [f"-gencode=arch={each}" for each in wanted]
    command = ["nvcc", "-shared", "-Xcompiler=-fPIC", *compression, *targets, str(source)]
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nvcc cannot compile for these architectures: {done.stderr}")
    files = {"module.abi3.so": form(target)}
    for variant, archs, expected in (
        ("torch213-cxx11-cu130-x86_64-linux", ["8.0", "9.0a", "9.0+PTX"], []),
        ("torch212-cxx11-cu130-x86_64-linux", ["7.5", "9.0"], ["missing", "unclaimed"]),
    ):
        repository = make_build(variant, files, {"backend": {"type": "cuda", "archs": archs}})
        report = check(repository, variants=[variant], select=["device"])
        assert [each.rule.id for each in report.findings] == [f"device-archs-{e}" for e in expected]
