"""Compiles the CUDA kernels with NVIDIA's own compiler, on a machine without a GPU.

    pip install nvidia-cuda-nvrtc-cu12==12.9.86
    python tests/kernels/compile.py target/release/tweedie

The program prints the very text that it gives to NVRTC (`tweedie gpu source`). For each precision NVRTC makes of it PTX for compute
capability 8.0 and machine code for 8.0 and 9.0, and tells what each kernel takes. A warning, an error or a register that is spilled to
memory fails.
"""

import argparse
import concurrent.futures
import ctypes
import pathlib
import re
import subprocess
import sys

PRECISIONS = ["f64", "f32", "bf16"]
TARGETS = ["compute_80", "sm_80", "sm_90"]


class Nvrtc:
    def __init__(self):
        folders = [pathlib.Path(folder, "nvidia/cuda_nvrtc/lib") for folder in sys.path]
        found = [path for folder in folders for path in folder.glob("libnvrtc.so.*[0-9]")]
        if not found:
            sys.exit("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12==12.9.86")
        self.library = ctypes.CDLL(str(found[0]))

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def result(self, program, what):
        size = ctypes.c_size_t()
        assert getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        text = ctypes.create_string_buffer(size.value)
        assert getattr(self.library, f"nvrtcGet{what}")(program, text) == 0
        return text.raw

    def compile(self, source, options, what):
        """The image, empty where there is none, and the compiler's log."""
        program = ctypes.c_void_p()
        assert self.library.nvrtcCreateProgram(ctypes.byref(program), source, b"tweedie.cu", 0, None, None) == 0
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), arguments)
        log = self.result(program, "ProgramLog").rstrip(b"\0").decode()
        return self.result(program, what) if status == 0 else b"", log


def compile_source(source, target):
    """What each kernel takes, (registers, bytes of shared memory, bytes spilled), and what there is to complain of."""
    # The first line is a comment with the options that the program gives to NVRTC.
    options = source.splitlines()[0].decode().removeprefix("//").split()
    machine = target.startswith("sm_")
    verbose = ["--ptxas-options=-v"] if machine else []
    image, log = Nvrtc().compile(source, [*options, f"--gpu-architecture={target}", *verbose], "CUBIN" if machine else "PTX")
    number = lambda pattern, text: sum(map(int, re.findall(pattern, text)))
    kernels = {}
    for name, text in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.S):
        kernels[name] = number(r"Used (\d+) registers", text), number(r"(\d+) bytes smem", text), number(r"(\d+) bytes spill", text)
    complaints = [line for line in log.splitlines() if line.strip() and not re.match(r"ptxas (info|  )", line)]
    if not image and not complaints:
        complaints.append("no image and no word why")
    declared = re.findall(rb'^extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)', source, re.M)
    if image and machine and {name.decode() for name in declared} != set(kernels):
        complaints.append(f"declared are {sorted(name.decode() for name in declared)}, compiled {sorted(kernels)}")
    return kernels, complaints + [f"{name} spills {figures[2]} bytes" for name, figures in kernels.items() if figures[2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tweedie", help="the program, built")
    tweedie = parser.parse_args().tweedie
    table, complaints = {}, {}
    with concurrent.futures.ProcessPoolExecutor() as pool:
        jobs = {}
        for precision in PRECISIONS:
            source = subprocess.run([tweedie, "gpu", "source", "--precision", precision], check=True, capture_output=True).stdout
            for target in TARGETS:
                jobs[precision, target] = pool.submit(compile_source, source, target)
        for (precision, target), job in jobs.items():
            kernels, unusual = job.result()
            for name, figures in kernels.items():
                table.setdefault(name, {})[precision, target] = figures
            for what in unusual:
                complaints.setdefault(what, []).append(f"{precision} {target}")

    columns = [(p, t) for p in PRECISIONS for t in TARGETS if t.startswith("sm_")]
    print(f"NVRTC {Nvrtc().version()}: registers of a thread / bytes of shared memory of a block + bytes spilled")
    print(f"{'kernel':26}" + "".join(f"{p + ' ' + t:>16}" for p, t in columns))
    for name, row in sorted(table.items()):
        figures = [row.get(column, (0, 0, 0)) for column in columns]
        cells = [f"{registers} / {shared}" + (f" + {spilled}" if spilled else "") for registers, shared, spilled in figures]
        print(f"{name:26}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"{len(table)} kernels, {len(jobs)} compilations")
    if not table:
        complaints["no kernels"] = ["the program"]
    if complaints:
        sys.exit("\n" + "\n".join(f"{', '.join(where)}: {what}" for what, where in complaints.items()))


if __name__ == "__main__":
    main()
