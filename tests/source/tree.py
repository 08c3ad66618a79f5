# SPDX-License-Identifier: Apache-2.0
"""What the source checks share: the files of the project."""
import pathlib
import subprocess

TOP = pathlib.Path(__file__).resolve().parent.parent.parent


def files(*suffixes):
    """Tracked files, and untracked ones that are not ignored, with one of these suffixes."""
    names = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TOP, check=True,
                           stdout=subprocess.PIPE).stdout.decode().split("\0")
    return sorted(TOP / name for name in set(names) if name.endswith(suffixes) and (TOP / name).is_file())


def name(path):
    return str(path.relative_to(TOP))


def finish(complaints):
    for complaint in complaints:
        print(complaint)
    print(f"{len(complaints)} complaints")
    raise SystemExit(bool(complaints))
