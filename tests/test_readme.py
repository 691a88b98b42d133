"""The README: what it shows is run, and what it prints is compared.

A `python` block is run, all of them in turn in one namespace, and must print what the
`text` block below it shows. A `console` block gives a command behind `$`, and what it
prints; `...` stands for any lines, and times may differ. Tables are checked as well.
"""

import ast
import contextlib
import io
import os
import re
import shutil
import sys

import pytest
from conftest import PROJECT, command
from test_6_training import bigram_loss
from test_9_golden_numbers import DEFAULT, TWO_LAYERS

import microgpt

README = (PROJECT / "README.md").read_text(encoding="utf-8")
SOURCE = (PROJECT / "microgpt.py").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
SNIPPETS = [
    (code, BLOCKS[i + 1][1] if BLOCKS[i + 1][0] == "text" else "")
    for i, (kind, code) in enumerate(BLOCKS)
    if kind == "python"
]
COMMANDS = [block for kind, block in BLOCKS if kind == "console"]
slow = pytest.mark.skipif(
    not os.environ.get("MICROGPT_SLOW"), reason="minutes: set MICROGPT_SLOW=1"
)


def table_rows(heading):
    """The cells of the first table below the line that starts with heading."""
    lines = README[README.index(f"\n| {heading}") + 1 :].split("\n")
    rows = (line.strip()[1:-1] for line in lines[2 : lines.index("")])
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def run(shown, folder):
    words = shown.split()
    assert words[:2] == ["python", "microgpt.py"]
    return command(words[2:], folder)


def as_pattern(shown):
    """What is shown as a regular expression: `...` any lines, a time any number."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n"
        for line in shown.rstrip("\n").split("\n")
    ]
    pattern = re.sub(r"(training\\ time:\\ )[\d\\.]+", r"\1[\\d.]+", "".join(lines))
    return re.compile(pattern)


def test_every_snippet_prints_what_is_shown(workshop, monkeypatch):
    monkeypatch.chdir(workshop)
    namespace = {}
    for code, shown in SNIPPETS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        lines = [line.rstrip() for line in printed.getvalue().split("\n")]
        assert "\n".join(lines).rstrip("\n") == shown.rstrip("\n")
    assert len(SNIPPETS) >= 7


def test_every_command_prints_what_is_shown(workshop, default_run):
    # After the snippets, one of which writes the Greek names.
    for i, block in enumerate(COMMANDS):
        first, shown = block.split("\n", 1)
        printed = run(first[len("$ ") :], workshop) if i else default_run.printed
        assert as_pattern(shown).fullmatch(printed), f"{first}\n{printed[-2000:]}"
    assert len(COMMANDS) >= 7


@slow
@pytest.mark.parametrize("row", table_rows("command | loss"))
def test_the_losses_of_the_commands_to_try(row, workshop):
    printed = run(row[0].strip("`"), workshop)
    assert f"held-out loss: {row[1]} " in printed


@slow
@pytest.mark.parametrize("row", table_rows("in `microgpt.py`, replace"))
def test_the_losses_of_the_changes_to_try(row, workshop):
    old, new = row[0].strip("`"), row[1].strip("`")
    assert SOURCE.count(old) == 1
    (workshop / "changed").mkdir(exist_ok=True)
    for name in ("microgpt.py", "input.txt"):
        shutil.copy(PROJECT / name, workshop / "changed")
    changed = SOURCE.replace(old, new)
    (workshop / "changed" / "microgpt.py").write_text(changed, encoding="utf-8")
    printed = run("python microgpt.py", workshop / "changed")
    assert f"held-out loss: {row[2]} " in printed


def test_the_changes_to_try_fit_the_file():
    for old, _, _, _ in table_rows("in `microgpt.py`, replace"):
        assert SOURCE.count(old.strip("`")) == 1, old


def test_the_map_has_the_lines_of_each_section():
    lines = SOURCE.split("\n")
    starts = [
        (line[2:], number)
        for number, line in enumerate(lines, 1)
        if number < len(lines) and lines[number] == "# " + "-" * 86
    ]
    ends = [number - 1 for _, number in starts[1:]] + [SOURCE.count("\n")]
    expected = [
        [name, f"{start}-{end}"] for (name, start), end in zip(starts, ends)
    ]
    assert [row[:2] for row in table_rows("section of")] == expected


def test_the_flags_are_those_of_help(capsys):
    with pytest.raises(SystemExit):
        microgpt.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    rows = table_rows("flag | default")
    for flag, default, text in rows:
        assert flag.strip("`") in shown
        assert text + (f" (default: {default})" if default else "") in shown
    shown_flags = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    assert {row[0].strip("`").split()[0] for row in rows} - {"FILE"} == shown_flags


def test_the_number_of_parameters_is_right_wherever_it_stands():
    assert "4,192" in README and "4,192" in SOURCE
    sums = re.search(r"By default `(.*?) = 4,192`", SOURCE).group(1)
    assert eval(sums) == 4192
    n_embd_32 = microgpt.Model(
        list("abcdefghijklmnopqrstuvwxyz"), microgpt.random.Random(1), n_embd=32
    )
    assert f"{len(n_embd_32.params):,} parameters" in README


def test_the_golden_numbers_are_printed():
    for golden in (DEFAULT, TWO_LAYERS):
        for number in [*golden["losses"], golden["held-out"]]:
            assert repr(number) in README
        assert " ".join(golden["samples"]) in " ".join(README.split())


def test_the_bigram_baseline_is_the_one_in_the_table(default_run):
    loss = bigram_loss(default_run.train_docs, default_run.held_out)
    assert f"| {loss:.4f} | counting" in README
    assert f"| {default_run.held_out_loss:.4f} | this model" in README


def test_every_file_that_is_named_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    for link in links:
        assert link.startswith("https://") or (PROJECT / link).exists(), link


def test_the_test_command_is_the_one_that_ci_runs():
    (command,) = (block for kind, block in BLOCKS if kind == "sh" and "pytest" in block)
    assert "README.md" in (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert command.strip().endswith("-m pytest")


# ---- the file itself -----------------------------------------------------------------


def test_the_file_keeps_to_its_form():
    lines = SOURCE.split("\n")
    assert SOURCE.isascii()
    assert max(map(len, lines)) <= 88
    tree = ast.parse(SOURCE)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    assert all(f.end_lineno - f.lineno < 40 for f in functions)
    assert not any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(tree))


def test_the_file_imports_the_standard_library_only():
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SOURCE))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    known = getattr(sys, "stdlib_module_names", imported)  # Python 3.10 and newer
    assert imported <= set(known)
    assert "torch" not in imported
