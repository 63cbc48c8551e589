"""Rules about what a plugin is before it is asked anything about a machine."""

from __future__ import annotations

from importlib import resources

from kernels_core.hookspecs import API_VERSION, BackendInfo
from kernels_core.testing.base import Rules, value_problem
from kernels_core.testing.processes import ProcessError
from kernels_core.testing.rule import broken, rule, unjudged


class DeclarationRules(Rules):
    """Entry point, module, hooks and declaration."""

    @rule
    def test_entry_point(self) -> None:
        """One entry point of the group `kernels_core.backends` names the plugin's module.

        Mend: add [project.entry-points."kernels_core.backends"] with a line `name =
        "package.plugin"` to pyproject.toml, and install the package again; uninstall what else
        claims the name.
        """
        self.judge_step("entry-point")

    @rule
    def test_import(self) -> None:
        """The entry point names a module, and importing it works on every machine.

        Mend: import at the top only what is there without the device, its driver and its runtime,
        and the rest inside the functions that need it.
        """
        self.judge_step("import")

    @rule
    def test_hooks(self) -> None:
        """The module implements the required hooks, all under their right names and arguments.

        Mend: compare its `@hookimpl` functions with `kernels_core.hookspecs`. A hook takes the
        arguments of its specification by name, or fewer, without defaults, and is no wrapper.
        """
        self.judge_step("hooks")

    @rule
    def test_declaration(self) -> None:
        """`kernels_backend` returns a `BackendInfo` that the core accepts.

        Mend: names are lower-case identifiers, `api_version` is the version that the plugin was
        written for, `facts` is a subclass of `DeviceFacts` and `properties` are subclasses of
        `DeviceProperties`.
        """
        self.judge_step("declaration")

    @rule
    def test_declaration_pure(self) -> None:
        """A plugin declares the same in every process: the declaration reads nothing.

        Mend: return a `BackendInfo` of constants from `kernels_backend`.
        """
        subject = self.subject
        observed = self.observe_fresh()
        if isinstance(observed, ProcessError):
            broken(f"asked in a new process, it failed: {observed}")
        again = subject.hooks.call("kernels_backend", BackendInfo)
        for info in (again, observed.info or again):
            if info != subject.info:
                broken(f"it declared {subject.info} first and {info} later")

    @rule
    def test_api_version(self) -> None:
        """A plugin declares the API version that it was written for, whatever the core speaks.

        Mend: write the number, not the core's `API_VERSION`: that one changes with the core, and
        a core of another version could no longer tell that the plugin does not fit it.
        """
        observed = self.observe_fresh()
        if isinstance(observed, ProcessError):
            unjudged("the rule declaration-pure is broken")
        if observed.copies_version:
            broken(f"with a core of another version it does not declare {API_VERSION} any more")

    @rule
    def test_name(self) -> None:
        """The entry point has the name of the backend.

        Mend: rename one of them. The environment variables that switch plugins off go by the
        entry point and everything else by the backend, so two names would confuse people.
        """
        name = self.subject.info.name
        if name != self.subject.source.plugin:
            broken(f"the entry point is {self.subject.source.plugin!r}, the backend {name!r}")

    @rule
    def test_torch_lazy(self) -> None:
        """Importing and declaring a plugin, reading tags and bundled mappings import no torch.

        Mend: import torch, and what imports it, inside the functions that ask the machine.
        Programs that only declare mappings or look at variant names must not pay for torch.
        """
        if self.fresh().importers:
            broken(f"torch was imported by {self.fresh().importers[0]}")

    @rule
    def test_typed(self) -> None:
        """The plugin's package has types that type checkers may use.

        Mend: put an empty file `py.typed` into the package, and see that the wheel holds it.
        """
        package = self.subject.module.__name__.partition(".")[0]
        if not resources.files(package).joinpath("py.typed").is_file():
            broken(f"package {package!r} has no py.typed")

    @rule
    def test_properties_own(self) -> None:
        """Every declared kind of requirement can be paired with the backend's device type.

        Mend: declare kinds whose `device_type` is the backend's name or None; a mapping can
        never hold others for it.
        """
        name = self.subject.info.name
        for kind in self.subject.info.properties:
            if kind.device_type not in (None, name):
                broken(f"{kind.__name__} belongs to device type {kind.device_type!r}")

    @rule
    def test_properties_values(self) -> None:
        """Requirements are values: a copy of one equals it and hashes alike, and no other does.

        Mend: decorate the class with `attrs.frozen` and keep lists and dicts out of its
        attributes. A mapping replaces the entry that has equal properties.
        """
        for _, expected in self.all_devices():
            requirements = self.requirements_of(expected)
            for position, required in enumerate(requirements):
                problem = value_problem(required)
                if problem:
                    broken(problem)
                for other in requirements[:position]:
                    if required == other and repr(required) != repr(other):
                        broken(f"{required!r} equals {other!r}")
