"""The kernels for other processors than this one: AVX2 alone, and NEON by cross compiler and emulator."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from prune_utils.deploy.build import SOURCES, variant_here
from prune_utils.deploy.wheel import write_wheel

CHECK = Path(__file__).with_name("kernel_check.cpp")
TORCH = Path(torch.__file__).parent
ROOT = Path(__file__).parents[3]
WAYS = {  # name -> compiler, its flags, what runs the program, pixels in a vector
    "avx2": ("c++", ["-DCPU_CAPABILITY=AVX2", "-DCPU_CAPABILITY_AVX2", "-mavx2", "-mfma", "-mf16c"], [], 8),
    "neon": (
        "aarch64-linux-gnu-g++",
        ["-DCPU_CAPABILITY=DEFAULT", "-DCPU_CAPABILITY_DEFAULT", "-static"],
        ["qemu-aarch64"],
        4,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_is_the_plain_convolution(way, tmp_path):
    compiler, flags, runner, lanes = WAYS[way]
    missing = [tool for tool in (compiler, *runner) if shutil.which(tool) is None]
    cores = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if missing or (way == "avx2" and "avx2" not in cores):
        pytest.skip(f"there is no {missing[0] if missing else 'AVX2'}")
    program = tmp_path / way
    places = [f"-I{TORCH / 'include'}", f"-I{SOURCES}"]
    link = [] if runner else [f"-L{TORCH / 'lib'}", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}"]
    command = [compiler, "-std=c++20", "-O2", "-w", *flags, *places, "-o", str(program), str(CHECK), *link]
    subprocess.run(command, check=True)
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(rf"vectors of {lanes}, largest difference .*\n", done.stdout)


@pytest.mark.slow
def test_an_engine_from_a_wheel_needs_no_compiler(tmp_path):
    if shutil.which(os.environ.get("CXX", "c++")) is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("there is no compiler, or no setuptools")
    path = write_wheel(tmp_path / "wheels", [variant_here()])
    assert path.name.startswith("disparse_engine-") and "none-any" not in path.name
    with zipfile.ZipFile(path) as wheel:
        assert f"disparse_engine/{variant_here().module}.so" in wheel.namelist()
        wheel.extractall(tmp_path / "site")
    code = (
        "from prune_utils.deploy.build import sparse_engine, installed; "
        "assert str(installed()).startswith(%r); assert sparse_engine().SparseConv"
    )
    there = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)]), "PATH": ""}
    clean = os.environ | there | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "none")}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code % str(tmp_path / "site")]
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none").exists()
