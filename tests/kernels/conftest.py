import pytest


@pytest.fixture(scope="session")
def device():
    """Where Triton's kernels run: a CUDA device, else the CPU under the interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")
    from kernels import interpreter

    try:
        return interpreter.device()
    except RuntimeError as error:
        pytest.skip(str(error))
