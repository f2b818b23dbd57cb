"""The process that runs vLLM: started by ``process.py`` under the Python that has vLLM, maybe not ours.

It imports nothing of viscot, so that this Python needs vLLM alone, and vLLM may pin what it likes. It reads
messages from a socket and answers on it:

    {"prompt": number, "ids": [...], "images": [[key, [width, height]], ...], "top": count,
     "sampling": {...}} and the pixels of each image
    {"stop": number}        {"reset": true}        {"count": true}
    -> {"ready": {...}} or {"failed": kind, "reason": words}, then
    -> {"said": [{"number": ..., "tokens": new ids, ...}, ...]}
    -> {"refused": number, "reason": words}        {"counted": {name: value}}
"""

from __future__ import annotations

import glob
import json
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any

CPU_BLOCK = 32
"""Tokens of a KV block on a CPU: with vLLM's 128 there a question's prefix hits nothing."""
CPU_CACHE_BYTES = 4 << 30
"""Most memory of the KV cache on a CPU, where vLLM would take nearly all there is."""
_LENGTHS = struct.Struct("!II")

Message = dict[str, Any]


class Wire:
    """Messages over a socket: JSON, then bytes of any length. ``send`` may be called from several threads."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._read = end.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Message, blobs: Sequence[bytes] = ()) -> None:
        """Raises OSError where the other side has gone."""
        head = json.dumps({**message, "bytes": [len(blob) for blob in blobs]}).encode()
        with self._lock:
            self._end.sendall(_LENGTHS.pack(len(head), len(blobs)) + head)
            for blob in blobs:
                self._end.sendall(blob)

    def receive(self) -> tuple[Message, list[bytes]]:
        """The next message. Raises EOFError where the other side has gone."""
        length, _ = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        message: Message = json.loads(self._exactly(length))
        return message, [self._exactly(size) for size in message.pop("bytes")]

    def close(self) -> None:
        """The other side reads an end, also where a thread of this one is reading."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has gone already

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._read.read(size)
        except OSError as error:
            raise EOFError from error
        if len(data) < size:
            raise EOFError
        return data


def main(number: int) -> None:
    """Serve the socket with this file number until its other side closes it."""
    end = socket.socket(fileno=number)
    _keep_from_children(end)
    wire = Wire(end)
    config, _ = wire.receive()
    inbox: queue.SimpleQueue[tuple[Message, list[bytes]]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(wire, inbox), daemon=True).start()
    try:
        desk = Desk(config, wire)
    except Exception as error:
        wire.send({"failed": type(error).__name__, "reason": str(error)})
        raise
    while True:
        desk.work(inbox)


def _keep_from_children(end: socket.socket) -> None:
    """A child that kept ``end`` open would hide from viscot that this process has gone."""
    end.set_inheritable(False)

    def in_fork() -> None:  # vLLM forks its own processes where nothing has touched the GPU yet
        if end.fileno() >= 0:
            os.close(end.detach())

    os.register_at_fork(after_in_child=in_fork)


def _read(wire: Wire, inbox: queue.SimpleQueue[tuple[Message, list[bytes]]]) -> None:
    try:
        while True:
            inbox.put(wire.receive())
    except EOFError:
        # Nobody waits any more: vLLM's own processes go with this one, whatever they are doing.
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)


