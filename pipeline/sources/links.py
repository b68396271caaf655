"""Soft links to folders on a local disk, which lead to the folder's files wherever they lie in a dataset."""

import os
from itertools import accumulate

from fsspec.implementations.local import LocalFileSystem


class LinkedFileSystem(LocalFileSystem):
    """The local file system with links to folders as folders, but for a link to a folder that it lies in: that would never end."""

    def ls(self, path, detail=False, **kwargs):
        infos = super().ls(path, detail=True, **kwargs)
        for info in infos:
            if info["islink"] and info["type"] != "directory" and _leads_to_folder(info["name"]):
                info["type"] = "directory"
        return infos if detail else [info["name"] for info in infos]


def follow_links(fs):
    """The file system, with links to folders followed where it has any."""
    return LinkedFileSystem() if type(fs) is LocalFileSystem else fs


def _leads_to_folder(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    above = accumulate(os.path.dirname(path).split("/"), lambda folder, name: f"{folder}/{name}")
    return os.path.realpath(path) not in {os.path.realpath(folder or "/") for folder in above}
