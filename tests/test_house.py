"""The house rules: which package may import which, what an import loads, sizes, and words."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import ldmref

PACKAGE = Path(__file__).parents[1] / "ldmref"
FILES = sorted(PACKAGE.rglob("*.py"))
TOP = "(top)"

# -- who imports whom -----------------------------------------------------------------------------

# Everything but formulas may import these; they import only each other.
SUPPORT = ("errors", "declare", "support")
# From a formula to an image. It imports no wing: `make reference` runs its tests without them.
REFERENCE = """
    math backends samplers prompts models families io loading loading_networks modes advice
""".split()
# What is built on the reference.
WINGS = {
    "verify": ("check", "testing", "differences", "atlas", "pytest_plugin"),
    "port": ("trace", "locate", "cases", "export", "passport"),
    "explore": ("explore", "plots"),
    "foreign": ("ports",),
    "lab": ("training", "datasets", "evaluate", "ledger"),
    "apps": ("apps", "batch", "compat"),
}
ALL = (*SUPPORT, *REFERENCE)
BELOW_ADVICE = tuple(part for part in ALL if part != "advice")
BELOW_MODES = tuple(part for part in BELOW_ADVICE if part != "modes")
TOOLS = (*WINGS["verify"], *WINGS["port"], *WINGS["explore"], *WINGS["foreign"])


def wing(name, *others):
    """Return a row for each package of a wing: what a wing takes of another is named."""
    return dict.fromkeys(WINGS[name], (*ALL, *WINGS[name], *others))


# A part of ldmref -> what it may import besides itself. The longest name that fits a file counts.
ALLOWED = {
    **dict.fromkeys(SUPPORT, SUPPORT),
    "math": (),
    "backends": (*SUPPORT, "math.arrays"),
    "samplers": (*SUPPORT, "math"),
    "prompts": (*SUPPORT, "math.arrays"),
    "models": (
        *SUPPORT,
        "math",
        "backends.base",
        "prompts",
        "samplers.config",
        "samplers.predictions",
    ),
    "io": (*SUPPORT, "math", "prompts", "samplers.config", "models"),
    "families": (
        *SUPPORT,
        "math",
        "backends.base",
        "prompts",
        "samplers.config",
        "models",
        "io.compvis.keys",
        "io.compvis.unet_file",
        "io.compvis.whole_file",
        "io.diffusers",
        "io.key_table",
    ),
    "loading": BELOW_MODES,
    "loading_networks": BELOW_MODES,
    "modes": BELOW_ADVICE,
    "modes.plan": ALL,  # gives plans the package that advises them
    "advice": ALL,
    **wing("verify"),
    # a family is checked by every tool, also by a training
    "testing.family": (*ALL, *WINGS["verify"], *WINGS["port"], "ports", "training"),
    # golden cases are the identities of `ldmref check`, as data
    **wing("port", "check", "ports"),
    **wing("foreign"),
    **wing("explore", "trace"),  # a run record is a part of a trace
    # a training is recorded as a run is, and one data set is the mixture of the tests
    **wing("lab", "trace", "ports", "testing.mixture"),
    "training.__main__": ("__main__",),  # `torchrun -m ldmref.training` is `ldmref train`
    # Apps stand beside each other: only the command line, which starts them, imports them all.
    **dict.fromkeys(WINGS["apps"], (*ALL, *TOOLS, "apps.foreign", "apps.a1111", "apps.mcp")),
    "apps.cli": (TOP, *ALL, *TOOLS, *WINGS["lab"], *WINGS["apps"]),
    "__main__": ("apps.cli",),
    TOP: (*ALL, "trace"),  # the names of `ldmref`, imported at their first use
}


def part_of(path):
    """math/forward.py -> math, apps/cli/main.py -> apps.cli, __init__.py -> (top)."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or TOP
    fitting = [rule for rule in ALLOWED if is_below(name, rule)]
    return max(fitting, key=len, default=parts[0])


def is_below(name, rule):
    return name == rule or name.startswith(rule + ".")


def own_package(path):
    """trace/files.py -> trace, apps/server/app.py -> apps.server."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "apps" else parts[0]


def exists(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path):
    """(line, module of ldmref) for every import in a file, those within functions too."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *([node.module] if node.module else [])])
            found = [f"{base}.{a.name}" if exists(f"{base}.{a.name}") else base for a in node.names]
        else:
            continue
        yield from ((node.lineno, m) for m in found if m.split(".")[0] == "ldmref")