class Desk:
    """vLLM's engine, step by step: what came in is added between two steps."""

    def __init__(self, config: Message, wire: Wire) -> None:
        self._wire = wire
        self._never = {int(token): float("-inf") for token in config["never"]}
        self._stop_ids = [int(token) for token in config["stop_ids"]]
        self._fresh: dict[str, int] = {}
        """Prompts that have said nothing yet, with how many of the likeliest first tokens are asked for."""
        # Set before vLLM is imported, which reads them once. Nothing of a run is reported to anybody.
        os.environ.update({"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})
        self._engine = _engine(config)
        model = self._engine.model_config
        about = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": _device(),
            "context": int(model.max_model_len),
        }
        wire.send({"ready": about})

    def work(self, inbox: queue.SimpleQueue[tuple[Message, list[bytes]]]) -> None:
        """Take what is there, waiting for something where there is nothing to do, then one step."""
        while not (inbox.empty() and self._engine.has_unfinished_requests()):
            self._take(*inbox.get())
        if said := [self._told(output) for output in self._engine.step()]:
            self._wire.send({"said": said})

    def _told(self, output: Any) -> Message:
        """New tokens of a prompt; with the first of them, the prompt as vLLM has read it."""
        (one,) = output.outputs
        tokens = [int(token) for token in one.token_ids]
        top = self._fresh.pop(output.request_id, None)
        first = sorted(one.logprobs[0].items(), key=lambda item: -item[1].logprob) if top else []
        return {
            "number": int(output.request_id),
            "tokens": tokens,
            "reason": one.finish_reason,
            "logprobs": one.logprobs
            and [place[token].logprob for place, token in zip(one.logprobs, tokens, strict=True)],
            "prompt_ids": None if top is None else list(output.prompt_token_ids),
            "top": [(token, value.logprob) for token, value in first[:top]],
        }

    def _take(self, message: Message, blobs: list[bytes]) -> None:
        if "prompt" in message:
            try:
                self._add(message, blobs)
            except Exception as error:  # noqa: BLE001 - of this prompt alone: told to the one who asks
                self._wire.send({"refused": message["prompt"], "reason": _cause(error)})
        elif "stop" in message:
            self._engine.abort_request([str(message["stop"])])
        elif "reset" in message:
            self._engine.reset_mm_cache()
            self._engine.reset_prefix_cache()
            self._engine.reset_encoder_cache()
        else:
            self._wire.send({"counted": _counts(self._engine)})

    def _add(self, message: Message, blobs: list[bytes]) -> None:
        from PIL import Image
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_token_ids": message["ids"]}
        if message["images"]:
            pairs = zip(message["images"], blobs, strict=True)
            prompt["multi_modal_data"] = {
                "image": [Image.frombytes("RGB", tuple(size), blob) for (_, size), blob in pairs]
            }
            # By its key an image's features and its place in the prefix cache are found again.
            prompt["multi_modal_uuids"] = {"image": [key for key, _ in message["images"]]}
        params = SamplingParams(
            **message["sampling"],
            top_k=0,
            # Only what viscot names ends a turn, whatever the checkpoint's generation config says.
            ignore_eos=True,
            stop_token_ids=self._stop_ids,
            logit_bias=self._never or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        name = str(message["prompt"])
        self._engine.add_request(name, prompt, params)
        self._fresh[name] = message["top"]


def _cause(error: BaseException) -> str:
    """What went wrong first: vLLM puts the whole prompt, images and all, around a processor's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _device() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def _engine(config: Message) -> Any:
    """vLLM's engine for the model; torch's names of dtypes and devices.

    Raises:
        Exception: whatever vLLM says, or a device that this vLLM is not built for.
    """
    if config["tensor_parallel"] == 1 and _is_cpu_build():
        # One process less: on a CPU there is nothing that two of them could do at the same time.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import psutil
    from vllm import LLM

    device = _device()
    # Which one of several it is, is in CUDA_VISIBLE_DEVICES.
    if config["device"].partition(":")[0] not in ("auto", device):
        raise DeviceError(device)
    on_cpu = device == "cpu"
    special: dict[str, Any] = {}
    if on_cpu:
        special = {"block_size": CPU_BLOCK, "enforce_eager": True}
        _share_cores(config["tensor_parallel"])
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            special["kv_cache_memory_bytes"] = min(CPU_CACHE_BYTES, psutil.virtual_memory().available // 4)
    _pixels_by_pillow()
    model = LLM(
        model=config["model"],
        dtype=config["dtype"] or (config["cpu_dtype"] if on_cpu else _gpu_dtype()),
        tensor_parallel_size=config["tensor_parallel"],
        max_num_seqs=config["together"],
        max_model_len=-1,  # the model's own, or less where the KV cache cannot hold so much
        generation_config="vllm",
        max_logprobs=-1,
        disable_log_stats=not config["counts"],
        **special,
    )
    return model.llm_engine


def _share_cores(ranks: int) -> None:
    """Give each rank cores of its own: vLLM gives each a NUMA node, and starts not where there are fewer."""
    nodes = len(glob.glob("/sys/devices/system/node/node[0-9]*"))
    if ranks <= max(nodes, 1) or os.environ.get("VLLM_CPU_OMP_THREADS_BIND") or sys.platform != "linux":
        return
    cores = sorted(os.sched_getaffinity(0))
    # Where there are fewer cores than ranks, some share one: slow, but it runs.
    shares = [cores[rank::ranks] or [cores[rank % len(cores)]] for rank in range(ranks)]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, share)) for share in shares)


class DeviceError(Exception):
    """This vLLM is built for another device, which the words name."""


def _is_cpu_build() -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution("vllm-cpu") is not None
    except PackageNotFoundError:
        import vllm

        return "cpu" in str(getattr(vllm, "__version__", ""))


def _pixels_by_pillow() -> None:
    """Images are prepared as viscot prepares them: torchvision's resize differs by a level of 255 here and
    there, which is another digit of a box.

    vLLM's own option for it, ``mm_processor_kwargs``, is also given to a processor's part for videos, which
    has no such backend, and with every image, where some processors refuse it.
    """
    from transformers import AutoImageProcessor

    load = AutoImageProcessor.from_pretrained

    def by_pillow(*args: Any, **options: Any) -> Any:
        return load(*args, **{"backend": "pil", **options})

    AutoImageProcessor.from_pretrained = by_pillow


def _gpu_dtype() -> str:
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _counts(engine: Any) -> dict[str, float]:
    """vLLM's own counters, those that are kept."""
    found: dict[str, float] = {}
    for metric in engine.get_metrics():
        if hasattr(metric, "value"):
            found[metric.name] = found.get(metric.name, 0.0) + float(metric.value)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]))
