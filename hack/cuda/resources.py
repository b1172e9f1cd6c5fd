# SPDX-License-Identifier: Apache-2.0
"""Registers, spills and shared memory of every CUDA kernel.

    resources.py update TABLE LOG...   writes the table from the compiler's logs
    resources.py check  TABLE LOG...   compares the logs with the table

LOG is the output of `nvcc -Xptxas -v`. check fails on any spill, on more
registers or shared memory than the table plus its margin, and on a kernel that
the table lacks. Architectures that were not compiled are not compared.
"""

import re
import subprocess
import sys

# Compiler updates move registers a little; occupancy changes in steps of eight.
REGISTER_MARGIN = 8
COLUMNS = ("architecture", "kernel", "registers", "spilled_bytes", "stack_bytes", "shared_bytes")

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def demangle(names):
    """The kernels' names with their template arguments, without parameters."""
    out = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    short = {}
    for name, line in zip(names, out.stdout.splitlines()):
        line = re.sub(r"\(anonymous namespace\)::|findep::|^void ", "", line)
        short[name] = line[: line.rindex("(")] if "(" in line and line.endswith(")") else line
        short[name] = re.sub(r"\((?:Move|int|bool)\)", "", re.sub(r"\([A-Z]\w*(?:<.*>)?\)$", "", short[name]))
    return short


def read_logs(paths):
    """{(architecture, kernel): (registers, spills, stack, shared)} of the logs."""
    found, key = {}, None
    for path in paths:
        with open(path, encoding="utf-8") as log:
            for line in log:
                if entry := ENTRY.search(line):
                    key = (entry.group(2), entry.group(1))
                    found[key] = [0, 0, 0, 0]
                elif key and (spills := SPILLS.search(line)):
                    found[key][2] = int(spills.group(1))
                    found[key][1] = int(spills.group(2)) + int(spills.group(3))
                elif key and (used := USED.search(line)):
                    found[key][0] = int(used.group(1))
                    shared = SHARED.search(line)
                    found[key][3] = int(shared.group(1)) if shared else 0
    names = demangle(sorted({kernel for _, kernel in found}))
    return {(arch, names[kernel]): tuple(v) for (arch, kernel), v in found.items()}


def read_table(path):
    with open(path, encoding="utf-8") as table:
        rows = [line.rstrip("\n").split("\t") for line in table if not line.startswith("#")]
    return {(r[0], r[1]): tuple(int(v) for v in r[2:]) for r in rows[1:]}


def write_table(path, found):
    with open(path, "w", encoding="utf-8") as table:
        table.write("# SPDX-License-Identifier: Apache-2.0\n")
        table.write("# What ptxas reports; written by `make cuda-resources-update`, checked by\n")
        table.write(f"# `make cuda-resources` with a margin of {REGISTER_MARGIN} registers and none for spills.\n")
        table.write("\t".join(COLUMNS) + "\n")
        for (arch, kernel), values in sorted(found.items()):
            table.write("\t".join([arch, kernel, *map(str, values)]) + "\n")


def complaints(found, table):
    for (arch, kernel), (registers, spills, _, shared) in sorted(found.items()):
        name = f"{kernel} for {arch}"
        if spills > 0:
            yield f"{name} spills {spills} bytes of registers"
        if (arch, kernel) not in table:
            yield f"{name} is not in the table; run `make cuda-resources-update`"
            continue
        known = table[arch, kernel]
        if registers > known[0] + REGISTER_MARGIN:
            yield f"{name} uses {registers} registers; the table has {known[0]} and a margin of {REGISTER_MARGIN}"
        if shared > known[3]:
            yield f"{name} uses {shared} bytes of shared memory; the table has {known[3]}"


def main(arguments):
    if len(arguments) < 3 or arguments[0] not in ("check", "update"):
        sys.exit(__doc__)
    found = read_logs(arguments[2:])
    if not found:
        sys.exit("the logs name no kernel; build with -Xptxas -v")
    if arguments[0] == "update":
        write_table(arguments[1], found)
    bad = list(complaints(found, read_table(arguments[1])))
    print("\n".join(bad) if bad else f"{len(found)} kernels within their registers and shared memory, none spills")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
