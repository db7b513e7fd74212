"""Remask of many rows while pipelines load. REMASK_ROWS sets how many; the figures are printed."""

import os
import threading
import time

from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.token_format import token_prefixes
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.transform.masking import Masker
from tests.integration.privacy import PURPOSE, PrivacyProject, logins, project

__all__ = ["project"]
ROWS = int(os.environ.get("REMASK_ROWS", "50000"))


def fill(project: PrivacyProject) -> None:
    """ROWS rows: a tenth as many users, each with an address of its own."""
    masker = Masker(project.contract, Keyset.from_json(project.key_file.read_text()))
    ip, device = project.contract.personal
    people = range(ROWS // 10)
    ips = masker.mask(ip, [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in people], "\\N")
    devices = masker.mask(device, [f"device-{n:08}" for n in people], "\\N")
    lines = [
        f"u{n}\tios\t{a}\t{b}\t\\N\t2\t2026-01-01\n" for n, a, b in zip(people, ips, devices, strict=True)
    ]
    with project.database.owner() as connection:
        connection.execute("SELECT etl.ensure_partition('public.user_logins', '2026-01-01')")
        with connection.cursor().copy("COPY public.user_logins FROM STDIN") as copy:
            for _ in range(10):
                copy.write("".join(lines))


def test_many_rows_move_while_pipelines_load(project: PrivacyProject):
    fill(project)
    old = project.document().key_ids[0]
    new = project.promote_new_key()
    sent, done, loads = 0, threading.Event(), []

    def load() -> None:
        nonlocal sent
        while not done.is_set():
            project.send(*logins(f"r{sent:04}", 100))
            started = time.perf_counter()
            loads.append((project.drain(), time.perf_counter() - started))
            sent += 100

    project.send(*logins("first", 100))
    project.drain()
    loading = threading.Thread(target=load)
    loading.start()
    started = time.perf_counter()
    with project.remasker() as resources:
        counts = rotation.remask(resources, AuditLog(resources.database), project.contracts(), PURPOSE)
    seconds = time.perf_counter() - started
    done.set()
    loading.join()
    prefixes = [token_prefixes(key) for key in (old, new)]
    stale, fresh = (
        project.database.rows(
            "SELECT count(*) FROM public.user_logins WHERE left(masked_ip, 7) = ANY (ARRAY['{0}'])"  # noqa: S608
            " OR left(masked_device_id, 7) = ANY (ARRAY['{0}'])".format("', '".join(some))
        )[0][0]
        for some in prefixes
    )
    print(
        f"\nremask of {counts['rows']} rows: {seconds:.1f} s, {stale} rows with a stale key; meanwhile "
        f"{len(loads)} runs loaded {sent} messages, slowest {max(took for _, took in loads):.1f} s"
    )
    assert counts["rows"] == ROWS
    assert stale == 0
    assert fresh == ROWS + 100 + sent
    assert {run["state"] for run, _ in loads} == {"succeeded"}
    assert sum(run["loaded"] for run, _ in loads) == sent > 0
