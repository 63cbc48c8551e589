"""Whether a kernel repository would load everywhere that it claims to: `kernels-core check`."""

from kernels_core.check.checking import check
from kernels_core.check.report import Finding, Report
from kernels_core.check.rule import Problem, Rule, Scope, Severity
from kernels_core.check.rules import all_rules

__all__ = ["Finding", "Problem", "Report", "Rule", "Scope", "Severity", "all_rules", "check"]
