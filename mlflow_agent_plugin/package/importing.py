"""Import a bundle's own code without letting it meet anything else's.

Rules:
- A bundle's modules live in ``sys.modules`` below a package named after the bundle's digest, so two
  agents, or two versions of one, never share a module; the same content always has the same name.
- Inside the bundle ``import bank`` and ``from bank import Bank`` mean the bundle's own ``bank``, at
  any time, also in a function that runs later. For all other code the name means what it meant
  before: ``sys.path`` and top-level ``sys.modules`` names are not touched.
- What runs is what was digested: sources are read once, checked against the digest and kept, so a
  folder that changes or vanishes later changes nothing. No bytecode is read or written.
- A module that fails to import is one error that names the bundle's file and line.

Inside the bundle `importlib.import_module("bank")` does not find the bundle's ``bank``; write an
import statement, or ``importlib.import_module(".bank", __package__)`` in a top-level module.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow_agent_plugin.errors import BundleError, GraphError, IntegrityError
from mlflow_agent_plugin.package.bundle import Bundle

PREFIX = "mlflow_agents_bundle_"
"""Start of the name of every bundle's package; 32 digits of its digest follow."""


@dataclass(frozen=True)
class _Module:
    """One module of a bundle: a Python file, or a folder that holds some."""

    source: bytes
    file: str | None
    is_package: bool


@dataclass
class _Namespace:
    """All modules of one bundle, by their name inside of it (`bank`, `shop.cart`)."""

    package: str
    digest: str
    root: Path
    modules: Mapping[str, _Module]
    builtins: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builtins = {**vars(builtins), "__import__": self._import}

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Stand in for ``__import__`` in the bundle's modules: own modules first."""
        head = name.partition(".")[0]
        if level or head not in self.modules:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        _FINDER.install()
        if fromlist:
            return builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{self.package}.{name}")
        return sys.modules[f"{self.package}.{head}"]


class _Loader(importlib.abc.InspectLoader):
    """Runs one module of a bundle from its kept source."""

    def __init__(self, namespace: _Namespace, module: _Module) -> None:
        self._namespace = namespace
        self._module = module

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 - the protocol's signature
        return self._module.is_package

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return importlib.util.decode_source(self._module.source)

    def get_code(self, fullname: str) -> Any:  # noqa: ARG002
        return compile(
            self._module.source, self._module.file or "<folder>", "exec", dont_inherit=True
        )

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._namespace.builtins
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - digest-checked source


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of all registered bundles, and nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._namespaces: dict[str, _Namespace] = {}

    def install(self) -> None:
        """Take part in imports; called again when someone reset ``sys.meta_path``."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def register(self, bundle: Bundle) -> _Namespace:
        """Return the namespace of `bundle`, reading its sources on first use.

        Raises:
            IntegrityError: A source changed after the bundle was loaded.
        """
        package = PREFIX + bundle.digest.value.removeprefix("sha256:")[:32]
        with self._lock:
            self.install()
            known = self._namespaces.get(package)
            if known is not None and known.digest != bundle.digest.value:
                raise IntegrityError(
                    "another bundle has the same start of its digest", where=str(bundle.root)
                )
            if known is not None and (known.root == bundle.root or known.root.exists()):
                return known
            namespace = _Namespace(package, bundle.digest.value, bundle.root, _modules_of(bundle))
            if known is not None:
                # the folder the modules came from is gone: `__file__` must lead to files again
                for name in [name for name in sys.modules if _is_in(name, package)]:
                    del sys.modules[name]
            self._namespaces[package] = namespace
            return namespace

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a bundle's module, None for every other name."""
        if not fullname.startswith(PREFIX):
            return None
        package, _, name = fullname.partition(".")
        namespace = self._namespaces.get(package)
        if namespace is None or (name and name not in namespace.modules):
            return None
        module = namespace.modules[name] if name else _Module(b"", None, is_package=True)
        spec = importlib.machinery.ModuleSpec(
            fullname,
            _Loader(namespace, module),
            origin=module.file,
            is_package=module.is_package,
        )
        spec.has_location = module.file is not None
        return spec


_FINDER = _Finder()


def import_entry_point(bundle: Bundle, entry_point: str) -> Any:
    """Import ``module:attribute`` from the bundle's own files.

    Args:
        bundle: The bundle; its digest names the package the module is loaded into.
        entry_point: ``module:attribute`` as it stands in the manifest.

    Returns:
        The attribute. The same bundle content gives the same object within a process.

    Raises:
        GraphError: `entry_point` is the graph's and the module is missing, fails to import or has
            no such attribute.
        BundleError: The same for any other entry point.
        IntegrityError: A source changed after the bundle was loaded.
    """
    error = GraphError if entry_point == bundle.manifest.graph.entry_point else BundleError
    module_name, _, attribute = entry_point.partition(":")
    namespace = _FINDER.register(bundle)
    known = namespace.modules.get(module_name)
    if known is None or not attribute:
        raise error(
            f"entry point {entry_point!r} names no module of the bundle",
            where=str(bundle.root),
            hint="Write it as module:attribute, the module being a Python file of the bundle.",
        )
    try:
        module = importlib.import_module(f"{namespace.package}.{module_name}")
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise _import_failed(problem, namespace, known, error) from problem
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise error(
            f"entry point {entry_point}: the module defines no `{attribute}`",
            where=known.file,
            hint="Define it at the module's top level, or correct the entry point.",
        ) from None


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _modules_of(bundle: Bundle) -> dict[str, _Module]:
    """Read every Python file of the bundle; a package beats a module of the same name."""
    modules: dict[str, _Module] = {}
    folders: set[str] = set()
    for path in sorted(bundle.locations):
        if not path.endswith(".py"):
            continue
        parts = path.removesuffix(".py").split("/")
        if not all(part.isidentifier() for part in parts):
            continue  # a script, never importable
        folders.update(".".join(parts[:end]) for end in range(1, len(parts)))
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        if not name or (name in modules and modules[name].is_package):
            continue
        file = str(bundle.locations[path])
        modules[name] = _Module(bundle.read_bytes(path), file, is_package)
    for folder in folders - set(modules):
        modules[folder] = _Module(b"", None, is_package=True)
    return modules


def _import_failed(
    problem: BaseException, namespace: _Namespace, module: _Module, error: type[BundleError]
) -> BundleError:
    """Say in one line which line of the bundle failed and how."""
    files = {known.file for known in namespace.modules.values() if known.file is not None}
    where = f"{module.file}:1"
    trace = problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(problem, SyntaxError) and problem.filename in files:
        where = f"{problem.filename}:{problem.lineno or 1}"
    text = " ".join(str(problem).split())
    hint = "Correct the line; importing a module must not need anything outside the bundle."
    if isinstance(problem, ModuleNotFoundError):
        hint = f"Add {problem.name} to the bundle, or install it where the agent runs."
    return error(
        f"cannot be imported: {type(problem).__name__}{': ' if text else ''}{text[:300]}",
        where=where,
        hint=hint,
    )