def is_allowed(part, own, module):
    """Return whether a file of a part may import a module; its own package is always allowed."""
    target = module.removeprefix("ldmref").removeprefix(".") or TOP
    return is_below(target, own) or any(is_below(target, rule) for rule in ALLOWED[part])


@pytest.mark.parametrize("part", sorted({part_of(path) for path in FILES}))
def test_imports_are_allowed(part):
    assert part in ALLOWED, f"ldmref/{part} has no row in ALLOWED: say what it may import"
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {module}"
        for path in FILES
        if part_of(path) == part
        for line, module in imports(path)
        if not is_allowed(part, own_package(path), module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "module", "verdict"),
    [
        ("math/forward.py", "ldmref.math.forward", True),
        ("math/forward.py", "ldmref.errors", False),
        ("models/unet.py", "ldmref.backends.base", True),
        ("models/unet.py", "ldmref.backends", False),
        ("models/unet.py", "ldmref.backends.torch", False),
        ("samplers/loop.py", "ldmref", False),
        ("samplers/loop.py", "ldmref.models", False),
        ("modes/plan.py", "ldmref", False),
        ("modes/plan.py", "ldmref.training", False),
        ("modes/plan.py", "ldmref.advice", True),
        ("modes/run.py", "ldmref.advice", False),
        ("loading.py", "ldmref.modes", False),
        ("modes/plan.py", "ldmref.samplers", True),
        ("support/config.py", "ldmref.modes", False),
        ("check/runner.py", "ldmref.evaluate", False),
        ("cases/make.py", "ldmref.check.calls", True),
        ("cases/make.py", "ldmref.testing", False),
        ("trace/files.py", "ldmref.locate", True),
        ("trace/files.py", "ldmref.training", False),
        ("trace/torch_pipeline.py", "ldmref.ports.port", True),
        ("ports/sd3.py", "ldmref.trace", False),
        ("families/sd3/__init__.py", "ldmref.ports.sd3", False),
        ("modes/plan.py", "ldmref.ports", False),
        ("datasets/base.py", "ldmref.trace.files", True),
        ("datasets/base.py", "ldmref.apps.cli", False),
        ("apps/server/app.py", "ldmref.apps.server.jobs", True),
        ("apps/server/app.py", "ldmref.apps.cli", False),
        ("apps/server/app.py", "ldmref.training", False),
        ("batch/rows.py", "ldmref.apps.server", False),
        ("apps/cli/main.py", "ldmref.training", True),
        ("apps/cli/main.py", "ldmref", True),
        ("__main__.py", "ldmref.training", False),
        ("__init__.py", "ldmref.apps.cli", False),
    ],
)
def test_the_rules_allow_and_refuse(file, module, verdict):
    path = PACKAGE / file
    assert is_allowed(part_of(path), own_package(path), module) is verdict


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "ldmref")
    (tmp_path / "ldmref/backends").mkdir(parents=True)
    (tmp_path / "ldmref/backends/base.py").touch()
    file = tmp_path / "ldmref/backends/x.py"
    file.write_text(
        "import numpy, ldmref.io\n"
        "from ldmref.backends import base, other\n"
        "from ldmref import __version__\n"
        "def f():\n"
        "    from ..cli import main\n"
        "    from . import base\n"
    )
    assert sorted(imports(file)) == [
        (1, "ldmref.io"),
        (2, "ldmref.backends"),
        (2, "ldmref.backends.base"),
        (3, "ldmref"),
        (5, "ldmref.cli"),
        (6, "ldmref.backends.base"),
    ]


