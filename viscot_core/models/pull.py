"""Get a model from the hub: resumable, into the Hugging Face cache, verified before it counts as there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from viscot_core.addresses import check_proxies
from viscot_core.errors import CheckpointError, nearest
from viscot_core.families.table import family_of
from viscot_core.files import atomic_write, sha256_of
from viscot_core.models import adapters
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.known import ZOO
from viscot_core.models.zoo import cached, find, hub_cache, resolve, sibling
from viscot_core.tensors import read_json

_OTHER_FRAMEWORKS = (
    *("*.h5", "*.msgpack", "tf_*", "flax_*", "*.onnx", "*.onnx_data", "*.gguf", "*.ot", "*.tflite"),
    # What authors put beside a model: the same weights in their own or another form, training runs, examples.
    *("original/*", "onnx/*", "openvino/*", "coreml/*", "mlx/*", "gguf/*", "runs/*", "examples/*"),
    *("consolidated*", "*.pth", "*.pt", "*.fp16.*", "*.fp32.*"),
)
_WEIGHTS = ("*.safetensors", "*.bin")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def pull(name: str, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Download a zoo model or a hub id (``org/name``) and return its folder; what is there already is kept.

    A vision tower (CLIP's) that is not inside is pulled too. What training puts together, a language model
    or a projector alone, is taken as well.

    First comes the config (what cannot be read or is not allowed is refused by it), then the files of the
    processor and the tokenizer, then the weights, each once: no ``.bin`` beside safetensors.

    Files go to ``VISCOT_CACHE``, else to Hugging Face's own cache; ``HF_ENDPOINT`` and ``HF_TOKEN`` are
    honoured. Every large file is checked against the hub's sha256, and the model against its own index.

    Raises:
        CheckpointError: unknown, refused, unreachable, or damaged on the way (the damaged file is removed).
    """
    known = find(name)
    if known is not None and known.hub is None:
        say(f"{known.name} comes with viscot.")
        return resolve(known.name)
    hub = known.hub if known else name
    if hub is None or hub.count("/") != 1:
        raise CheckpointError(f"There is no model '{name}'.{nearest(name, ZOO) or ' A hub id is ORG/NAME.'}")
    here = cached(hub)
    # What is complete needs no network and no permission to write.
    if here is not None and _is_whole(here):
        say(f"{hub} is here already.")
        return here
    folder = _download(hub, known.name if known else hub)
    _verify(folder, say)
    _name(folder)
    _complete(folder, say)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        return not _absent_part(folder, lambda _: None)[1]
    except CheckpointError:
        return False


def _complete(folder: Path, say: Callable[[str], None]) -> None:
    """Pull what the model in ``folder`` leaves out, and check that it is then whole."""
    what, absent = _absent_part(folder, say)
    if absent is not None:
        model = find(absent) or find(Path(absent).name)
        absent = model.hub if model and model.hub else absent
        say(f"its {what} is not inside: pulling {absent}")
        pull(absent, say=say)
        _absent_part(folder, lambda _: None)


def _absent_part(folder: Path, say: Callable[[str], None]) -> tuple[str, str | None]:
    """What the model in ``folder`` leaves out and this machine has not, and its name; else it is whole.

    Raises:
        CheckpointError: it is damaged, or of a kind that is not read.
    """
    if adapters.is_adapter(folder):
        base = adapters.base_name(folder)
        try:
            sibling(base, folder)
        except CheckpointError:
            return "base", base
    else:
        config = read_json(folder / "config.json")
        family = family_of(config)
        if part := family.what_part(folder, config):
            say(part)
            return part, None
        if absent := family.absent_part(folder, config, sibling):
            return "vision tower", absent
    open_checkpoint(folder).require_whole()
    return "", None


