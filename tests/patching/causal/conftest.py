from typing import Any

import pytest
import torch
from torch import Tensor

from causal_families import FAMILIES, Family, made


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return made(request.param)


@pytest.fixture(autouse=True)
def softmax_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's eager attention, which soft caps need, takes its softmax in float32 even in a float64 model."""
    softmax = torch.nn.functional.softmax

    def wide(tensor: Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        narrow = dtype is not None and torch.promote_types(dtype, tensor.dtype) != dtype
        return softmax(tensor, *args, dtype=None if narrow else dtype, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)
