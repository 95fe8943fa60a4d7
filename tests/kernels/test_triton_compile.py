"""Every kernel compiles to Hopper machine code, without a GPU: Triton carries its own assembler.

The interpreter runs Python; this is what shows that the compiler takes the same kernels, that the products go to the
tensor cores in the instructions meant for them, and that a program's tiles fit a multiprocessor's memory.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

SHARED_LIMIT = 227 * 1024  # bytes a block may have on compute capability 9.0 (CUDA programming guide)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a process without the interpreter made of each kernel: name -> {shared, spills, ...}."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run([sys.executable, str(Path(__file__).with_name("compile_for_hopper.py"))],
                           env=environment | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
                           cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout)


def test_every_kernel_compiles_and_fits(compiled):
    assert len(compiled) >= 20, sorted(compiled)
    assert {name: kernel for name, kernel in compiled.items() if kernel["shared"] > SHARED_LIMIT} == {}


def test_registers_hold_the_tiles(compiled):
    # four words of loop bookkeeping may lie on the stack, no part of an accumulator
    assert {name: kernel["spills"] for name, kernel in compiled.items() if kernel["spills"] > 16} == {}


def test_products_use_hoppers_matrix_instructions(compiled):
    products = {name: kernel for name, kernel in compiled.items() if name.startswith(("int4", "dense", "attention"))}
    assert len(products) >= 11, sorted(products)
    assert all(kernel["wgmma"] and not kernel["mma_sync"] for kernel in products.values()), products


def test_a_decodes_weights_are_unpacked_in_registers(compiled):
    # copies of computed values into shared memory: none, or the order of rows no longer fits the operand's layout
    assert all(compiled[f"int4 {half} 16"]["through_shared"] == 0 for half in ("fp16", "bf16"))
