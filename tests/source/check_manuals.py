#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The manual of each daemon explains exactly the options that its table and the common one have."""
import re

from tree import TOP, finish

MANUALS = {
    "broker/main.c": "broker/sluice-broker.8",
    "workers/main.c": "workers/sluice-worker.8",
    "imaged/settings.c": "imaged/sluice-imaged.8",
}
ENTRY = re.compile(r'\{(?:\.name = )?"([a-z-]+)",\s*(?:\.kind = )?OPTION_')


def options_of(source):
    return set(ENTRY.findall((TOP / source).read_text()))


def options_in(manual):
    section = re.search(r"^\.Sh OPTIONS\n(.*?)^\.Sh ", (TOP / manual).read_text(), re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\.It Fl -([a-z-]+)", section[1], re.MULTILINE)) if section else set()


common = options_of("common/options.c")
complaints = [] if "help" in common else ["common/options.c: its table is not found"]
for source, manual in MANUALS.items():
    table, explained = options_of(source), options_in(manual)
    if not table:
        complaints.append(f"{source}: its table is not found")
    complaints += [f"{manual}: --{option} is not explained" for option in sorted((table | common) - explained)]
    complaints += [f"{manual}: --{option} is in no table" for option in sorted(explained - table - common)]
finish(complaints)
