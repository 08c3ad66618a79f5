#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Calls and names that the project refuses, and what every file must have."""
import re

from tree import files, finish, name

DISCOURAGED = [
    (r"\b(strcpy|strcat|sprintf|gets|strtok|atoi|atol|rand|srand|usleep|sleep)\s*\(", "refused function"),
    (r"\b(TODO|FIXME|XXX|HACK)\b", "left undone"),
    (r"\bassert\s*\(", "assert: refuse bytes, bug_if for our own faults"),
    (r"\b\w*(ctx|mgr)\b", "abbreviated name"),
]
CLOCK = re.compile(r"\b(clock_gettime|gettimeofday|time)\s*\(")

complaints = []
for path in files(".c", ".h"):
    mine = name(path)
    text = path.read_text()
    if not text.startswith("/* SPDX-License-Identifier: Apache-2.0 */"):
        complaints.append(f"{mine}: no SPDX line")
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r'"(\\.|[^"\\])*"', '""', line.split("//")[0])
        code = re.sub(r"/\*.*?\*/", "", code)
        if line.lstrip().startswith(("*", "/*")):
            code = "".join(re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", line))
        for pattern, why in DISCOURAGED:
            if mine.startswith("tests/") and why != "left undone":
                continue
            if re.search(pattern, code):
                complaints.append(f"{mine}:{number}: {why}: {line.strip()[:80]}")
        if CLOCK.search(code) and mine != "common/clock.c" and not mine.startswith("tests/"):
            complaints.append(f"{mine}:{number}: only common/clock.c asks the time")
        if line.rstrip() != line:
            complaints.append(f"{mine}:{number}: space at the end of the line")
for path in files(".py", ".sh"):
    if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]:
        complaints.append(f"{name(path)}: no SPDX line")
finish(complaints)
