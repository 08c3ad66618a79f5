#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every test that is written is also run: tests/meson.build names each script and each unit test; unit tests belong to a source file.
Every fault of tests/mutants has its place in the source, and its test is there: many of them are tried in the suite soak only."""
import re
import tomllib

from tree import TOP, files, finish, name

build = "\n".join(path.read_text() for path in (TOP / "tests").rglob("meson.build"))
names = set(re.findall(r"'([A-Za-z0-9_]+)'", build)) | set(re.findall(r"'(?:[a-z]+/)?([A-Za-z0-9_]+)\.(?:py|c)'", build))
complaints = []
for path in files(".py", ".c"):
    mine = name(path)
    if re.match(r"tests/(system|interop|source|model|simulation)/[^/]+\.py$", mine) and path.stem not in names | {"tree"}:
        complaints.append(f"{mine}: tests/meson.build does not run it")
    if re.match(r"tests/unit/test_[^/]+\.c$", mine) and path.stem.removeprefix("test_") not in names:
        complaints.append(f"{mine}: tests/meson.build does not run it")
for path in sorted((TOP / "tests/mutants").glob("*.toml")):
    mutant = tomllib.loads(path.read_text())
    places = (TOP / mutant["file"]).read_text().count(mutant["find"])
    if places != 1:
        complaints.append(f"{name(path)}: {mutant['file']} holds its text {places} times")
    if mutant["test"] not in names:
        complaints.append(f"{name(path)}: tests/meson.build has no test '{mutant['test']}'")
finish(complaints)
