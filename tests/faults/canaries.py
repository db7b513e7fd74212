"""Looking for personal values, in whatever form, wherever they must not be."""

import base64
import gzip
import zlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import quote

import zstandard

from devstack import postgres
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK, PHONE_MARK
from tests.faults.servers import Servers
from tests.integration.scratch import Database

ZSTD_MAGIC, GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"
TABLES = """
    SELECT format('%I.%I', nspname, relname)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
"""


def forms(text: str) -> list[bytes]:
    """The text as it is, as hex, url-encoded, as UTF-16, and in base64 at each of the three offsets."""
    raw = text.encode()
    return [
        raw,
        quote(text, safe="").encode(),
        text.encode("utf-16-le"),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        *_base64(raw),
    ]


def _base64(raw: bytes) -> Iterator[bytes]:
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw + b"\0\0")
        # Only characters made of `raw` alone: what stands before and behind it is not known.
        yield encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]


def needles() -> list[bytes]:
    """Every form of the marks that all canaries begin with."""
    packed = IPv6Address(f"{ADDRESS_MARK}::").packed[:8]
    texts = [form for mark in (ADDRESS_MARK, DEVICE_MARK, PHONE_MARK) for form in forms(mark)]
    return list(dict.fromkeys([*texts, packed, packed.hex().encode(), *_base64(packed)]))


NEEDLES = needles()


def hits(content: bytes) -> int:
    """How many forms of a canary the content holds, also inside what it holds compressed."""
    return _plain_hits(content) + sum(map(_plain_hits, _unpacked(content)))


def _plain_hits(content: bytes) -> int:
    return sum(needle in content for needle in NEEDLES)


def _unpacked(content: bytes) -> Iterator[bytes]:
    for start in _places(content, ZSTD_MAGIC):
        try:
            yield zstandard.ZstdDecompressor().decompressobj().decompress(content[start:])
        except zstandard.ZstdError:
            continue
    for start in _places(content, GZIP_MAGIC):
        try:
            yield zlib.decompressobj(wbits=gzip.zlib.MAX_WBITS | 16).decompress(content[start:])  # type: ignore[attr-defined]
        except zlib.error:
            continue


def _places(content: bytes, magic: bytes) -> Iterator[int]:
    start = content.find(magic)
    while start >= 0:
        yield start
        start = content.find(magic, start + 1)


def in_servers_files(servers: Servers) -> dict[str, int]:
    """File -> hits: staging with what it keeps of finished runs, logs, output, Postgres's files and WAL."""
    with servers.owner() as connection:
        connection.execute("CHECKPOINT")
    return in_files(searched(servers))


def in_files(paths: Iterable[Path]) -> dict[str, int]:
    """File -> hits, of those that have any."""
    found = {}
    for path in paths:
        try:
            count = hits(path.read_bytes())
        except FileNotFoundError:  # a file of a server that is at work
            continue
        if count:
            found[str(path)] = count
    return found


def in_tables(servers: Servers | Database) -> dict[str, int]:
    """Table -> hits, read as text, of those that have any."""
    found = {}
    with servers.owner() as connection:
        for (table,) in connection.execute(TABLES).fetchall():
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
                if count := hits(b"".join(bytes(block) for block in copy)):
                    found[table] = count
    return found


def in_buckets(servers: Servers) -> dict[str, int]:
    """Object -> hits, of those that have any."""
    client, found = servers.client("s3"), {}
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                content = client.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read()
                if count := hits(content):
                    found[f"s3://{bucket['Name']}/{item['Key']}"] = count
    return found


# What keeps something of what was received is found by one of these, or gets one.
PLACES = (in_servers_files, in_tables, in_buckets)


def everywhere(servers: Servers) -> dict[str, int]:
    """Place -> hits, of all PLACES."""
    return {place: hits for search in PLACES for place, hits in search(servers).items()}


def searched(servers: Servers) -> list[Path]:
    """The files that must hold no personal value; not the emulator's, whose messages they are."""
    folders = [servers.staging, servers.output, postgres.data_folder(servers.settings)]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [*files, servers.folder / "postgres.log", servers.folder / "servers.log"]
