"""What `kernelize` tells users, once per process: what is mapped and not used, and what to do."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import attrs
from torch import nn

from kernels_core import notices
from kernels_core.errors import LoadError
from kernels_core.layers.candidates import SWITCHED_OFF
from kernels_core.layers.decide import Decision
from kernels_core.layers.fallback import KernelizeFallback
from kernels_core.layers.mapping import bundled_names

# How many reasons one warning has; the report has all of them.
_MOST = 10


@attrs.frozen
class _Finding:
    about: Hashable
    text: str
    is_told: bool  # even if most layers have a kernel


def advise(model: nn.Module, decisions: Sequence[Decision], takes_bundled: bool) -> None:
    """Warn, in one warning, of what this process has not been told yet.

    `takes_bundled` says whether bundled kernels could be used with the mapping.
    """
    extensible = [one for one in decisions if one.planned.group.kept != SWITCHED_OFF]
    if all(one.loaded is not None and not one.obstacles for one in extensible):
        return
    name = type(model).__qualname__
    findings = [found for decision in extensible for found in _findings(decision)]
    told = [found.text for found in findings if found.is_told and notices.is_new(found.about)]
    names = [one.planned.group.layer_name for one in extensible if _is_unmapped(one)]
    new_names = [layer for layer in dict.fromkeys(names) if notices.is_new(("no layer", layer))]
    title = f"kernelize({name})"
    why = frozenset((*names, *(found.about for found in findings)))
    if all(one.loaded is None for one in extensible) and notices.is_new((name, why)):
        count = sum(len(one.planned.group.modules) for one in extensible)
        title = f"kernelize replaced none of the {count} extensible layers of {name}"
        told = list(dict.fromkeys(found.text for found in findings))
        new_names = list(dict.fromkeys(names))
    if new_names:
        bundled = bundled_names().intersection(new_names) if takes_bundled else ()
        listed = " and ".join(map(repr, sorted(bundled)))
        told.append(
            f"no mapping has a layer {' or '.join(map(repr, new_names))}: add it with "
            f"register_kernel_mapping"
            + (f", or pass bundled=True: installed backends provide {listed}" if bundled else "")
        )
    if told:
        lines = told[:_MOST] + [f"... and {len(told) - _MOST} more"] * (len(told) > _MOST)
        listed = "".join("\n- " + line.replace("\n", "\n  ") for line in lines)
        notices.say(f"{title}:{listed}\nkernels_core.report(model) has every layer.")


def _is_unmapped(decision: Decision) -> bool:
    return any(one.case is KernelizeFallback.NO_LAYER for one in decision.obstacles)


def _findings(decision: Decision) -> Iterator[_Finding]:
    """Why the modules keep their forward, or run another kernel than the first one mapped."""
    group, device = decision.planned.group, decision.planned.device
    outcome = "keeps its forward"
    if decision.loaded:
        row = decision.row()
        outcome = f"gets {row.kernel} from {row.repository}"
    if group.kept:
        text = f"{group.layer_name} on {device} keeps its forward: {group.kept}"
        yield _Finding(text, text, group.error is not None)
    for obstacle in decision.obstacles:
        if obstacle.case is KernelizeFallback.NO_LAYER:
            continue
        error = obstacle.error
        # The text of an error may differ each time, by a port or a number of seconds.
        of = getattr(error, "repository", "") if isinstance(error, LoadError) else obstacle.reason
        about = (group.layer_name, device, type(error).__name__, of)
        text = f"{group.layer_name} on {device} {outcome}: {obstacle.reason}"
        yield _Finding(about, text, error is not None)
