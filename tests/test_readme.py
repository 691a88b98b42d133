"""The two README pages: what they show is run, and what it prints is compared.

The `python` blocks of a page run in turn in one namespace, and each must print what the
`text` block below it shows. A trailing comment on a print is compared as well. A
`console` block shows commands after `$`, and what each prints; `...` stands for any
lines, and times may differ. Tables and line numbers are checked, too.
"""

import ast
import concurrent.futures
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
TESTS = (PROJECT / "tests" / "README.md").read_text(encoding="utf-8")
SOURCE = (PROJECT / "microgpt.py").read_text(encoding="utf-8")
slow = pytest.mark.skipif(
    not os.environ.get("MICROGPT_SLOW"), reason="takes minutes: set MICROGPT_SLOW=1"
)


def blocks(page):
    """The (language, text) of each block of code in a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)


def snippets(page):
    """Each python block with the text block below it, or with an empty text."""
    found = [*blocks(page), ("", "")]
    return [
        (text, found[i + 1][1] if found[i + 1][0] == "text" else "")
        for i, (language, text) in enumerate(found)
        if language == "python"
    ]


def commands(page):
    """Each command in the console blocks, and what is shown below it."""
    text = "".join(text for language, text in blocks(page) if language == "console")
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [tuple(part.split("\n", 1)) for part in parts]


def table_rows(page, heading):
    """The cells of the first table whose first line starts with the heading."""
    lines = page[page.index(f"\n| {heading}") + 1 :].split("\n")
    rows = (line.strip()[1:-1] for line in lines[2 : lines.index("")])
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def run(shown, folder):
    words = shown.split()
    assert words[:2] == ["python3", "microgpt.py"]
    return command(words[2:], folder)


def as_pattern(shown):
    """What is shown as a regular expression: `...` any lines, a time any number."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n"
        for line in shown.rstrip("\n").split("\n")
    ]
    pattern = re.sub(r"(training\\ time:\\ )[\d\\.]+", r"\1[\\d.]+", "".join(lines))
    return re.compile(pattern)


def plain_lines(text):
    """The lines of a text without spaces at their ends and empty lines at its end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


@pytest.mark.parametrize("page, count", [(README, 4), (TESTS, 1)])
def test_every_snippet_prints_what_is_shown(workshop, monkeypatch, page, count):
    monkeypatch.chdir(workshop)
    namespace = {}
    found = snippets(page)
    assert len(found) >= count
    for code, shown in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        in_comments = re.findall(r"^print\(.*\)  # ([-\d].*)$", code, re.M)
        expected = shown or "\n".join(in_comments)
        assert plain_lines(printed.getvalue()) == plain_lines(expected)


def test_every_snippet_can_be_pasted_at_the_prompt():
    # The interactive prompt needs an empty line after an indented block.
    for page in (README, TESTS):
        for code, _ in snippets(page):
            lines = code.split("\n")
            tree = ast.parse(code)
            for before, after in zip(tree.body, tree.body[1:]):
                if isinstance(before, (ast.For, ast.With, ast.FunctionDef)):
                    between = lines[before.end_lineno : after.lineno - 1]
                    assert "" in between, code


def test_every_command_prints_what_is_shown(workshop, default_run, monkeypatch):
    monkeypatch.chdir(workshop)
    (minerals,) = (code for code, _ in snippets(README) if "minerals.txt" in code)
    exec(minerals, {})
    assert len(commands(README)) >= 7
    for i, (shown, output) in enumerate(commands(README)):
        printed = run(shown, workshop) if i else default_run.printed
        assert as_pattern(output).fullmatch(printed), f"{shown}\n{printed[-2000:]}"


COMMANDS = table_rows(README, "command | held-out loss")
CHANGES = table_rows(README, "in `microgpt.py`, replace")


def run_changed(old, new, folder):
    """Run microgpt.py with a line replaced."""
    assert SOURCE.count(old) == 1
    shutil.copy(PROJECT / "input.txt", folder)
    (folder / "microgpt.py").write_text(SOURCE.replace(old, new), encoding="utf-8")
    return run("python3 microgpt.py", folder)


@pytest.fixture(scope="module")
def to_try(workshop, tmp_path_factory):
    """What each row of both tables prints; as many run at a time as there are cores."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {}
        for row in COMMANDS:
            jobs[row[0]] = pool.submit(run, row[0].strip("`"), workshop)
        for row in CHANGES:
            old, new = row[0].strip("`"), row[1].strip("`")
            folder = tmp_path_factory.mktemp("changed")
            jobs[row[0]] = pool.submit(run_changed, old, new, folder)
        yield jobs


