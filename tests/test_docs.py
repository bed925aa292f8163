"""What the pages say exists: commands with their options, keys, files, links, and the names of functions."""

import ast
import re
import shlex
from functools import cache

import pytest

from san_cliptrase.commands.main import COMMANDS, TRAIN_NET, Group
from san_cliptrase.commands.parser import Parser
from san_cliptrase.config import KEYS, REMOVED, RENAMED
from tests.conftest import ROOT
from tests.test_layering import LEVELS

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("convergence/*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
PLACEHOLDER = re.compile(r"[A-Z_]+")  # FILE, DIR, REPORT, ...
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def code_of(page):
    """Lines of a page's blocks of shell code, and then its code spans, which may be parts of a command."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks = [code for language, code in fenced if language in ("", "bash", "sh")]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^ {4,}\S.*\n)+", rest, flags=re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines], re.findall(r"`([^`\n]+)`", rest)


def commands_of(page):
    """(program, arguments, whether the command is whole) of everything that runs a program of this repository."""
    lines, spans = code_of(page)
    for line in [*lines, *spans]:
        if not re.search(r"san-cliptrase |\.py\b|-m san_cliptrase|-m pytest|^make ", line):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a piece of Python, not a command
            continue
        for part in split(words, "&&"):
            while part and re.fullmatch(r"[A-Za-z_]\w*=.*", part[0]):
                part = part[1:]
            if part[:1] == ["srun"] or part[:1] == ["torchrun"]:
                part = ["python", *part[next(i for i, word in enumerate(part) if word.endswith(".py")) :]]
            if part and part[0].removeprefix(".venv/bin/") in ("python", "san-cliptrase", "make") and len(part) > 1:
                yield part[0].removeprefix(".venv/bin/"), part[1:], line in lines


def split(words, separator):
    parts = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


class Mention(Parser):
    """Looks whether the options exist, and leaves it at that."""

    def parse_args(self, words):
        unknown = [word for word in words if word.startswith("--") and word not in self._option_string_actions]
        assert not unknown, f"no option {unknown}"
        raise Mentioned

    parse_intermixed_args = parse_args


class Mentioned(Exception):
    pass


def check_own_command(node, words, whole):
    """Parse a command line of the package as the package does, then look for the files and keys that it names."""
    while isinstance(node, Group):
        if words[:1] in (["--help"], ["--version"]) or (not whole and (not words or PLACEHOLDER.fullmatch(words[0]))):
            return
        assert words and words[0] in node.commands, f"no command {words[:1]}"
        node, words = node.commands[words[0]], words[1:]
    if "--help" in words:
        return
    try:
        options = vars(node.parse((Parser if whole else Mention)("documentation", ""), words))
    except Mentioned:
        return
    config = options.get("config") or options.get("config_file")
    if config and not PLACEHOLDER.fullmatch(re.sub(r"\.\w+$", "", str(config))):
        assert (ROOT / config).is_file(), f"no file {config}"
    overrides = options.get("opts") or options.get("overrides") or []
    assert len(overrides) % 2 == 0, overrides
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        assert key in KEYS, f"no key {key}"
        assert KEYS[key].rule.holds(literal(value)), f"{key} must be {KEYS[key].rule.about}, not {value}"


def literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@cache
def options_of(path):
    """Options that a script adds to its parser, or modules of this repository that it imports do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "add_argument",
            "add",
        ):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("benchmarks", "san_cliptrase.lab")):
            module = ROOT / (node.module.replace(".", "/") + ".py")
            found |= options_of(module) if module.is_file() else set()
    return found


def check_script(path, words):
    assert path.is_file(), f"no file {path.relative_to(ROOT)}"
    own = words[: words.index("--")] if "--" in words else words
    unknown = [word for word in own if word.startswith("--") and word not in options_of(path)]
    assert not unknown, f"{path.name} has no {unknown}; it has {sorted(options_of(path))}"


def check(program, words, whole=True):
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert all(word in targets for word in words if "=" not in word), words
    elif program == "san-cliptrase" or words[:2] == ["-m", "san_cliptrase"]:
        check_own_command(COMMANDS, words if program == "san-cliptrase" else words[2:], whole)
    elif words[0] in ("train_net.py", "my_train.py"):  # the latter is shown in docs/datasets.md
        check_own_command(TRAIN_NET, words[1:], whole)
    elif words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[2:] if "/" in word), words
    elif words[0] == "-m":
        check_script(ROOT / (words[1].replace(".", "/") + ".py"), words[2:])
    elif words[0].endswith(".py"):
        check_script(ROOT / words[0], words[1:])


