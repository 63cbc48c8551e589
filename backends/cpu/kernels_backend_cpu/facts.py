"""What the host's processor has."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kernels_core.device import DeviceFacts

# Where torch calls a feature by another name than Linux, and so archspec, does.
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
            "x86_64_v4" where nothing better fits.
        features: instruction set extensions, by the names that Linux uses: "avx2", "avx512f",
            "amx_bf16", "asimd", "sve"; "neon" is there on every 64-bit Arm.
    """

    microarchitecture: str
    features: frozenset[str]


def known_features(flags: frozenset[str], torch: Mapping[str, object]) -> frozenset[str]:
    """Put together what the operating system and torch tell; torch has the last word.

    torch asks the processor itself and checks that the operating system saves the registers, which
    a list of features does not tell everywhere.

    Args:
        flags: features by Linux's names.
        torch: features by torch's names, with True or False; everything else is no feature.

    Example:
        >>> flags = frozenset({"avx2", "avx512f"})
        >>> sorted(known_features(flags, {"fma3": True, "avx512_f": False}))
        ['avx2', 'fma']
    """
    told = {
        _LINUX_NAMES.get(name, name): there
        for name, there in torch.items()
        if isinstance(there, bool)
    }
    present = {name for name, there in told.items() if there}
    absent = {name for name, there in told.items() if not there}
    return flags.union(present) - absent
