"""Compiles a CUDA kernel as written by cubecl to a shared library for the CPU: translate.py KERNEL.cu LIBRARY.so

Needs clang, and the headers in CUDA_PATH. cubecl's inline PTX (matrix units, asynchronous copies) is replaced by functions of `device.h`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

REGISTERS = [f"const uint32& {name}{i}" for name, count in (("a", 4), ("b", 2)) for i in range(count)]
FLOATS = [f"const float& c{i}" for i in range(4)] + [f"float& d{i}" for i in range(4)]


def matrix_functions(text):
    """The matrix operations that a kernel calls, under cubecl's names."""
    made = []
    for name in sorted(set(re.findall(r"(__ldmatrix_m8n8_\w+?_4x(?:_trans)?)\(", text))):
        transposed = "true" if name.endswith("_trans") else "false"
        made.append(
            f"static void {name}(uint32& a, uint32& b, uint32& c, uint32& d, const void* row)"
            f" {{ uint32 r[4]; load_matrices<{transposed}>(r, row); a = r[0]; b = r[1]; c = r[2]; d = r[3]; }}"
        )
    for name in sorted(set(re.findall(r"(__mma_m16n8k16_\w+)\(", text))):
        element = "__nv_bfloat16" if "bfloat16" in name else "__half"
        made.append(
            f"static void {name}({', '.join(REGISTERS + FLOATS)}) {{ uint32 a[] = {{a0, a1, a2, a3}}, b[] = {{b0, b1}};"
            f" float c[] = {{c0, c1, c2, c3}}, d[4]; multiply_matrices<{element}>(a, b, c, d);"
            " d0 = d[0]; d1 = d[1]; d2 = d[2]; d3 = d[3]; }"
        )
    return "\n".join(made)


def translate(text):
    text = re.sub(r"#include[^\n]*\n", "", text)
    text = re.sub(r"extern __shared__[^\n]*", "unsigned char* dynamic_shared_mem = shared_memory;", text)
    types, kernel = text.split('extern "C"', 1)
    # Between the types and the kernel are wrappers of inline PTX.
    types = re.split(r"(?m)^(?:// Wrapper|template|inline __device__)", types)[0]
    name, parameters = re.search(r"__launch_bounds__\(\d+\)\s*(\w+)\s*\(\s*(.*?)\)\s*\{", kernel, re.S).groups()
    arguments = []
    for index, parameter in enumerate(parameters.split(",")):
        kind = re.sub(r"__restrict__|__grid_constant__", "", parameter).strip()
        kind = re.sub(r"\s*\w+$", "", kind)
        arguments.append(f"*({kind}*)arguments[{index}]")
    kernel = kernel.replace("__grid_constant__", "")
    kernel = re.sub(r"\b(threadIdx|blockIdx|blockDim|gridDim)\b", r"cpu_\1", kernel)
    kernel = re.sub(r"\bwarpSize\b", "32u", kernel)
    return "\n".join([
        '#include "device.h"', types, matrix_functions(text), f'extern "C"{kernel}',
        f"static void body(void** arguments) {{ {name}({', '.join(arguments)}); }}",
        'extern "C" void launch_on_cpu(const unsigned* grid, const unsigned* block, void** arguments)'
        " { run_grid(body, grid, block, arguments); }", "",
    ])


def main():
    source, library = map(pathlib.Path, sys.argv[1:])
    here = pathlib.Path(__file__)
    if library.exists() and all(library.stat().st_mtime > part.stat().st_mtime for part in (here, here.with_name("device.h"))):
        return
    clang = os.environ.get("CLANG") or shutil.which("clang++-19") or "clang++"
    made = source.with_suffix(".cpp")
    made.write_text(translate(source.read_text()))
    built = library.with_suffix(f".{os.getpid()}")
    includes = [f"-I{here.parent}", f"-I{os.environ['CUDA_PATH']}/include"]
    subprocess.run([clang, "-std=c++20", "-O1", "-w", "-Wno-narrowing", "-fPIC", "-shared", *includes, str(made), "-o", str(built)], check=True)
    built.rename(library)


if __name__ == "__main__":
    main()
