"""Make the mutants of a Python file: each differs from it by one small change.

| operator    | change                                                                         |
|-------------|--------------------------------------------------------------------------------|
| comparison  | `<` and `<=`, `>` and `>=`, `==` and `!=`, `in` and `not in`, `is` and `is not` |
| arithmetic  | `+` and `-`, `*` and `/`, `//` to `/`, `%` to `/`, `**` to `*`, `&` and `\|`    |
| boolean     | `and` and `or`, `not x` to `x`, a condition negated, True and False            |
| number      | n to n + 1 (off by one, and changed defaults)                                  |
| sign        | -x to x                                                                        |
| string      | a name or key (a string without spaces) gets another one                       |
| call        | min and max, any and all, floor and ceil; a call that is a statement removed   |
| keyword     | a keyword argument of a call removed                                           |
| jump        | `break` and `continue`                                                         |

These are never changed: docstrings, annotations, imports, `__all__`, `__slots__`, `assert`s,
everything inside `raise` and the keyword arguments `code`, `hint`, `help`, `description` and
`metavar` (error codes and texts), `strict` of `zip`, which is an assertion, strings with a space,
the literal parts of f-strings, decorators, and lines for type checkers.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Container, Iterator
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Div, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
PAIRS = (("min", "max"), ("any", "all"), ("floor", "ceil"))
FUNCTIONS = dict(PAIRS) | {b: a for a, b in PAIRS}
TEXTS = ("code", "hint", "help", "description", "metavar")  # keyword arguments
UNCHANGED = (*TEXTS, "strict")
UNTOUCHED = (ast.Raise, ast.Import, ast.ImportFrom, ast.Assert, ast.Nonlocal, ast.Global)


class Mutant(NamedTuple):
    """One change: `lines` are the lines of its statement, `source` is the text of the new file."""

    file: str
    lines: tuple[int, int]
    function: tuple[int, int]
    operator: str
    old: str
    new: str
    source: str


def count_mutants(source: str) -> int:
    """Return the number of changes of a source file."""
    return sum(1 for site in _sites(ast.parse(source)) for _ in _changes(site.node))


def mutants(file: str, source: str, wanted: Container[int] | None = None) -> Iterator[Mutant]:
    """Yield the mutants of a source file, in the order of its lines.

    Args:
        file: Its name.
        source: Its text.
        wanted: The numbers of the mutants, from 0. None: all of them.
    """
    tree = ast.parse(source)
    original = ast.unparse(tree).splitlines()
    number = -1
    for site in _sites(tree):
        for operator, node, change in _changes(site.node):
            number += 1
            if wanted is not None and number not in wanted:
                continue
            with _Changed(node, change):
                mutated = ast.unparse(ast.fix_missing_locations(tree))
            lines = [
                x
                for x in difflib.unified_diff(original, mutated.splitlines(), n=0, lineterm="")
                if not x.startswith(("---", "+++", "@@"))
            ]
            old = "\n".join(x[1:].strip() for x in lines if x.startswith("-"))
            new = "\n".join(x[1:].strip() for x in lines if x.startswith("+"))
            if old != new:
                yield Mutant(file, site.lines, site.function, operator, old, new, mutated + "\n")


class _Site(NamedTuple):
    node: ast.AST
    lines: tuple[int, int]
    function: tuple[int, int]


class _Changed:
    """Give `node` other fields while the block runs; None in a `body` removes a statement."""

    def __init__(self, node: ast.AST, fields: dict[str, object]) -> None:
        self.node = node
        self.fields = fields

    def __enter__(self) -> None:
        self.saved = {name: getattr(self.node, name) for name in self.fields}
        for name, value in self.fields.items():
            setattr(self.node, name, value)

    def __exit__(self, *exception: object) -> None:
        for name, value in self.saved.items():
            setattr(self.node, name, value)


def _sites(tree: ast.Module) -> Iterator[_Site]:
    """Yield the nodes that may change, with the lines of their statement and function."""

    def walk(node: ast.AST, lines: tuple[int, int], function: tuple[int, int]) -> Iterator[_Site]:
        if isinstance(node, UNTOUCHED) or _is_docstring(node) or _is_for_checkers(node):
            return
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            lines = (node.lineno, max(node.lineno, last))
        yield _Site(node, lines, function)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = (node.lineno, node.end_lineno or node.lineno)
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    yield from walk(default, inside, inside)
            children = [(child, inside) for child in node.body]
        else:
            children = [(child, function) for child in _children(node)]
        for child, around in children:
            yield from walk(child, lines, around)

    yield from walk(tree, (1, 1), (1, 1))


def _children(node: ast.AST) -> list[ast.AST]:
    """Return the children that may change: not annotations, decorators or texts."""
    if isinstance(node, ast.ClassDef):
        return list(node.body)
    if isinstance(node, ast.AnnAssign):
        return [node.value] if node.value else []
    if isinstance(node, ast.JoinedStr):
        return [x for x in node.values if isinstance(x, ast.FormattedValue)]
    if isinstance(node, ast.FormattedValue):
        return [node.value]
    if isinstance(node, ast.Call):
        keywords = [k.value for k in node.keywords if k.arg not in UNCHANGED]
        return [node.func, *node.args, *keywords]
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and (node.value.id in ("Annotated", "Literal", "Callable", "Unpack"))
    ):
        return []
    return list(ast.iter_child_nodes(node))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_for_checkers(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id in ("__all__", "__slots__")
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation) == "TypeAlias"
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, dict[str, object]]]:
    """Yield (operator, node, its changed fields) for every change of one node."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in COMPARISONS:
                ops = [*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]]
                yield "comparison", node, {"ops": ops}
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        if not (isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)):
            yield "arithmetic", node, {"op": ARITHMETIC[type(node.op)]()}
    elif isinstance(node, ast.BoolOp):
        yield "boolean", node, {"op": ast.Or() if isinstance(node.op, ast.And) else ast.And()}
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        field = "id" if isinstance(node.func, ast.Name) else "attr"
        if name in FUNCTIONS:
            yield "call", node.func, {field: FUNCTIONS[name]}
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in UNCHANGED:
                rest = [*node.keywords[:i], *node.keywords[i + 1 :]]
                yield "keyword", node, {"keywords": rest}
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield "call", node, {"value": ast.Constant(None)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node, {"op": ast.UAdd()}
    for field in ("test", "ifs"):
        for changed in _negations(getattr(node, field, None)):
            yield "boolean", node, {field: changed}
    for field in ("body", "orelse"):
        body = getattr(node, field, None)
        for i, statement in enumerate(body if isinstance(body, list) else ()):
            if isinstance(statement, ast.Break | ast.Continue):
                other = ast.Continue() if isinstance(statement, ast.Break) else ast.Break()
                yield "jump", node, {field: [*body[:i], other, *body[i + 1 :]]}  # type: ignore


def _negations(test: object) -> Iterator[object]:
    """Yield negated conditions, also those of comprehensions, except comparisons."""
    tests = test if isinstance(test, list) else [test]
    for i, one in enumerate(tests):
        if isinstance(one, ast.UnaryOp) and isinstance(one.op, ast.Not):
            changed: ast.expr = one.operand
        elif isinstance(one, ast.expr) and not isinstance(one, ast.Compare | ast.BoolOp):
            changed = ast.UnaryOp(ast.Not(), copy.deepcopy(one))
        else:
            continue
        yield [*tests[:i], changed, *tests[i + 1 :]] if isinstance(test, list) else changed


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST, dict[str, object]]]:
    value = node.value
    if isinstance(value, bool):
        yield "boolean", node, {"value": not value}
    elif isinstance(value, int | float):
        yield "number", node, {"value": value + 1}
    elif isinstance(value, str) and value and " " not in value:
        yield "string", node, {"value": f"XX{value}XX"}
