"""What a runtime of half precision makes of a computation, on any processor."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class HalfPrecisionRuntime(TorchDispatchMode):
    """Round every result of a computation in floating point, as a runtime does that runs exports in half precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        is_float = isinstance(result, Tensor) and result.dtype == torch.float32
        return result.to(self.dtype).float() if is_float else result