@slow
@pytest.mark.parametrize("row", COMMANDS + CHANGES)
def test_the_losses_of_what_to_try(row, to_try):
    assert f"held-out loss: {row[-2]} " in to_try[row[0]].result()


def test_the_changes_to_try_fit_the_file():
    for old, _, _, _ in table_rows(README, "in `microgpt.py`, replace"):
        assert SOURCE.count(old.strip("`")) == 1, old


def sections():
    """The name of each section of the file, its first line, and its last line."""
    starts = re.findall(r"^# ## (\d\. .*?) #+$", SOURCE, re.M)
    lines = SOURCE.split("\n")
    numbers = [i for i, line in enumerate(lines, 1) if line.startswith("# ## ")]
    ends = [number - 1 for number in numbers[1:]] + [len(lines) - 1]
    return [list(section) for section in zip(starts, numbers, ends)]


def test_the_map_has_the_lines_of_each_section():
    expected = [[name, f"{first}-{last}"] for name, first, last in sections()]
    assert len(expected) == 8
    assert [row[:2] for row in table_rows(README, "section")] == expected


def test_the_number_of_parameters_is_right_wherever_it_stands():
    letters = list("abcdefghijklmnopqrstuvwxyz")
    assert "4,192" in README and "4,192" in SOURCE
    assert len(microgpt.Model(letters, microgpt.random).params) == 4192
    wider = microgpt.Model(letters, microgpt.random, n_embd=32)
    assert f"{len(wider.params):,} parameters" in README


def test_the_golden_numbers_are_printed():
    rows = table_rows(TESTS, "| default | two layers")
    for column, golden in ((1, DEFAULT), (2, TWO_LAYERS)):
        numbers = [*golden["losses"], golden["held-out"]]
        assert [row[column] for row in rows] == [f"{number:.12f}" for number in numbers]
        assert " ".join(golden["samples"]) in " ".join(TESTS.split())


def test_the_losses_to_compare_with_are_right(default_run):
    bigrams = bigram_loss(default_run.train_docs, default_run.held_out)
    assert f"| {bigrams:.4f} | counting" in README
    assert f"| {default_run.held_out_loss:.4f} | this model" in README


def test_every_file_that_is_named_exists():
    for page, folder in ((README, PROJECT), (TESTS, PROJECT / "tests")):
        links = re.findall(r"\]\(([^)#]+)\)", page)
        links += re.findall(r'(?:src|srcset)="([^"]+)"', page)
        assert links
        for link in links:
            assert link.startswith("https://") or (folder / link).exists(), link


def test_the_test_command_is_the_one_that_ci_runs():
    ci = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert line in TESTS
    assert "README.md" in ci and line.endswith("-m pytest")


def test_the_page_is_made_by_the_commands_of_the_readme():
    workflow = (PROJECT / ".github/workflows/page.yml").read_text(encoding="utf-8")
    (first,) = re.findall(r"sed -n '/\^(.*?)/,", workflow)
    assert len(re.findall(f"^{first}", README, re.M)) == 1


def test_the_readme_can_be_read_in_ten_minutes():
    assert len(README.split()) <= 2200


# ---- the file itself -----------------------------------------------------------------


def test_the_file_keeps_to_its_form():
    lines = SOURCE.split("\n")
    assert SOURCE.isascii()
    assert max(map(len, lines)) <= 88
    for line in lines:  # otherwise pycco does not find the end of a docstring
        assert line.count('"""') in (0, 2) or line in ('"""', lines[0])
    tree = ast.parse(SOURCE)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    assert all(f.end_lineno - f.lineno < 30 for f in functions)
    assert not any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(tree))


def test_the_algorithm_is_short():
    first_of_section_8 = sections()[7][1]
    assert first_of_section_8 - 1 <= 310


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
