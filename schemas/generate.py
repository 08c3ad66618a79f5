#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From schemas/*.toml: C code, test vectors, docs/messages.md, and the lock on what was released.  README.md has the language.

    generate.py --check-lock --code DIR   DIR/NAME.gen.h and NAME.gen.c for every file, and examples.json
    generate.py --vectors DIR             DIR/vectors.txt and codecs.gen.c, for tests/wire
    generate.py --docs FILE               docs/messages.md; --check-docs FILE only compares
    generate.py --lock [KIND/NAME...]     adds new commands and events to schema.lock, and what is named
"""

import argparse
import sys
from pathlib import Path

from generator import c_code, docs, language, lock, vectors

HERE = Path(__file__).parent


def write_code(schemas, folder):
    for file in schemas.files:
        (folder / f"{file.name}.gen.h").write_text(c_code.header(file))
        (folder / f"{file.name}.gen.c").write_text(c_code.source(file))
    (folder / "examples.json").write_text(docs.examples_json(schemas))


def write_vectors(schemas, folder):
    (folder / "vectors.txt").write_text("".join(f"{line}\n" for line in vectors.lines(schemas)))
    (folder / "codecs.gen.c").write_text(vectors.codecs_source(schemas))


def check_docs(schemas, path):
    if path.read_text() != docs.generate(schemas):
        raise language.SchemaError(f"{path.name} is not what the schemas say: run schemas/generate.py --docs {path}")


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=Path, default=HERE, metavar="DIR", help="folder of the TOML files and the lock")
    parser.add_argument("--code", type=Path, metavar="DIR")
    parser.add_argument("--vectors", type=Path, metavar="DIR")
    parser.add_argument("--docs", type=Path, metavar="FILE")
    parser.add_argument("--check-docs", type=Path, metavar="FILE")
    parser.add_argument("--check-lock", action="store_true")
    parser.add_argument("--lock", nargs="*", metavar="KIND/NAME")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    lock_path = arguments.schemas / "schema.lock"
    try:
        schemas = language.load(arguments.schemas)
        if arguments.lock is not None:
            lock.write(schemas, lock_path, arguments.lock)
        if arguments.check_lock:
            lock.check(schemas, lock_path)
        if arguments.code:
            write_code(schemas, arguments.code)
        if arguments.vectors:
            write_vectors(schemas, arguments.vectors)
        if arguments.docs:
            arguments.docs.write_text(docs.generate(schemas))
        if arguments.check_docs:
            check_docs(schemas, arguments.check_docs)
    except language.SchemaError as error:
        sys.exit(f"generate.py: {error}")


if __name__ == "__main__":
    main()
