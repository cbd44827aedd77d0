#!/usr/bin/env python3
"""Checks that what the documents say is so: links, tests, flags, metrics; and that nothing is said of other places.

    python3 tests/docs.py            check; the last line counts
    python3 tests/docs.py --write    write docs/flags.md anew from the table of flags
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ROOT / "docs/flags.md"
HEAD = """# Flags

Every flag and environment variable of `daprd` 1.18.2 is taken, with one dash or two, as `--flag value` or `--flag=value`. Those of
Outrigger alone come first; each has an environment variable, which the flag overrides. A flag that does not exist is refused, with
the nearest one that does. `outrigger sidecar --help` prints the same list. A duration is written with its units: `500ms`, `10s`,
`1m30s`.

`outrigger run` takes them all; those that say so have no effect elsewhere.
"""
VARIABLES = """
## Environment variables that are no flags

| Variable | |
|---|---|
| `DAPR_API_TOKEN` | what callers of our APIs must send |
| `APP_API_TOKEN` | what we send to the app |
| `NAMESPACE`, `POD_NAME`, `DAPR_HOST_IP` | who and where we are |
| `DAPR_HTTP_DISABLE_H2C` | HTTP/1.1 only on the HTTP API |
| `DAPR_GRPC_MAX_CONN_IDLE`, `DAPR_GRPC_CONN_COLLECTOR_INTERVAL` | when idle connections to peers are closed (3m), and how often they are looked at (45s) |
| `OUTRIGGER_PRESTOP_TOKEN` | what those must bring who drain over the public port, see `--prestop-on-public-port` |
| `POD_TERMINATION_GRACE_PERIOD_SECONDS` | see `--drain-timeout` |
"""


def flags():
    """(name, default, meaning, ours, deprecated) of every flag that is shown."""
    text = (ROOT / "crates/config/src/flags/table.rs").read_text()
    row = re.compile(r'^    (dapr|ours)\("([a-z0-9-]+)", "([^"]*)", .*, "((?:[^"\\]|\\.)*)"\)((?:\.\w+\([^)]*\))*),$', re.M)
    found = []
    for whose, name, default, meaning, more in row.findall(text):
        if ".hidden()" not in more:
            instead = re.search(r'\.deprecated\("([^"]*)"\)', more)
            found.append((name, default, meaning.replace('\\"', '"'), whose == "ours", instead and instead[1]))
    return found


def flags_page():
    text = HEAD
    for title, ours in (("Flags of Outrigger", True), ("Flags of daprd", False)):
        text += f"\n## {title}\n\n| Flag | Default | |\n|---|---|---|\n"
        for name, default, meaning, whose, instead in sorted(flags()):
            if whose != ours:
                continue
            variable = f" `OUTRIGGER_{name.upper().replace('-', '_')}`" if ours else ""
            old = f"; deprecated, use {instead}" if instead else ""
            shown = f"`{default}`" if default else ""
            text += f"| `--{name}`{variable} | {shown} | {meaning.replace('|', chr(92) + '|')}{old} |\n"
    return text + VARIABLES


def tracked(*patterns):
    """Files of the repository, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
        return [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        skip = {"target", "node_modules", ".test-env", ".git"}
        return [path for pattern in patterns for path in ROOT.rglob(pattern) if not skip & set(path.parts)]


def anchors(text):
    found = set()
    for title in re.findall(r"^#+ (.*)$", text, re.M):
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


def links():
    for page in tracked("*.md"):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                yield f"{page.relative_to(ROOT)}: there is no {target}"
            elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
                yield f"{page.relative_to(ROOT)}: there is no section {target}"


def guards():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index("## Invariants"):text.index("## Across everything")]
    sources = "\n".join(path.read_text() for path in tracked("*.rs"))
    names = [name for name in re.findall(r"`(\w+)`", table) if name.count("_") >= 2]
    if len(names) < 20:
        yield "ARCHITECTURE.md: the table of invariants is not understood"
    for name in names:
        # A test of its own, or a case of a suite.
        if not re.search(rf"\bfn {name}\b", sources):
            yield f"ARCHITECTURE.md: there is no test {name}"


def places():
    """Paths in the tables of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in re.findall(r"`((?:crates|components|tests|xtask|docs|lifecycle|sidecar|blocks|wire|http|grpc|channel|config)/[\w/.*-]+)`", text):
        if not any(list(ROOT.glob(start + path.rstrip("/"))) for start in ("", "crates/")):
            yield f"ARCHITECTURE.md: there is no {path}"


def flag_list():
    if len(flags()) < 60:
        yield "crates/config/src/flags/table.rs: the table is not understood"
    if not FLAGS.exists() or FLAGS.read_text() != flags_page():
        yield "docs/flags.md: not as the table of flags; run python3 tests/docs.py --write"
    known = {name for name, *_ in flags()} | {"namespace", "help", "flag", "json", "method", "resources-path"}
    # Flags of commands that ask a running sidecar.
    known |= {"for", "timeout", "port", "address", "url", "format", "once", "since", "component", "kind", "changes", "resume", "no-color"}
    for page in tracked("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/*.md", "docs/**/*.md"):
        for name in re.findall(r"`--([a-z][a-z0-9-]*)[=` ]", page.read_text()):
            if name not in known and name not in {"stay", "package", "release"}:
                yield f"{page.relative_to(ROOT)}: there is no flag --{name}"


def metrics():
    source = (ROOT / "crates/telemetry/src/metrics.rs").read_text()
    ours = set(re.findall(r'"(outrigger_\w+)"', source))
    ours.discard("outrigger_")
    page = (ROOT / "docs/operations.md").read_text()
    told = set(re.findall(r"^\| `(outrigger_\w+)`", page, re.M))
    for name in sorted(ours - told):
        yield f"docs/operations.md: {name} is missing"
    for name in sorted(told - ours):
        yield f"docs/operations.md: there is no metric {name}"


def differences():
    """Each has a reason, and says what switches it off, even if nothing does."""
    for number, line in enumerate((ROOT / "docs/differences.md").read_text().split("\n"), 1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and len(cells) != 4 or any(not cell for cell in cells):
            yield f"docs/differences.md:{number}: daprd, Outrigger, reason and switch are wanted, each with a text"


def decisions():
    index = (ROOT / "docs/decisions/README.md").read_text()
    numbers = set()
    for page in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        text = page.read_text()
        numbers.add(page.name[:4])
        if f"({page.name})" not in index:
            yield f"docs/decisions/README.md: {page.name} is missing"
        for part in ("## Context", "## Options", "## Choice", "## What we give up"):
            if part not in text:
                yield f"{page.relative_to(ROOT)}: `{part}` is missing"
    if len(numbers) != len(list((ROOT / "docs/decisions").glob("[0-9]*.md"))):
        yield "docs/decisions: two records have one number"


def main():
    if sys.argv[1:] == ["--write"]:
        FLAGS.write_text(flags_page())
        return
    checks = [links, guards, places, flag_list, metrics, differences, decisions]
    failed = 0
    for check in checks:
        faults = list(check())
        failed += bool(faults)
        print(f"{check.__name__}: {'ok' if not faults else 'failed'}")
        for fault in faults:
            print(f"  {fault}")
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
