"""A pytest plug-in: `pytest --ldmref-against my_package.module` checks its functions as tests.

It adds a test for each identity of `ldmref check` that involves a function of the module. Without
the option the plug-in does nothing and imports nothing of ldmref.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ldmref.backends import Backend
    from ldmref.check import CheckResult
    from ldmref.check.identity import Functions, Identity


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ldmref", "formulas of latent diffusion (ldmref check)")
    option = group.addoption
    option("--ldmref-against", metavar="MODULE|FILE", help="Check the functions of this module.")
    option("--ldmref-backend", metavar="NAME", default="numpy", help="Default: numpy.")
    option(
        "--ldmref-dtype",
        choices=["float64", "float32"],
        default="float64",
        help="Default: float64.",
    )
    option(
        "--ldmref-cases",
        metavar="N",
        type=int,
        default=100,
        help="Random inputs per identity; default: 100.",
    )
    option(
        "--ldmref-hard", action="store_true", help="Also check the edges of each function's range."
    )


@pytest.hookimpl(tryfirst=True)  # before -k and -m select
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption("--ldmref-against"):
        items.extend(
            Identities.from_parent(session, name="ldmref check", nodeid="ldmref").collect()
        )


class Identities(pytest.Collector):
    """The identities that involve a function of the module."""

    def collect(self) -> Iterator[IdentityItem]:
        from ldmref.backends import get_backend
        from ldmref.check import identities, load_implementation, unknown_functions
        from ldmref.check.identity import Functions
        from ldmref.errors import LdmrefError

        option = self.config.option
        name = option.ldmref_against
        try:
            module = load_implementation(name)
            backend = get_backend(option.ldmref_backend, dtype=option.ldmref_dtype)
        except LdmrefError as error:
            raise pytest.UsageError(f"{error} ({error.hint})") from error
        for function, close in unknown_functions(module).items():
            if close:
                warning = f"{function} is not checked: did you mean {close}?"
                self.warn(pytest.PytestWarning(warning))
        functions = Functions(module)
        checked = [i for i in identities(option.ldmref_hard) if functions.replaced(i)]
        if not checked:
            raise pytest.UsageError(f"{name}: no function has a name of ldmref.math or samplers")
        for i in checked:
            yield IdentityItem.from_parent(
                self, name=i.name, identity=i, functions=functions, backend=backend
            )


class IdentityFails(Exception):
    """An identity does not hold."""

    def __init__(self, result: CheckResult):
        super().__init__(result)
        self.result = result


class IdentityItem(pytest.Item):
    """One identity as a test."""

    def __init__(
        self, *, identity: Identity, functions: Functions, backend: Backend, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.identity = identity
        self.functions = functions
        self.backend = backend

    def runtest(self) -> None:
        from ldmref.check.runner import can_run, check_identity

        if not can_run(self.identity, self.backend):
            pytest.skip(f"{self.backend.name} records no gradients; --ldmref-backend torch does")
        cases = self.config.option.ldmref_cases
        result = check_identity(self.identity, self.functions, self.backend, cases)
        if not result.holds:
            raise IdentityFails(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, IdentityFails):
            return super().repr_failure(excinfo, style)
        result = excinfo.value.result
        error = f"worst error {result.worst:.3g} of {result.allowed:g} units of rounding"
        failed = f"{result.verdict}, against {result.oracle}"
        source = f"{result.formula}  [{result.source}]"
        return "\n".join(
            [f"{failed}: {error}", result.detail, *result.calls, *result.notes, source]
        )

    def reportinfo(self) -> tuple[str, int | None, str]:
        return "ldmref", None, f"ldmref: {self.name}"
