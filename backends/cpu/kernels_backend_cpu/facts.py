"""Facts about the host's processor."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kernels_core.device import DeviceFacts

# Features that torch names differently from Linux and archspec.
_LINUX_NAMES = {
    "avx512_bw": "avx512bw",
    "avx512_cd": "avx512cd",
    "avx512_dq": "avx512dq",
    "avx512_f": "avx512f",
    "avx512_ifma": "avx512ifma",
    "avx512_vbmi": "avx512vbmi",
    "avx512_vl": "avx512vl",
    "bmi": "bmi1",
    "dot": "asimddp",
    "fhm": "asimdfhm",
    "fma3": "fma",
    "fp16_arith": "asimdhp",
    "rdm": "asimdrdm",
    "sha": "sha_ni",
    "sve_bf16": "svebf16",
}


@attrs.frozen
class CPUFacts(DeviceFacts):
    """The host's processor.

    Attributes:
        microarchitecture: for example "zen5", "neoverse_v1", "m4"; a generic name such as
            "x86_64_v4" if none is more specific.
        features: instruction set extensions, by their names on Linux: "avx2", "avx512f",
            "amx_bf16", "asimd", "sve"; every 64-bit Arm has "neon".
    """

    microarchitecture: str
    features: frozenset[str]


def known_features(flags: frozenset[str], torch: Mapping[str, object]) -> frozenset[str]:
    """Merge the features that the operating system lists with those that torch detected.

    torch overrides the operating system: it queries the processor itself and checks that the
    operating system saves the registers, which a list of features does not always reflect.
    """
    detected = {
        _LINUX_NAMES.get(name, name): has for name, has in torch.items() if isinstance(has, bool)
    }
    present = {name for name, has in detected.items() if has}
    absent = {name for name, has in detected.items() if not has}
    return flags.union(present) - absent