def _download(hub: str, name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError as Unknown
    from huggingface_hub.utils import httpx, logging  # the client it was built with

    check_proxies()
    logging.set_verbosity_error()  # it retries; one sentence at the end is enough
    _refuse_paths_in_headers()
    try:
        revision = HfApi().model_info(hub).sha
        tree = HfApi().list_repo_tree(hub, revision=revision)
        files = [entry for entry in tree if hasattr(entry, "size")]  # not folders
        _require_readable(hub, revision, [file.path for file in files])
        skip = [*_OTHER_FRAMEWORKS, *second_copies({file.path for file in files})]
        for file in files:
            if file.lfs is not None and not _SHA256.match(file.lfs.sha256):
                raise CheckpointError(
                    f"{hub}: the hub lists no sha256 for {file.path}; use another HF_ENDPOINT."
                )
        # The small files first: whatever is wrong with them shows before gigabytes have come.
        where = {"revision": revision, "cache_dir": hub_cache()}
        snapshot_download(hub, ignore_patterns=[*skip, *_WEIGHTS], **where)
        for file in files:
            if file.lfs is not None and not any(fnmatch(file.path, pattern) for pattern in skip):
                _fetch_large(hub, revision, file.path, file.lfs.sha256, file.size)
        return Path(snapshot_download(hub, ignore_patterns=skip, **where))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{hub} asks for its license to be accepted; do so at https://huggingface.co/{hub} and "
            "set HF_TOKEN."
        ) from error
    except Unknown as error:
        hint = nearest(hub, [model.hub for model in ZOO.values() if model.hub])
        raise CheckpointError(
            f"The hub has no model '{hub}', or it is private (set HF_TOKEN).{hint}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the console tells a full disk
        raise _unreachable(name, error) from error


def second_copies(files: set[str]) -> list[str]:
    """Weights of a repository that say again what others there say, as ``open_weights`` chooses."""
    if "model.safetensors.index.json" in files:
        return ["pytorch_model*", "model.safetensors"]
    return ["pytorch_model*"] if any(name.endswith(".safetensors") for name in files) else []


def _refuse_paths_in_headers() -> None:
    """huggingface_hub names files of its cache by these headers: ``../../x`` must not become a path."""
    from huggingface_hub import get_session

    def check(response: Any) -> None:
        for header in ("ETag", "X-Linked-Etag", "X-Repo-Commit"):
            # Answers to GET are not used as names, and other servers write "/" in their ETags.
            if response.request.method == "HEAD" and "/" in response.headers.get(header, "").removeprefix(
                "W/"
            ):
                raise CheckpointError(f"The hub sent a path as {header}; do not use this HF_ENDPOINT.")

    session = get_session()
    hooks = session.event_hooks
    hooks["response"] = [check, *(hook for hook in hooks["response"] if hook.__name__ != check.__name__)]
    session.event_hooks = hooks


def _require_readable(hub: str, revision: str | None, files: list[str]) -> None:
    """Read the small file that says what the model is, before any weights.

    Raises:
        CheckpointError: it is of a kind that is not read.
    """
    from huggingface_hub import hf_hub_download

    name = next((name for name in ("config.json", adapters.CONFIG) if name in files), None)
    if name is None:
        gguf = any(file.endswith(".gguf") for file in files)
        what = "GGUF files, which llama.cpp reads" if gguf else "no config.json"
        raise CheckpointError(f"{hub} has {what}, and is no checkpoint that viscot reads; name another.")
    path = Path(hf_hub_download(hub, name, revision=revision, cache_dir=hub_cache()))
    try:
        if name == adapters.CONFIG:
            adapters.base_name(path.parent)
        else:
            family_of(read_json(path))
    except CheckpointError as error:
        raise CheckpointError(f"{hub} was not downloaded: {error}") from error


def _fetch_large(hub: str, revision: str, file: str, sha256: str, size: int) -> None:
    """Put one large file into the cache, going on from what an earlier try left of it.

    (``snapshot_download`` alone keeps whole files only: killed in a 10 GB shard, it would begin it anew.
    It finds the finished file under its sha256 and links it.)
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    cache = hub_cache() or Path(constants.HF_HUB_CACHE)
    blob = cache / repo_folder_name(repo_id=hub, repo_type="model") / "blobs" / sha256
    part = blob.with_name(f"{sha256}.part")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(part.with_suffix(".lock")):
        if blob.exists():
            return
        with part.open("ab") as stream:
            # More than the whole file: not a beginning of it.
            if stream.tell() > size:
                stream.truncate(0)
            url = hf_hub_url(hub, file, revision=revision)
            # Compressed, the ranges asked for would not be those of the file.
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            http_get(url, stream, resume_size=stream.tell(), headers=headers, expected_size=size)
        os.replace(part, blob)


def _name(folder: Path) -> None:
    """Let the cache find the snapshot under the model's name: files that were asked for by their commit are
    not, and until they are verified should not be.
    """
    with atomic_write(folder.parents[1] / "refs" / "main") as file:
        file.write(folder.name)


def _unreachable(name: str, error: Exception) -> CheckpointError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{name} could not be downloaded ({reason}); the same command continues where it stopped. "
        "HF_ENDPOINT names another hub, HF_HUB_OFFLINE must be unset."
    )


def _verify(folder: Path, say: Callable[[str], None]) -> None:
    """Compare large files with the sha256 that the cache names them by; a damaged one is removed."""
    for file in sorted(folder.iterdir()):
        blob = file.resolve()
        if not _SHA256.match(blob.name):
            continue
        say(f"checking {file.name} ({blob.stat().st_size / 1e9:.2f} GB)")
        if sha256_of(blob) != blob.name:
            blob.unlink()
            file.unlink(missing_ok=True)
            raise CheckpointError(
                f"{file.name} was damaged on the way and removed; run the same command again."
            )
