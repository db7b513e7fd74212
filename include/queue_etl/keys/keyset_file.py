"""The keyset in a file of its owner's own."""

from pathlib import Path

from include.queue_etl.keys.keyset_document import KeysetDocument, MasterKey
from include.queue_etl.private_files import create_durably, write_durably


class KeysetFile:
    """A file that holds a keyset, wrapped where there is a master key."""

    def __init__(self, path: Path, master_key: MasterKey | None) -> None:
        self._path = path
        self._master_key = master_key

    def read(self) -> KeysetDocument:
        """The keyset in the clear; raises OSError and KeysetError."""
        return KeysetDocument(self._path.read_text(encoding="utf-8")).unwrap(self._master_key)

    def stored(self, document: KeysetDocument) -> KeysetDocument:
        """What stands in the file, or in a secrets backend, for this keyset."""
        return document.wrap(self._master_key) if self._master_key else document

    def create(self, document: KeysetDocument) -> None:
        """Write a new file; raises FileExistsError where there is one."""
        create_durably(self._path, self._content(document))

    def replace(self, document: KeysetDocument) -> None:
        """Write the file anew, whole or not at all."""
        write_durably(self._path, self._content(document))

    def _content(self, document: KeysetDocument) -> bytes:
        return self.stored(document).text.encode()  # before the file is touched: KMS may refuse
