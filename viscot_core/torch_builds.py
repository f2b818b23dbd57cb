"""torchvision, which must be built for the torch beside it: whether it does, and the mend.

PyPI's build is for CUDA. Beside a torch for the CPU ``import torchvision`` fails, and with it whatever
transformers has that would use it, the models that need no torchvision among them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec

_INDEX = "https://download.pytorch.org/whl/"
_AHEAD = 15
"""torch 2.N is released together with torchvision 0.(N + 15)."""


def index() -> str:
    """Where the packages lie that are built for the torch that is installed."""
    import torch

    if cuda := torch.version.cuda:  # "13.0"
        return f"{_INDEX}cu{cuda.replace('.', '')}"
    if hip := torch.version.hip:  # "6.4.43484-123810784"
        return f"{_INDEX}rocm{'.'.join(hip.split('.')[:2])}"
    return f"{_INDEX}cpu"


def install_models() -> str:
    """The command that installs ``viscot[models]`` with the torchvision that fits torch."""
    return f"pip install 'viscot[models]' --extra-index-url {index()}"


def misfit() -> str | None:
    """What is wrong with the installed torchvision; None where there is none, or it can be imported."""
    if find_spec("torchvision") is None or find_spec("torch") is None:
        return None
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            import_module("torchvision")
    except Exception as error:  # noqa: BLE001 - said in the sentence; which one depends on what does not fit
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"The installed torchvision{_version()} does not fit torch {torch.__version__} ({reason})"
    return None


def mend() -> str:
    """What to do about a torchvision that does not fit: install the right build, or remove it."""
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    named = f"'torchvision==0.{minor + _AHEAD}.*'" if major == 2 else "torchvision"
    return (
        f"install the one that fits: pip install --force-reinstall --no-deps {named} --index-url {index()}, "
        "or remove it: pip uninstall torchvision"
    )


def misfit_behind(error: BaseException) -> str | None:
    """A sentence where a torchvision that does not fit is why ``error`` was raised; None where it is not."""
    if not any(_is_of_torchvision(each) for each in _chain(error)):
        return None
    found = misfit()
    return None if found is None else f"{found}, so transformers cannot be used; {mend()}"


def _version() -> str:
    try:
        return f" {metadata.version('torchvision')}"
    except metadata.PackageNotFoundError:
        return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_torchvision(error: BaseException) -> bool:
    """Whether it names torchvision, or was raised by its code (a library that is not there names itself)."""
    if "torchvision" in str(error):
        return True
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "torchvision":
            return True
        trace = trace.tb_next
    return False