def test_import_loads_no_heavy_library():
    code = (
        "import sys, ldmref, ldmref.backends.numpy, ldmref.samplers, ldmref.modes\n"
        "large = {'torch', 'cupy', 'scipy.special', 'numpy.f2py.rules'}\n"
        "heavy = large & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_the_command_line_loads_no_part_of_the_laboratory():
    """Not even its commands' modules: `ldmref txt2img` and `ldmref --help` do without it."""
    code = (
        "import sys, ldmref.apps.cli.main\ndict(ldmref.apps.cli.main.cli.commands)\n"
        f"names = {tuple(f'ldmref.{name}' for name in WINGS['lab'])!r}\n"
        "loaded = [m for m in sys.modules if m.startswith(names)]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_import_of_the_package_loads_next_to_nothing():
    """Until `__main__` runs, Ctrl-C prints a traceback."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import ldmref\n"
        "loaded = [m for m in sys.modules if m.startswith('ldmref.') or m == 'typing']\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_names_and_packages_are_completed_and_loaded_at_first_use():
    """Asking for the names loads no module of ldmref; a name or package is then an attribute."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import ldmref\n"
        "names = {name for name in dir(ldmref) if name[:1] != '_'}\n"
        "loaded = [m for m in sys.modules if m.startswith('ldmref.')]\n"
        "assert not loaded, loaded\n"
        "assert {'load', 'denoiser', 'modes', 'math', 'samplers', 'errors'} <= names, names\n"
        "assert not any(hasattr(ldmref, name) for name in ('lod', '_x', '__wrapped__', 'os'))\n"
        "ldmref.errors.UsageError; ldmref.modes.txt2img; ldmref.math.snr\n"
        "assert all(hasattr(ldmref, name) for name in names)\n"
        "from ldmref import samplers; assert ldmref.samplers is samplers"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_files_are_one_subject_and_do_not_print():
    wrong = []
    for path in FILES:
        text = path.read_text()
        name = path.relative_to(PACKAGE)
        if len(text.splitlines()) > 600:
            wrong.append(f"{name} has {len(text.splitlines())} lines")
        if part_of(path) != "apps.cli":
            wrong += [f"{name}:{line} prints" for line in prints(ast.parse(text))]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_prints_escaped_lines():
    """Text of files and users goes through `say`, `print_line` or `one_line`."""
    own = {"progress.py", "main.py", "completion.py"}  # `say` itself, the help, and a script
    wrong = []
    for path in FILES:
        if part_of(path) == "apps.cli" and path.name not in own:
            tree = ast.parse(path.read_text())
            wrong += [f"{path.relative_to(PACKAGE)}:{line}" for line in prints_as_it_is(tree)]
    assert not wrong, "use print_line instead of click.echo:\n" + "\n".join(wrong)


def prints_as_it_is(tree):
    """Yield the lines that print anything but JSON and escaped texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho"):
            argument = node.args[0] if node.args else None
            called = ast.unparse(argument.func) if isinstance(argument, ast.Call) else ""
            if called not in ("json.dumps", "one_line"):
                yield node.lineno


def test_lines_that_are_printed_as_they_are_are_found():
    text = "click.echo(f'{name}')\nclick.echo(json.dumps(row))\nclick.echo(one_line(name))\n"
    assert [*prints_as_it_is(ast.parse(text))] == [1]


def prints(tree):
    """Yield the lines in which `print` is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
            yield node.lineno


def test_the_citation_names_the_version():
    text = PACKAGE.parent.joinpath("CITATION.cff").read_text()
    assert f"\nversion: {ldmref.__version__}\n" in text


# -- circles --------------------------------------------------------------------------------------


def module_of(path):
    """ldmref/io/__init__.py -> ldmref.io."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph():
    """Module -> the modules that it imports, within functions too; packages are not followed."""
    modules = {module_of(path): path for path in FILES}
    return {
        name: {m for _, m in imports(path) if m in modules and m != name}
        for name, path in modules.items()
    }


def circle_in(graph):
    """Return a circle of modules that import each other, or None."""
    done = set()
    path = []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for target in sorted(graph.get(name, ())):
            circle = visit(target)
            if circle:
                return circle
        path.pop()
        done.add(name)
        return None

    for name in sorted(graph):
        circle = visit(name)
        if circle:
            return circle
    return None


def test_no_module_imports_itself_through_others():
    assert circle_in(import_graph()) is None


def test_circles_are_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


# -- sizes ----------------------------------------------------------------------------------------


def code_lines(source):
    """Lines that hold a token which is neither comment nor docstring."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def test_sizes_are_printed():
    """Print the size of each package (pytest -s); files have a limit, packages have none."""
    sizes = {}
    unformatted = 0
    for path in FILES:
        part = part_of(path)
        text = path.read_text()
        sizes[part] = sizes.get(part, 0) + code_lines(text)
        unformatted += text.count("# fmt: skip")
    for part, lines in sorted(sizes.items()):
        print(f"{part:14} {lines:6} lines of code")
    print(f"{'all':14} {sum(sizes.values()):6} lines of code, {unformatted} times fmt: skip")
    assert sizes.keys() == {part_of(path) for path in FILES} and sizes["math"] > 0


# -- words ----------------------------------------------------------------------------------------

# Words that once replaced the established terms of the field.
NO_NAMES = set("told walk course way lasting facts places given chosen drawn".split())
NO_PHRASES = (
    "where there is", "where there are", "what is walked", "is told", "are told", "comes along",
    "goes on with", "goes on where", "goes on from", "something else than",
)  # fmt: skip


def identifiers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_names_and_phrases_are_the_fields():
    wrong = []
    for path in FILES:
        text = path.read_text()
        file = path.relative_to(PACKAGE)
        names = identifiers(ast.parse(text))
        wrong += [f"{file}:{line}: {name}" for name, line in names if name in NO_NAMES]
        prose = " ".join(text.split()).lower()
        wrong += [f"{file}: {phrase}" for phrase in NO_PHRASES if phrase in prose]
    assert not wrong, "\n".join(wrong)


def named_files(package):
    """Return the files that the docstring of a package names, and those that it has."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    named = set(re.findall(r"\b([a-z_0-9]+\.py)\b", text))
    return named, {path.name for path in package.glob("[a-z]*.py")}


def test_the_map_of_a_package_names_its_files():
    """A docstring that names half of the files of its package, and several, names them all."""
    wrong = []
    for init in PACKAGE.rglob("__init__.py"):
        named, files = named_files(init.parent)
        if len(named) < 3:
            continue
        gone = [name for name in named if not list(init.parent.rglob(name))]
        left_out = files - named if 2 * len(named) >= len(files) else set()
        where = init.relative_to(PACKAGE)
        wrong += [f"{where}: {name} does not exist" for name in gone]
        wrong += [f"{where}: {name} is left out" for name in left_out]
    assert not wrong, "\n".join(wrong)


def test_files_are_found_in_the_map_of_a_package():
    named, files = named_files(PACKAGE / "evaluate")
    assert named == files and "evaluation.py" in named


# -- one name per class and concept ---------------------------------------------------------------

CONCEPT = re.compile(r"_?[A-Z][a-z0-9]\w*")
SHARED_NAMES: dict[str, str] = {}  # name -> the reason why two definitions may share it


def concepts(tree):
    """Yield the names of all classes, and of the type aliases of a module; not of TypeVars."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        match node:
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]) if CONCEPT.fullmatch(name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) if CONCEPT.fullmatch(name):
                yield name


