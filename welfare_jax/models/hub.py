"""Folders of the hub: over the network, or else from its cache."""

import pathlib


def snapshot(repo: str, **wanted) -> tuple[pathlib.Path | None, str]:
    """(the folder of a repository, or else None and why); wanted: arguments of `huggingface_hub.snapshot_download`."""
    from huggingface_hub import snapshot_download

    causes = []
    for offline in (False, True):
        try:
            return pathlib.Path(snapshot_download(repo, **wanted, local_files_only=offline)), ""
        except Exception as error:  # the hub raises a dozen kinds: no network, gated, unknown name
            causes.append(type(error).__name__)
    return None, causes[0]
