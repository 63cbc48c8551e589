"""Rules about what a plugin is, before it is called for a machine."""

from __future__ import annotations

from importlib import resources

from kernels_core.hookspecs import API_VERSION, BackendInfo
from kernels_core.testing.base import Rules, value_problem
from kernels_core.testing.processes import ProcessError
from kernels_core.testing.rule import fail, rule, skip


class DeclarationRules(Rules):
    """Entry point, module, hooks and declaration."""

    @rule
    def test_entry_point(self) -> None:
        """One entry point of the group `kernels_core.backends` names the plugin's module.

        Fix: add [project.entry-points."kernels_core.backends"] with a line `name =
        "package.plugin"` to pyproject.toml, and reinstall the package; uninstall other packages
        that claim the name.
        """
        self.check_step("entry-point")

    @rule
    def test_import(self) -> None:
        """The entry point names a module, and importing it works on every machine.

        Fix: at the top of a module, import only what is installed without the device, its driver
        and its runtime; import the rest inside the functions that need it.
        """
        self.check_step("import")

    @rule
    def test_hooks(self) -> None:
        """The module implements the required hooks, with the right names and arguments.

        Fix: compare its `@hookimpl` functions with `kernels_core.hookspecs`. A hook takes the
        arguments of its specification by name, or fewer, without defaults, and is no wrapper.
        """
        self.check_step("hooks")

    @rule
    def test_declaration(self) -> None:
        """`kernels_backend` returns a `BackendInfo` that the core accepts.

        Fix: names are lower-case identifiers, `api_version` is the version that the plugin was
        written for, `facts` is a subclass of `DeviceFacts` and `properties` are subclasses of
        `DeviceProperties`.
        """
        self.check_step("declaration")

    @rule
    def test_declaration_pure(self) -> None:
        """A plugin declares the same in every process: the declaration reads nothing.

        Fix: return a `BackendInfo` of constants from `kernels_backend`.
        """
        subject = self.subject
        observed = self.observe_fresh()
        if isinstance(observed, ProcessError):
            fail(f"in a new process, it failed: {observed}")
        again = subject.hooks.call("kernels_backend", BackendInfo)
        for info in (again, observed.info or again):
            if info != subject.info:
                fail(f"it declared {subject.info} first, and {info} later")

    @rule
    def test_api_version(self) -> None:
        """A plugin declares the API version that it was written for, not the one that the core has.

        Fix: write the number, not the core's `API_VERSION`: that changes with the core, and a core
        of another version could not detect that the plugin does not fit.
        """
        observed = self.observe_fresh()
        if isinstance(observed, ProcessError):
            skip("the rule declaration-pure is broken")
        if observed.copies_version:
            fail(f"with a core of another API version, it no longer declares {API_VERSION}")

    @rule
    def test_name(self) -> None:
        """The entry point has the name of the backend.

        Fix: rename one of them. The environment variables that disable plugins use the name of the
        entry point, and everything else that of the backend.
        """
        name = self.subject.info.name
        if name != self.subject.source.plugin:
            fail(f"the entry point is {self.subject.source.plugin!r}, the backend {name!r}")

    @rule
    def test_torch_lazy(self) -> None:
        """Importing and declaring a plugin, parsing tags and `kernels_bundled` do not import torch.

        Fix: import torch, and what imports it, inside the functions that query the machine.
        Programs that only declare mappings or read variant names must not pay for torch.
        """
        if self.fresh().importers:
            fail(f"torch was imported by {self.fresh().importers[0]}")

    @rule
    def test_typed(self) -> None:
        """The plugin's package has types that type checkers can use.

        Fix: add an empty file `py.typed` to the package, and make sure that the wheel contains it.
        """
        package = self.subject.module.__name__.partition(".")[0]
        if not resources.files(package).joinpath("py.typed").is_file():
            fail(f"package {package!r} has no py.typed")

    @rule
    def test_properties_own(self) -> None:
        """Every declared kind of requirement can be used with the backend's device type.

        Fix: declare kinds whose `device_type` is the backend's name or None; a mapping cannot
        contain others for it.
        """
        name = self.subject.info.name
        for kind in self.subject.info.properties:
            if kind.device_type not in (None, name):
                fail(f"{kind.__name__} belongs to device type {kind.device_type!r}")

    @rule
    def test_properties_values(self) -> None:
        """Requirements are values: a copy is equal and has the same hash, and no other is equal.

        Fix: decorate the class with `attrs.frozen`, and use no lists and dicts in its attributes.
        A mapping replaces the entry that has equal properties.
        """
        for _, expected in self.all_devices():
            requirements = self.requirements_of(expected)
            for position, required in enumerate(requirements):
                problem = value_problem(required)
                if problem:
                    fail(problem)
                for other in requirements[:position]:
                    if required == other and repr(required) != repr(other):
                        fail(f"{required!r} equals {other!r}")
