#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""No file over 600 lines, no header over 150, no function over 80 (Universal Ctags finds them)."""
import subprocess

from tree import TOP, files, finish, name

FILE, HEADER, FUNCTION = 600, 150, 80

complaints = []
sources = files(".c", ".h", ".py")
for path in sources:
    lines = path.read_text().count("\n")
    limit = HEADER if path.suffix == ".h" else FILE
    if lines > limit:
        complaints.append(f"{name(path)}: {lines} lines, at most {limit}")
listed = subprocess.run(["ctags", "-L", "-", "-x", "--languages=C,Python", "--c-kinds=f", "--python-kinds=fm",
                         "--_xformat=%{line}\t%{end}\t%F\t%N"], cwd=TOP, check=True, stdout=subprocess.PIPE, text=True,
                        input="\n".join(name(path) for path in sources)).stdout
counted = 0
for line in listed.splitlines():
    first, last, path, function = line.split("\t")
    counted += 1
    if last and int(last) - int(first) + 1 > FUNCTION:
        complaints.append(f"{path}:{first}: {function} has {int(last) - int(first) + 1} lines, at most {FUNCTION}")
if counted < 100:
    complaints.append(f"only {counted} functions found: is ctags Universal Ctags?")
finish(complaints)
