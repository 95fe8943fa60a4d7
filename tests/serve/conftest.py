import os

import pytest
import torch

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session", autouse=True)
def packed_elsewhere(tmp_path_factory):
    """Packed weights of these tests stay out of the repository's cache (a server in its own process uses that)."""
    from tasks.serve.engine import packed

    held, packed.CACHE = packed.CACHE, tmp_path_factory.mktemp("packed")
    yield
    packed.CACHE = held


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Directories of the tiny random model: chat, int4, onnx."""
    from tests.serve import tiny as making

    torch.set_num_threads(1)
    return making.write_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(tiny):
    """(process, base URL) of the real server over the tiny ONNX model, four slots."""
    from tasks.serve import client

    with client.process(tiny / "onnx", threads=1, slots=4) as running:
        yield running
