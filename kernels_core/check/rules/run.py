"""Rules: what running the build for this machine shows."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import Requirement

from kernels_core.check.facts.observation import Observation
from kernels_core.check.rule import Problem, Scope, Severity, rule


@rule(Scope.RUN, Severity.ERROR)
def run_import(observation: Observation) -> Iterator[Problem]:
    """The build for this machine can be imported under a unique module name.

    Why: otherwise it cannot be used here, although its variant fits.

    Fix: see the exception and where it is raised; a crash comes from native code.
    """
    yield from _failures(observation, "import")


@rule(Scope.RUN, Severity.ERROR)
def run_beside(observation: Observation) -> Iterator[Problem]:
    """Two versions of the kernel can be imported into one process.

    Why: models that are used together may need different versions. To test it, the build is copied
    to another path, with another namespace of operators, as a build of another commit would have.

    Fix: register nothing under a fixed name: no modules in `sys.modules` or on `sys.path`, no
    operators outside the build's namespace.
    """
    yield from _failures(observation, "beside")


@rule(Scope.RUN, Severity.ERROR)
def run_namespace(observation: Observation) -> Iterator[Problem]:
    """Importing the build registers operators in its own namespace only.

    Why: operators in other namespaces clash with other kernels, and loaders cannot predict it.

    Fix: register all operators in the namespace that `metadata.json` declares as `id`.
    """
    known = {Requirement(each).name.replace("-", "_") for each in observation.dependencies}
    known.add(str(observation.declared))
    for namespace in observation.namespaces if observation.declared else ():
        if namespace not in known:
            message = (
                f"importing it registers operators in torch.ops.{namespace}, "
                f"but 'id' is {observation.declared!r}"
            )
            yield Problem(message, observation.path, symbol=namespace)


@rule(Scope.RUN, Severity.ERROR)
def run_layers(observation: Observation) -> Iterator[Problem]:
    """The layers of the build pass the validation of loaders.

    Why: a layer that does not is never used.

    Fix: derive it from `torch.nn.Module`, with no members but `forward`, `has_backward`,
    `can_torch_compile` and annotations.
    """
    yield from _failures(observation, "layer")


@rule(Scope.RUN, Severity.ERROR)
def run_tests(observation: Observation) -> Iterator[Problem]:
    """The repository's own tests pass on this machine.

    Why: they check what the kernel computes, usually by comparing it with a reference.

    Fix: correct the kernel, or the test. Tests are in `tests`, next to `build`, are run by pytest,
    and import the kernel by its name.
    """
    yield from _failures(observation, "test")


@rule(Scope.RUN, Severity.ERROR)
def run_opcheck(observation: Observation) -> Iterator[Problem]:
    """The operators of the build pass `torch.library.opcheck`.

    Why: an operator whose schema, fake implementation or gradient is wrong gives wrong results
    under torch.compile and autograd. It is tested with the arguments of calls in the repository's
    tests.

    Fix: see the documentation of `torch.library`; often `register_fake` or `mutates_args` is
    missing.
    """
    yield from _failures(observation, "opcheck")


@rule(Scope.RUN, Severity.ERROR)
def run_compile(observation: Observation) -> Iterator[Problem]:
    """A layer with `can_torch_compile` works with `torch.compile(fullgraph=True)`.

    Why: loaders use it in compiled models, where a graph break raises. It is tested with the
    arguments of calls in the repository's tests.

    Fix: register code that cannot be traced as an operator with a fake implementation, or remove
    `can_torch_compile`.
    """
    yield from _failures(observation, "compile")


@rule(Scope.RUN, Severity.ERROR)
def run_gradient(observation: Observation) -> Iterator[Problem]:
    """A layer whose `has_backward` is not False has correct gradients.

    Why: loaders use it in training, where a missing gradient raises or silently trains nothing. A
    layer without `has_backward` claims to have one. It is tested with the arguments of calls in
    the repository's tests.

    Fix: set `has_backward = False`, or implement the gradient with
    `torch.library.register_autograd` or `torch.autograd.Function`.
    """
    yield from _failures(observation, "gradient")


def _failures(observation: Observation, kind: str) -> Iterator[Problem]:
    for each in observation.failures:
        if each.kind == kind:
            yield Problem(f"{each.what}: {each.text}", each.path, each.line, each.what)
