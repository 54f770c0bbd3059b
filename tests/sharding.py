"""The ways in which a policy, or what its training holds, lies in parts on several workers."""

import importlib.util

import pytest

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
each_way = pytest.mark.parametrize(
    "how", ["fsdp", pytest.param("deepspeed", marks=pytest.mark.skipif(not HAS_DEEPSPEED, reason="needs the extra deepspeed"))]
)
without_deepspeed = pytest.mark.skipif(HAS_DEEPSPEED, reason="needs a Python without DeepSpeed")
