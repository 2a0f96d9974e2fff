"""The papers: links lead somewhere, generated pages are current, and what a reader would type works as it stands."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

import cyclescan
from cyclescan.config import Config
from docs import commands_page
from tests.conftest import SETTINGS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "saved_models/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n$")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)\s]+)")
OURS = ("python -m cyclescan", "python -m data_prep")
SHELL, PYTHON = ("sh", "bash", "shell", "console"), ("python", "py")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


# --- links ---


def anchors(page: str) -> set[str]:
    """What a link to a heading of the page may name."""
    headings = re.findall(r"^#{1,6} (.+)$", FENCE.sub("", read(page)), re.MULTILINE)
    return {slugify(re.sub(r"[`*]|\]\([^)]*\)", "", heading), "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(without_code(read(page))):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), f"{page} links to {link}"
        if anchor and target.suffix == ".md":
            name = target.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(name), f"{page} links to {link}, which has {sorted(anchors(name))}"


def test_a_broken_link_is_seen():
    assert LINK.findall("[a](b.md#c) ![d](e.png) [f](https://g)") == ["b.md#c", "e.png"]
    assert "the-recipe" in anchors("docs/explanation/recipe.md")


def test_every_page_has_its_place_in_the_site():
    text = read("mkdocs.yml")
    for page in PAGES:
        if page.startswith("docs/"):
            assert f" {page.removeprefix('docs/')}" in text, f"{page} is not in the nav of mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, made as .ci/run makes it."""
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_has_copies_of_what_pages_link_to_outside_docs(site):
    page = (site / "lab" / "index.html").read_text()
    assert 'href="../repository/benchmarks/results/quality/"' in page
    assert (site / "repository/benchmarks/results/quality/index.html").exists()
    picture = site / "repository/benchmarks/results/quality.png"
    assert picture.read_bytes() == (ROOT / "benchmarks/results/quality.png").read_bytes()
    # back from a copy into the site itself
    assert 'href="../../how-to/add-a-layer/"' in (site / "repository/CONTRIBUTING/index.html").read_text()


def test_equations_are_mathml(site):
    page = (site / "explanation/physics/index.html").read_text()
    assert page.count("<math") > 50
    assert "arithmatex" not in page
    assert "<mfrac>" in page


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, f"{page}: {loaded}"


# --- generated pages, lengths ---


def test_the_page_of_commands_is_current():
    """But for where lines are broken, which differs between versions of Python."""
    written, now = (" ".join(text.split()) for text in (commands_page.PAGE.read_text(), commands_page.page()))
    assert written == now, "write it again: python -m docs.commands_page"


@pytest.mark.parametrize(("page", "most"), [("README.md", 140), ("CONTRIBUTING.md", 120)])
def test_first_pages_are_short(page, most):
    assert len(read(page).splitlines()) <= most


def test_readme_says_at_once_what_it_must_not_be_used_for():
    lines = read("README.md").splitlines()
    assert lines.index("## What it must not be used for") <= 12


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == cyclescan.__version__
    assert citation["license"] == "Apache-2.0"
    assert all(entry["title"] and entry["authors"] for entry in (citation, *citation["references"]))


