"""The rules, one module per subject, and which of them to judge by.

`kernels_core.check.rule` says how to write a rule. It goes into the module here that is about its
subject (a new module is to be named in `_MODULES`), and into the documentation by
`python -m kernels_core.check.rules_page > docs/check-rules.md`.

    layout          files and directories, and their names
    completeness    required builds
    metadata        the metadata of builds, and the digest of their files
    native/         native code: a module for each system, for each ABI, and for all
    python          Python source: syntax, names of the standard library, imports
    namespace       namespaces of operators
    layers          layers, judged by their source
    run             what running a build shows
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kernels_core.check.rule import Rule, registered
from kernels_core.check.rules import (
    completeness,
    layers,
    layout,
    metadata,
    namespace,
    python,
    run,
)
from kernels_core.check.rules.native import (
    device,
    elf,
    libraries,
    macho,
    pe,
    platform,
    python_abi,
    torch_abi,
)

# In the order in which their rules are listed.
_MODULES = (
    layout,
    completeness,
    metadata,
    platform,
    libraries,
    elf,
    macho,
    pe,
    python_abi,
    torch_abi,
    device,
    python,
    namespace,
    layers,
    run,
)


def all_rules() -> tuple[Rule, ...]:
    """Every rule, family by family.

    Example:
        >>> from kernels_core.check import all_rules
        >>> all_rules()[0].family
        'layout'
    """
    places = {module.__name__: place for place, module in enumerate(_MODULES)}
    return tuple(sorted(registered.values(), key=lambda rule: places[rule.judge.__module__]))


def selected_rules(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules with the given ids and families (all by default), less those to ignore.

    Raises `ValueError` for a name that is neither the id of a rule nor a family.
    """
    rules = all_rules()
    known = {name for each in rules for name in (each.id, each.family)}
    selected, ignored = set(select), set(ignore)
    for name in sorted((selected | ignored) - known):
        raise ValueError(f"there is no rule or family {name!r}; {_near(name, known)}")
    return tuple(
        each
        for each in rules
        if (not selected or {each.id, each.family} & selected)
        and not {each.id, each.family} & ignored
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(near)}?" if near else "--list-rules shows them"
