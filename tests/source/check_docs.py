#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every link and every file name in the documents leads somewhere; every function they name exists."""
import re

from tree import TOP, files, finish, name

FOLDERS = ("broker/", "workers/", "imaged/", "clients/", "common/", "schemas/", "deploy/", "tests/", "docs/")
source = "\n".join(path.read_text() for path in files(".c", ".h", ".py"))
complaints = []
for path in files(".md"):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{name(path)}:{number}:"
        for target in re.findall(r"\]\(([^)#]+)", line):
            if "://" not in target and not (path.parent / target).exists():
                complaints.append(f"{where} dead link {target}")
        for quoted in re.findall(r"`([^` ]+)`", line):
            if quoted.startswith(FOLDERS) and "*" not in quoted and "<" not in quoted and "…" not in quoted and not re.search(r"[A-Z]{4}", quoted):
                if not (TOP / quoted.split(":")[0]).exists():
                    complaints.append(f"{where} no file {quoted}")
            function = re.fullmatch(r"([a-z][a-z0-9_]*)\(\)", quoted)
            if function and not re.search(rf"\b{function[1]}\b", source):
                complaints.append(f"{where} no function {quoted}")
finish(complaints)