@pytest.mark.parametrize("form", sorted(p.name for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_forms_of_issues_ask(form):
    fields = [
        part for part in yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{form}"))["body"] if part["type"] != "markdown"
    ]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_the_workflow_runs_what_ci_is():
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step] == [".ci/run"]


# --- commands in pages ---


def blocks(page: str) -> list[tuple[str, str, str | None]]:
    """(language, text, why it is not run or None) of each fenced block, in order."""
    text = read(page)
    found = []
    for match in FENCE.finditer(text):
        marked = NOT_RUN.search(text[: match.start()])
        found.append((match[1], match[2], marked[1] if marked else None))
    return found


def lines_of(block: str) -> list[str]:
    """The commands of a block: one a line, or more lines joined by backslashes."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def command_of(line: str) -> tuple[str, list[str]] | None:
    """How one of our commands is called (as in `commands_page.commands`), and its arguments; None for anything else."""
    words = shlex.split(line)
    if words[:1] == ["cyclescan"] and len(words) > 1:
        words = ["python", "-m", "data_prep" if words[1] == "data-prep" else f"cyclescan.{words[1]}", *words[2:]]
    if words[:2] != ["python", "-m"] or len(words) < 3:
        return None
    name, rest = words[2], words[3:]
    if name == "data_prep" and rest:
        return f"python -m data_prep {rest[0]}", rest[1:]
    return f"python -m {name}", rest


def shown_commands() -> list[tuple[str, str]]:
    """(page, line) of each command line that a page shows, run or not."""
    found = []
    for page in PAGES:
        shown = [line for language, block, _ in blocks(page) if language in SHELL for line in lines_of(block)]
        if page == "README.md":  # its commands are indented, so that the first grep finds them as they are typed
            shown += re.findall(r"^ {4}(\S.*)$", read(page), re.MULTILINE)
        found += [(page, part.strip()) for line in shown for part in line.split("&&")]
    return found


def test_commands_and_options_that_pages_show_exist():
    known = commands_page.commands()
    options = 0
    for page, line in shown_commands():
        called = command_of(line.replace(".venv/bin/python", "python"))
        if not called or not called[0].startswith(OURS) or called[0].endswith("--help"):
            continue
        name, arguments = called
        assert name in known, f"{page}: {line}"
        for word in itertools.takewhile(lambda word: word != "--", arguments):
            if word.startswith("--"):
                assert re.search(rf"{re.escape(word)}\b", known[name]), f"{page}: {name} has no {word}"
                options += 1
    assert options > 30


def test_settings_that_pages_show_exist():
    shown = []
    for page in PAGES:
        if not page.startswith(("docs/lab/", "docs/how-to/change-the-loss")):
            shown += re.findall(r"--set ((?:[a-z_0-9]+=[\w.,]+ ?)+)", read(page).replace("\n", " "))
    for settings in shown:
        Config(lambda_pair=1.0).with_settings(word.rstrip(".,") for word in settings.split())
    assert len(shown) > 5


# --- what get-started and how-to show is run ---

RUN = [page for page in PAGES if page.startswith(("docs/get-started/", "docs/how-to/"))]
OWN_DATA = "docs/get-started/own-data.md"
# Sizes are exchanged for tiny ones; else a line is run as it stands, with /scans a folder of digital knees.
TINY = {"--shape": ["8", "16", "16"], "--spacing-mm": ["12", "8.75", "8.75"], "--subjects": ["6"]}
# what a line gets that does not say it
MORE = {
    "python -m data_prep phantom": {"--shape": TINY["--shape"], "--workers": ["1"]},
    "python -m data_prep build": {"--workers": ["1"]},
    "python -m data_prep pair": {"--workers": ["1"]},
    "python -m cyclescan.demo": {"--shape": TINY["--shape"], "--subjects": ["4"], "--workers": ["1"]},
    "python -m cyclescan.train": {"--checkpoint-every": ["2"]},
}
TRAINS = ("python -m cyclescan.train", "python -m cyclescan.demo")
# one kind of step, of the three or four of a preset, each of which takes seconds to make
PAIRS_ALONE = ["warmup=1", "back_from=1"]


def tiny(name: str, arguments: list[str]) -> list[str]:
    """The arguments of a command, with tiny sizes."""
    own = list(itertools.takewhile(lambda word: word != "--", arguments))
    for_runner = arguments[len(own) :]
    for option, values in TINY.items():
        if option in own:
            place = own.index(option) + 1
            own[place : place + len(values)] = values
    for option, values in MORE.get(name, {}).items():
        own += [] if option in own else [option, *values]
    if name in TRAINS:
        own += ["--set", *SETTINGS, *PAIRS_ALONE, "steps=3"]
    return own + for_runner


def run_line(line: str) -> None:
    """Run a line of a shell block in the working folder; ours in this process, so that TensorFlow is imported once."""
    called = command_of(line)
    if not called or called[0].endswith("--help") or called[0] not in commands_page.commands():
        script = re.sub(r"^cyclescan ", f"{sys.executable} -m cyclescan ", line)
        done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return
    name, arguments = called
    module = name.split()[2]
    arguments = tiny(name, arguments)
    if module == "data_prep":
        module, arguments = "data_prep.__main__", [name.split()[3], *arguments]
    code = importlib.import_module(module).main(arguments)
    assert not code, f"{line} ended with {code}"


def run_page(page: str) -> int:
    """Run the blocks of a page in the working folder; returns how many there were."""
    namespace, ran = {}, 0
    for language, block, why_not in blocks(page):
        if language not in (*SHELL, *PYTHON) or why_not:
            continue
        here = block.replace("/scans", "scans")
        if language in SHELL:
            for line in lines_of(here):
                run_line(line)
        else:
            exec(compile(here, page, "exec"), namespace)
        ran += 1
    return ran


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which somebody has followed "your own data": scans, records, a run, its report."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("CYCLESCAN_KEY_FILE", str(folder / "pseudonym.key"))
        run_line("python -m data_prep phantom --out scans --subjects 6")
        Path("scans/new").mkdir()
        Path("scans/truth").mkdir()
        for name, source in (("new", "ciss"), ("truth", "dess")):
            Path(f"scans/{source}/sub-0001.nii.gz").rename(f"scans/{name}/sub-0001.nii.gz")
        run_page(OWN_DATA)
        yield folder


@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_works(page, desk, monkeypatch):
    if page == OWN_DATA:
        assert (desk / "records" / "pairs").is_dir()
        assert (desk / "translated" / "sub-0001.nii.gz").exists()
        assert (desk / "run" / "report.html").stat().st_size > 10_000
        return
    monkeypatch.chdir(desk)
    run_page(page)


@pytest.mark.parametrize("page", RUN)
def test_a_block_that_is_not_run_says_why(page):
    assert read(page).count("<!-- not run:") == sum(why is not None for _, _, why in blocks(page))
    for language, block, why in blocks(page):
        assert language, f"{page} has a block without a language: {block[:60]}"
        assert why is None or len(why.split()) >= 2, f"{page}: {why}"


def test_tiny_sizes_take_the_place_of_those_shown():
    given = ["--out", "records", "--shape", "32", "128", "128", "--n4", "--", "--x"]
    changed = tiny("python -m data_prep build", given)
    assert changed == ["--out", "records", "--shape", "8", "16", "16", "--n4", "--workers", "1", "--", "--x"]
    assert tiny("python -m cyclescan.train", [])[-1] == "steps=3"
    assert tiny("python -m cyclescan.export", ["--run", "run"]) == ["--run", "run"]
