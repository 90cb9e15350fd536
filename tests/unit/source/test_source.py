"""How the source and its documents are written: rules that ruff and mypy do not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for path in (ROOT / "exo_lite").rglob("*.py") if "v1" not in path.parts)
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FOLDERS = tuple(path.name + "/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
IN_MID_AIR = re.compile(
    r"(?i)(after|also|always|as|at|because|before|both|but|by|for|from|if|in|never|not|of|on|only|or|perhaps|since|so"
    r"|than|that|those|though|to|until|what|when|where|whether|which|while|who|whose|with|without)\b"
)
"""Words that begin no sentence with a subject, no imperative and no name of a thing."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each: of modules, classes, functions, and of the names below which one stands."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for index, one in enumerate(body):
            is_text = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
            if is_text and isinstance(one.value.value, str) and (index == 0 or _is_assignment(body[index - 1])):
                yield one.lineno, one.value.value


def _is_assignment(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign)


def is_in_mid_air(docstring: str) -> bool:
    """Say whether a docstring begins like the rest of a sentence whose beginning stands nowhere."""
    return IN_MID_AIR.match(docstring.strip()) is not None


def test_the_rule_knows_a_sentence_from_the_rest_of_one():
    tree = ast.parse('"""Nodes."""\nSIZE = 1\n"""Of a node."""\n\ndef f():\n    """Return it."""\n')
    assert {text: is_in_mid_air(text) for _, text in docstrings(tree)} == {
        "Nodes.": False,
        "Of a node.": True,
        "Return it.": False,
    }


def test_docstrings_are_sentences_or_name_a_thing():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in docstrings(parsed(path))
        if is_in_mid_air(text)
    ]
    assert found == []


def test_asserts_only_tell_the_type_checker_what_is_known():
    """Input, files and peers are checked by errors that `python -O` does not take away."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Assert) and not _narrows_a_type(node.test)
    ]
    assert found == []


def _narrows_a_type(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and ast.unparse(test.comparators[0]) == "None"
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(document: Path):
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+)`", text)) | set(re.findall(r"\]\(([\w./-]+)\)", text))
    paths = {name for name in named if name.startswith(FOLDERS)}
    assert [name for name in sorted(paths) if not (ROOT / name).exists()] == []


def test_the_design_map_has_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT).parts[1] for path in SOURCES if path.parent != ROOT / "exo_lite"}
    assert [name for name in sorted(folders) if f"| `exo_lite/{name}/" not in text] == []
