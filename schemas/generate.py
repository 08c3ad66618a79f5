#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From schemas/*.toml: C code, test vectors, docs/messages.md, and the lock on what was released.  README.md has the language.

    generate.py --code DIR       DIR/NAME.gen.h and DIR/NAME.gen.c for every file
    generate.py --vectors DIR    DIR/vectors.txt and DIR/codecs.gen.c, for tests/wire
"""

import argparse
import sys
from pathlib import Path

from generator import c_code, language, vectors

HERE = Path(__file__).parent


def write_code(schemas, folder):
    for file in schemas.files:
        (folder / f"{file.name}.gen.h").write_text(c_code.header(file))
        (folder / f"{file.name}.gen.c").write_text(c_code.source(file))


def write_vectors(schemas, folder):
    (folder / "vectors.txt").write_text("".join(f"{line}\n" for line in vectors.lines(schemas)))
    (folder / "codecs.gen.c").write_text(vectors.codecs_source(schemas))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=Path, default=HERE, help="folder of the TOML files")
    parser.add_argument("--code", type=Path, metavar="DIR")
    parser.add_argument("--vectors", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    try:
        schemas = language.load(arguments.schemas)
        if arguments.code:
            write_code(schemas, arguments.code)
        if arguments.vectors:
            write_vectors(schemas, arguments.vectors)
    except language.SchemaError as error:
        sys.exit(f"generate.py: {error}")


if __name__ == "__main__":
    main()
