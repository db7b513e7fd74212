"""Masks one batch again and again, once for each line on standard input; answers with its CPU seconds.

    python tests/bench/mask_process.py CONTRACT_MODULE BODIES_FILE

`include` is that of the folder in PYTHONPATH, which may be another checkout: only what checkouts have in
common is used. The first answer comes before the first line: how many messages were accepted.
"""

import gc
import importlib
import sys
import time
import uuid
from pathlib import Path

from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch

SENT_MS = 1_769_903_999_000


def main() -> None:
    """Mask until standard input ends."""
    gc.set_threshold(100_000)  # as `python -m include.queue_etl` does
    contract = importlib.import_module(sys.argv[1]).CONTRACT
    keyset = Keyset.from_json(KeysetDocument.new().text)
    raw, settings, run_id = _batch(Path(sys.argv[2])), Settings(staging="unused"), uuid.uuid4()
    masked, _ = mask_batch(raw, contract, keyset, settings, run_id)
    print(masked.accepted, flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        mask_batch(raw, contract, keyset, settings, run_id)
        print(time.process_time() - started, flush=True)


def _batch(file: Path) -> RawBatch:
    bodies = file.read_bytes().splitlines()
    ids = sorted(str(uuid.uuid4()) for _ in bodies)
    count = len(bodies)
    return RawBatch(queue_id=1, ids=ids, sent_ms=[SENT_MS] * count, receive_counts=[1] * count, bodies=bodies)


if __name__ == "__main__":
    main()