def definitions(files):
    """Return the files that define each class or alias, by its name."""
    found = {}
    for path in files:
        for name in concepts(ast.parse(path.read_text())):
            found.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    return found


def test_a_class_or_type_alias_has_a_name_that_no_other_has():
    found = definitions(FILES)
    shared = {name: paths for name, paths in found.items() if len(paths) > 1}
    wrong = [f"{name}: {', '.join(paths)}" for name, paths in shared.items()]
    assert shared.keys() == SHARED_NAMES.keys(), "\n".join(wrong)


def test_classes_and_aliases_are_found():
    code = (
        "Shape = tuple[int, ...]\nTerm: TypeAlias = int\nLIMIT = 3\nA = 1\nx = 2\n"
        "Made = TypeVar('Made')\n"
        "class _Row:\n    class Inner: pass\n    Key = str\n"
    )
    assert [*concepts(ast.parse(code))] == ["_Row", "Inner", "Shape", "Term"]


def test_modules_of_tests_have_names_of_their_own():
    """pytest puts the folders of tests on one path: of two equal names only one is importable."""
    paths = (PACKAGE.parent / "tests").rglob("*.py")
    paths = [path for path in paths if "published" not in path.parts]  # packages, not on that path
    names = [path.name for path in paths if path.name not in ("conftest.py", "__init__.py")]
    assert not sorted({name for name in names if names.count(name) > 1})
