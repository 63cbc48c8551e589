"""`report`: what `kernelize` decided for the layers of a model, and what they run now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels_core.errors import ReportNotFoundError
from kernels_core.layers.report import KernelizeReport, current_report

if TYPE_CHECKING:
    from torch import nn


def report(model: nn.Module) -> KernelizeReport:
    """What the layers of a model run now, and what the last `kernelize` call decided for them.

    Each call looks at the modules again: at the forward that a call of each of them runs, at
    forwards that other packages set or captured, and at the conditions of the kernels. The report
    itself does not change any more.

    Args:
        model: the object that was passed to `kernelize`.

    Raises:
        ReportNotFoundError: the model was never kernelized, or `unkernelize` undid it.

    Example:
        >>> import kernels_core
        >>> from torch import nn
        >>> model = kernels_core.kernelize(
        ...     nn.Linear(2, 2), mode=kernels_core.Mode.INFERENCE, device="cpu"
        ... )
        >>> kernels_core.report(model).to_dict()
        {'mode': 'INFERENCE', 'layers': []}
    """
    made = current_report(model)
    if made is None:
        raise ReportNotFoundError(
            f"There is no report for this {type(model).__qualname__}: it has not been kernelized. "
            f"A report belongs to the object that was passed to kernelize, not to copies or parts "
            f"of it."
        )
    # Imported here, so that `plan` can be imported without torch.
    from kernels_core.layers.present import refreshed

    return refreshed(model, made)
