#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include what: the table of docs/architecture.md."""
import re

from tree import files, finish, name

# folder (the longest that fits counts) -> folders it may include from
MAY = {
    "schemas": {"schemas", "common"},
    "common": {"common"},
    "broker/core": {"broker/core", "schemas", "common"},
    "broker": {"broker", "broker/core", "schemas", "common"},
    "workers": {"workers", "schemas", "common"},
    "imaged": {"imaged", "schemas", "common"},
    "clients": {"clients", "schemas", "common"},
}
# what pure code may have of common/, and of the system
PURE = ["broker/core/", "workers/copy_order.", "imaged/qcow2_header."]
PURE_COMMON = {"attributes.h", "check.h", "cleanup.h", "err.h", "array.h", "list.h", "map.h", "endian.h"}
IMPURE_SYSTEM = re.compile(r"^(time|unistd|fcntl|poll|pthread|sys/socket|sys/stat|sys/random|signal)\.h$")
SCHEMAS_COMMON = {"err.h", "attributes.h", "check.h", "cleanup.h"}
# a foreign library -> the files that may include it
FOREIGN = {
    "zmq.h": r"^common/mq[^/]*\.[ch]$",
    "lmdb.h": r"^broker/store_lmdb[^/]*\.[ch]$",
    "msgpack.h": r"^schemas/wire[^/]*\.[ch]$",
    "libdeflate.h": r"^common/decompress\.c$",
    "zstd.h": r"^common/decompress\.c$",
    "jansson.h": r"^clients/[^/]*\.[ch]$",
    "nbdkit-plugin.h": r"^imaged/nbd_plugin\.c$",
}


def folder_of(path):
    return max((folder for folder in MAY if path.startswith(folder + "/")), key=len, default=None)


def complaints_about(path):
    mine = name(path)
    folder = folder_of(mine)
    if folder is None:
        return
    pure = any(mine.startswith(prefix) for prefix in PURE)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not found:
            continue
        what = found[2]
        where = f"{mine}:{number}:"
        if found[1] == "<":
            base = what.split("/")[0] + ("/" + what.split("/")[1] if "/" in what and what.startswith("sys/") else "")
            for header, allowed in FOREIGN.items():
                if (what == header or what.startswith(header[:-2] + "/")) and not re.match(allowed, mine):
                    yield f"{where} {what} may be included only by {allowed}"
            if pure and IMPURE_SYSTEM.match(base):
                yield f"{where} pure code includes {what}"
            continue
        target = folder_of(what)
        if target is None:
            yield f"{where} {what} is not named from the root"
        elif target not in MAY[folder]:
            yield f"{where} {folder}/ may not include {what}"
        elif folder == "schemas" and target == "common" and what.split("/")[-1] not in SCHEMAS_COMMON:
            yield f"{where} schemas/ may not include {what}"
        elif pure and target == "common" and what.split("/")[-1] not in PURE_COMMON:
            yield f"{where} pure code includes {what}"


finish([complaint for path in files(".c", ".h") for complaint in complaints_about(path)])
