"""A GPU where there is none: tensors of the CPU that say that they are on "cuda", compute what they would here, and refuse to meet others.

What it shows: whether a computation stays on its device, with numbers that can be compared to the last bit. What it cannot show: the
rounding of a GPU, its speed, and mistakes in CUDA's own operations. What it knows of torch's rules about devices stands in
`_refuse_strangers`; `fake_cuda` below leaves these to torch itself, but has no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

Arguments = tuple[Any, ...]


class OnGpu(Tensor):
    """A tensor on the pretended GPU."""


class PretendedGpu(TorchFunctionMode):
    """Within it there is a GPU "cuda". `fails` raises what the GPU is to raise, if anything, before the factorisation of that number."""

    def __init__(self, fails: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self._fails = fails
        self.arrivals = 0
        """Tensors that came to the GPU."""
        self.factorisations = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls `func` on the CPU; what tensors on the GPU gave is on the GPU."""
        kwargs = dict(kwargs or {})
        is_here = OnGpu in types
        if str(kwargs.get("device", "")).startswith("cuda"):
            self.arrivals += not is_here
            kwargs["device"] = None
            is_here = True
        elif not is_here:
            return func(*args, **kwargs)
        elif func == Tensor.device.__get__:
            return torch.device("cuda", 0)
        elif func is Tensor.cpu:
            return args[0].as_subclass(Tensor).clone()
        elif func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        else:
            _refuse_strangers(func, args, kwargs)
        return self._put(self._computed(func, args, kwargs))

    def _computed(self, func: Any, args: Arguments, kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.linalg.cholesky_ex:
            self.factorisations += 1
            self._fails(self.factorisations)
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        if func is torch.linalg.cholesky_ex:
            # As on a GPU: https://github.com/pytorch/pytorch/issues/64818
            found[1][torch.isnan(found[0]).flatten(1).any(dim=1)] = 0
        return found

    def _put(self, found: Any) -> Any:
        if isinstance(found, Tensor):
            return found.as_subclass(OnGpu)
        if isinstance(found, tuple) and any(isinstance(part, Tensor) for part in found):
            return tuple(map(self._put, found))
        return found


def _refuse_strangers(func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> None:
    """Tensors of the CPU may meet those of a GPU as a single number, or as an index."""
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        args = (args[0], args[2:])
    if any(isinstance(part, Tensor) and part.dim() and not isinstance(part, OnGpu) for part in _parts((args, kwargs))):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func.__name__} found cuda:0 and cpu")


def _parts(nested: Any) -> Iterator[Any]:
    """What lists, tuples and mappings hold, however deep."""
    if isinstance(nested, Mapping):
        nested = list(nested.values())
    if isinstance(nested, (list, tuple)):
        for part in nested:
            yield from _parts(part)
    else:
        yield nested


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors without numbers on "cuda", by torch's own rules about shapes, types and devices.

    A build of torch without CUDA can do that for all but `contiguous`, `~`, and indexing, whose shapes are taken from the same on
    "meta". What depends on numbers is decided here: conditions hold, and a column has three different values.
    """
    with FakeTensorMode(), _Undecidable():
        yield


class _Undecidable(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not (args and isinstance(args[0], Tensor) and args[0].device.type == "cuda"):
            return func(*args, **(kwargs or {}))
        if func is Tensor.__bool__:
            return True
        if func is Tensor.__invert__:
            return torch.bitwise_not(args[0])
        if func is Tensor.contiguous:
            return torch.clone(args[0], memory_format=torch.contiguous_format)
        if func is torch.unique:
            return args[0].new_empty(3)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            there, at, *value = args
            assert not any(isinstance(part, Tensor) for part in (at if isinstance(at, tuple) else (at,)))
            taken = torch.empty_strided(there.shape, there.stride(), dtype=there.dtype, device="meta")[at]
            same = torch.empty_strided(taken.shape, taken.stride(), dtype=there.dtype, device=there.device)
            if not value:
                return same
            assert (same + value[0]).shape == same.shape  # for the sake of what torch says about the sum
            return None
        return func(*args, **(kwargs or {}))
