"""Fewer kernels on a GPU: norms, rotary positions and activations of a model's own code, compiled.

transformers runs each of them as five to ten kernels that read and write all tokens. ``torch.compile`` makes
one or two of them, of any family, for batches of any shape; matrix products stay the same calls. What lies
between their steps is no longer rounded to 16 bits, so a word may differ: an engine's identity names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import nn

SIXTEEN_BIT = (torch.float16, torch.bfloat16)
VARIANTS = 64
"""Of one function, at most: dynamo makes others for 1 row or 1 token, for each size of layer, for each dtype.
Beyond them it runs the plain code."""
CLOSE = 0.05
"""How far a fused result may be from the plain one, of the largest number: 16 bits keep about 0.004."""


def worth_fusing(model: Any) -> bool:
    """Whether it makes a model faster: kernels on a CPU, and of float32, are bound by other things."""
    return model.device.type == "cuda" and model.dtype in SIXTEEN_BIT


class FusedKernels:
    """The parts of a model that have a fused form. ``backend`` is ``torch.compile``'s."""

    def __init__(self, model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
        self._failed = self._checking = False
        fused = cache(partial(self._fused, backend))
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
        for module in model.modules():
            plain = type(module).forward
            # One that has a forward of its own is moved between devices, or watched, by another library.
            if "forward" in vars(module) or not isinstance(plain, FunctionType):
                continue
            if "RMSNorm" in type(module).__name__ or _is_mlp(module):
                self._forwards.append((module, partial(fused(plain), module)))
            elif rotary := _rotary_functions(plain):
                changed = {name: _tokens_first(each, fused(each)) for name, each in rotary.items()}
                own = _with_globals(plain, changed)
                self._forwards.append((module, partial(own, module)))

    @property
    def parts(self) -> int:
        """How many of the model's modules have one."""
        return len(self._forwards)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the model use them for a while; models of the same classes keep the plain ones."""
        import torch._dynamo

        # Inside another time (a listener asks while it is told an answer) they are used already.
        mine = [(module, forward) for module, forward in self._forwards if "forward" not in vars(module)]
        for module, forward in mine:
            module.forward = forward
        try:
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                yield
        finally:
            for module, _ in mine:
                del module.forward

    def works(self, ask: Callable[[], object]) -> bool:
        """Whether they can be compiled here and give what the plain ones give, as ``ask`` runs the model.

        Where they do not, a warning says why.
        """
        self._checking = True
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they please; it is told
            _warn(error)
            return False
        finally:
            self._checking = False
        return True

    def _fused(self, backend: str | Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        """``plain``, compiled at its first call; after a failure the plain one again."""

        @cache
        def compiled() -> Callable[..., Any]:
            # Not before the first call: where torch has no compiler at all, this fails already.
            # Without max_autotune products stay cuBLAS's. inductor's `emulate_precision_casts` would round as
            # the plain code does, but its chains of casts crash Triton 3.6 (pytorch/pytorch#173547).
            return torch.compile(plain, backend=backend)

        def call(*args: Any, **named: Any) -> Any:
            if self._failed:
                return plain(*args, **named)
            try:
                _mark_varying((*args, *named.values()))
                said = compiled()(*args, **named)
            except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:  # compiled, or launched
                if self._checking or isinstance(error, torch.OutOfMemoryError):
                    raise
                # They worked when they were tried: another shape does not compile.
                self._failed = True
                _warn(error)
                return plain(*args, **named)
            if self._checking:
                _check_close(plain, said, plain(*args, **named))
            return said

        return call


def _mark_varying(values: Iterable[Any]) -> None:
    """Rows and tokens, which come first, differ from call to call; heads and widths do not, so that kernels
    can be made for those.
    """
    for value in values:
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            torch._dynamo.maybe_mark_dynamic(value, tuple(range(min(2, value.dim() - 1))))


def _is_mlp(module: nn.Module) -> bool:
    """Plain products with an activation between them, gated or not; not those of quantised or adapted
    weights, which have code of their own."""
    weighty = [child for child in module.children() if any(True for _ in child.parameters())]
    return (
        type(module).__name__.lower().endswith("mlp")
        and len(weighty) > 1
        and all(type(child) is nn.Linear and "forward" not in vars(child) for child in weighty)
    )


def _rotary_functions(forward: FunctionType) -> dict[str, FunctionType]:
    """The functions of its module by which an attention layer's forward puts positions into keys."""
    named = {name: forward.__globals__.get(name) for name in forward.__code__.co_names if "rotary" in name}
    return {name: found for name, found in named.items() if isinstance(found, FunctionType)}


def _tokens_first(plain: FunctionType, fused: Callable[..., Any]) -> Callable[..., Any]:
    """``fused`` called with queries and keys as they lie in memory, ``[rows, tokens, heads, dim]``.

    Attention layers hand them over transposed. Then the place of a number in the cosines takes divisions by
    the number of tokens, which take longer than all the rest where it is not known beforehand.
    """
    order = list(signature(plain).parameters)
    if order[:4] != ["q", "k", "cos", "sin"] or "unsqueeze_dim" not in order:
        return fused

    def call(*args: Any, **named: Any) -> Any:
        if len(args) < 4 or len(args) > order.index("unsqueeze_dim") or "unsqueeze_dim" in named:
            return fused(*args, **named)
        query, key, *rest = args
        said = fused(query.transpose(1, 2), key.transpose(1, 2), *rest, **named, unsqueeze_dim=2)
        return tuple(each.transpose(1, 2) for each in said)

    return call


def _with_globals(function: FunctionType, changed: dict[str, Any]) -> FunctionType:
    """The same function where its module has other things under some names.

    The module itself stays as it is: other models use it at the same time.
    """
    scope = {**function.__globals__, **changed}
    own = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    own.__kwdefaults__ = function.__kwdefaults__
    return own


def _check_close(plain: Callable[..., Any], said: Any, wanted: Any) -> None:
    """Raise ArithmeticError where the compiled function gives something else."""
    if isinstance(wanted, tuple):
        for one, other in zip(said, wanted, strict=True):
            _check_close(plain, one, other)
        return
    most = float(wanted.float().abs().max()) if wanted.numel() else 0.0
    if not torch.allclose(said.float(), wanted.float(), rtol=0, atol=CLOSE * most, equal_nan=True):
        raise ArithmeticError(f"{plain.__qualname__} gives other numbers once it is compiled")


def _warn(error: Exception) -> None:
    if isinstance(error, torch._dynamo.exc.BackendCompilerFailed):  # dynamo's own words tell little
        error = error.inner_exception
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    told = f"The model's kernels are not fused, so answers take longer: {reason}"
    warnings.warn(told, RuntimeWarning, stacklevel=3)