@every_page
def test_commands_can_be_given_so(page, capsys):
    wrong = []
    for program, words, whole in commands_of(page):
        try:
            check(program, words, whole)
        except AssertionError as error:
            wrong.append(f"{program} {shlex.join(words)}: {str(error).splitlines()[0]}")
        except SystemExit as end:
            if end.code:
                wrong.append(f"{program} {shlex.join(words)}: {capsys.readouterr().err.strip()}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_at_all():
    found = [words[0] for page in PAGES for program, words, _ in commands_of(page) if program == "san-cliptrase"]
    assert {"predict", "train", "evaluate", "data", "export", "convergence", "reproduce", "demo"} <= set(found)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("san-cliptrase", "predict photo.jpg --output out --vocabulary sky --no-vote"),
        ("san-cliptrase", "segment photo.jpg"),
        ("san-cliptrase", "evaluate --config configs/none.yaml"),
        ("python", "train_net.py --config configs/san.yaml MODEL.CLIPTRASE.EPS 1"),
        ("python", "train_net.py --config configs/san.yaml SOLVER.MAX_ITER many"),
        ("python", "benchmarks/speed.py --fast"),
        ("python", "-m san_cliptrase.predict photo.jpg"),
        ("make", "everything"),
    ],
)
def test_a_wrong_command_is_seen(program, line):
    with pytest.raises((AssertionError, SystemExit)):
        check(program, line.split())


@every_page
def test_keys_exist(page):
    named = re.findall(
        r"\b(?:MODEL|TEST|SOLVER|INPUT|DATASETS|DATALOADER|FIGURES)\.[A-Z][A-Z_.]*[A-Z]", page.read_text()
    )
    groups = {".".join(name.split(".")[:count]) for name in KEYS for count in range(1, name.count(".") + 1)}
    earlier = {*RENAMED, *REMOVED} if page.name == "configuration.md" else set()
    assert not set(named) - set(KEYS) - groups - earlier


def anchors(path):
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*NAMES, "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_index():
    index = DOCS / "README.md"
    targets = re.findall(r"\]\(([^)#]+)", index.read_text(encoding="utf-8"))
    assert {*PAGES} - {ROOT / "README.md", index} <= {(DOCS / target).resolve() for target in targets}


@cache
def names_in(path):
    """What a module defines, methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        found |= {getattr(target, "name", getattr(target, "id", "")) for target in targets}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def source(name):
    """The module that a page calls ``name``: under the package, or the repository."""
    return next((path for path in (ROOT / "san_cliptrase" / name, ROOT / name) if path.exists()), None)


@every_page
def test_python_imports_what_exists(page):
    missing = []
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("san_cliptrase"):
                path = ROOT / node.module.replace(".", "/")
                text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
                missing += [alias.name for alias in node.names if not re.search(rf"\b{alias.name}\b", text)]
    assert not missing


@every_page
def test_files_and_functions_exist(page):
    """``a/b.py`` exists, and so do the names in "`a/b.py`: `one`, `two`"; "the same" repeats the file before it."""
    text, wrong = page.read_text(encoding="utf-8"), []
    named = r"`([\w./]+\.py)`|the same(?=: `)"
    last = None
    for match in re.finditer(rf"(?:{named})(: `[^`\n]+`(?:(?:, | and )`[^`\n]+`)*)?", text):
        last = match[1] or last
        path = source(last)
        if path is None:
            if "/" in last:  # others are files of the reader or of other projects
                wrong.append(last)
            continue
        for name in re.findall(r"`([A-Za-z_][\w.]*)`", match[2] or ""):
            if not name.endswith(".py") and name not in names_in(path):
                wrong.append(f"{last}: {name}")
    assert not wrong


def test_rooms_are_those_that_the_imports_obey():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n| rooms |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    rooms = [{room.strip("/") for room in re.findall(r"`([\w/]+?)(?:\.py)?`", row)} for row in rows]
    assert rooms == LEVELS
