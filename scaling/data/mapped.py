"""Memory-mapped files of a store: detecting changes since they were checked.

Reading a part of a mapped file that was truncated kills the process (SIGBUS), and overwritten data is read as if it
had always been there.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.data.manifest import again, check_files
from scaling.errors import UserError


class MappedFiles:
    """Files in a store's folder. Create it before they are checked and mapped, and use it as long as they are read.

    names: of the files; missing ones are ignored. manifest: has their sizes and hashes.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], names: Sequence[str]):
        self.folder, self.manifest = folder, manifest
        self._files = {name: (folder / name).open("rb") for name in names if (folder / name).is_file()}
        self._handles = [file.fileno() for file in self._files.values()]
        self._seen = self._stat()

    def check(self) -> None:
        """Raises UserError if a file was touched and no longer matches its manifest. Takes microseconds if none was
        touched."""
        now = self._stat()
        if now == self._seen:
            return
        for name, file in self._files.items():
            here = os.fstat(file.fileno())
            try:
                same = os.path.samestat(here, os.stat(self.folder / name))
            except FileNotFoundError:
                same = False
            if here.st_size != self.manifest["files"][name]["bytes"] or not same:
                raise UserError(f"{self.folder / name} was changed while it was in use; {again(self.folder)}")
        check_files(self.folder, self.manifest, full=False, names=self._files)
        self._seen = now

    def _stat(self) -> list[tuple[int, int]]:
        return [(found.st_size, found.st_mtime_ns) for found in map(os.fstat, self._handles)]
