"""Locates files of hub data sets with huggingface_hub; ``transfer`` downloads them.

huggingface_hub's own download starts again from the first byte after a kill, which is too slow for 10 GB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from viscot_core.errors import DataError
from viscot_core.sources.remote import BUSY, Lost, Remote


@contextmanager
def _told(repo: str, path: str) -> Iterator[None]:
    """The hub's failures as ours: DataError for good, Lost if it cannot be reached at the moment."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # the client it was built with

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DataError(f"{repo} cannot be fetched while HF_HUB_OFFLINE is set; unset it.") from error
    except GatedRepoError as error:
        raise DataError(
            f"{repo} is gated: ask for access on its page, then log in with 'hf auth login'."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in BUSY:
            raise Lost(f"the hub answered {error.response.status_code}") from error
        raise DataError(f"{repo}/{path} is not available ({error}); check it on the hub.") from error
    except httpx.HTTPError as error:
        raise Lost(f"{type(error).__name__}: {error}") from error


def files_under(repo: str, folder: str, revision: str = "main") -> list[str]:
    """The paths of a data set's files under a folder ("" is all of it), sorted. Raises as ``locate`` does."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _told(repo, folder):
        found = HfApi().list_repo_tree(
            repo, folder.rstrip("/") or None, recursive=True, revision=revision, repo_type="dataset"
        )
        return sorted(one.path for one in found if isinstance(one, RepoFile))


def locate(repo: str, path: str, revision: str = "main") -> Remote:
    """The address of a hub data set's file, pinned to the commit, with size and, for large files, sha256.

    Follows HF_ENDPOINT and the stored login. Raises DataError if the file does not exist or access is denied,
    Lost if the hub cannot be reached at the moment.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    address = hf_hub_url(repo, path, repo_type="dataset", revision=revision)
    with _told(repo, path):
        found = get_hf_file_metadata(address, headers=headers)
    if found.commit_hash:
        address = hf_hub_url(repo, path, repo_type="dataset", revision=found.commit_hash)
    etag = (found.etag or "").strip('"')
    return Remote(
        address,
        {key: value for key, value in headers.items() if key.lower() in ("authorization", "user-agent")},
        found.size,
        # Of a large (LFS) file the ETag is its sha256; of a small one it is git's hash, 40 digits, of other
        # bytes.
        etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None,
        pinned=bool(found.commit_hash),
    )
