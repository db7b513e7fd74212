"""Staged files in a local folder and in a bucket: the same promises."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import boto3
import pytest

from include.queue_etl.errors import StagedFileDamaged, StagingUnavailable
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun
from include.queue_etl.staging.stores import LocalFolder, S3Prefix, Store
from include.queue_etl.transform.batches import RawBatch, ReceiptHandles, RejectedBatch

RAW, RECEIPTS, OTHER = (
    BatchFile("0000-abcdef", Kind.RAW),
    BatchFile("0000-abcdef", Kind.RECEIPT_HANDLES),
    BatchFile("0001-abcdef", Kind.RAW),
)
BATCH = RawBatch(7, [str(uuid4())], [1_769_900_000_000], [1], [b'{"ip": "canary-4711"}'])
ANOTHER = RawBatch(7, [], [], [], [])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    made = boto3.resource("s3", config=path_style()).Bucket(f"staging-{secrets.token_hex(4)}")
    made.create()
    yield made.name
    made.objects.delete()
    made.delete()


@pytest.fixture(scope="module", params=["folder", "bucket", "prefix"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all tests: each has a run, and so a folder, of its own."""
    if request.param == "folder":
        return LocalFolder(tmp_path_factory.mktemp("stores") / "staging")
    name = request.getfixturevalue("bucket")
    return in_bucket(f"s3://{name}" if request.param == "bucket" else f"s3://{name}/some/prefix/")


@pytest.fixture
def run_id() -> UUID:
    return uuid4()


@pytest.fixture
def keyset() -> Keyset:
    return Keyset.from_json(KeysetDocument.new().text)


@pytest.fixture
def staging(store: Store, run_id: UUID, keyset: Keyset) -> StagedRun:
    return StagedRun(store, run_id, keyset)


def path_style():
    from botocore.config import Config

    return Config(s3={"addressing_style": "path"})


def in_bucket(url: str, endpoint_url: str | None = None) -> S3Prefix:
    return S3Prefix(url, boto3.Session(), endpoint_url or os.environ["AWS_ENDPOINT_URL"])


def path(run_id: UUID, file: BatchFile) -> str:
    return f"{run_id}/{file.name}"


def test_what_was_sealed_opens(staging):
    staging.seal(RAW, BATCH)
    assert staging.open(RAW, RawBatch) == BATCH


def test_a_file_that_is_not_there_is_none(staging):
    assert staging.open(RAW, RawBatch) is None
    assert staging.batches(Kind.RAW) == []


def test_another_process_with_the_same_key_adopts_what_was_sealed(staging, store, run_id, keyset):
    staging.seal(RAW, BATCH)
    later = StagedRun(store, run_id, keyset)
    assert later.batches(Kind.RAW) == [RAW.batch]
    assert later.open(RAW, RawBatch) == BATCH


def test_sealing_again_replaces_the_file(staging):
    staging.seal(RAW, BATCH)
    staging.seal(RAW, ANOTHER)
    assert staging.open(RAW, RawBatch) == ANOTHER
    assert staging.batches(Kind.RAW) == [RAW.batch]


def test_batches_are_listed_by_kind_and_sorted(staging):
    for number in (2, 0, 1):
        staging.seal(BatchFile(f"000{number}-abcdef", Kind.RAW), ANOTHER)
    staging.seal(BatchFile("0009-abcdef", Kind.MASKED), RejectedBatch(b""))
    assert staging.batches(Kind.RAW) == ["0000-abcdef", "0001-abcdef", "0002-abcdef"]
    assert staging.batches(Kind.MASKED) == ["0009-abcdef"]


def test_a_foreign_name_is_no_batch_and_is_left_alone(staging, store, run_id):
    store.write(f"{run_id}/note.txt", b"mine")
    staging.seal(RAW, BATCH)
    assert [staging.batches(kind) for kind in Kind] == [[], [RAW.batch], [], []]
    staging.destroy(*Kind)
    assert store.names(str(run_id)) == ["note.txt"]


def test_only_what_is_named_is_destroyed(staging):
    for file in (RAW, OTHER):
        staging.seal(file, BATCH)
    staging.seal(RECEIPTS, ReceiptHandles(["id"], ["receipt"]))
    staging.destroy(Kind.RAW, batch=RAW.batch)
    assert (staging.batches(Kind.RAW), staging.batches(Kind.RECEIPT_HANDLES)) == (
        [OTHER.batch],
        [RECEIPTS.batch],
    )
    staging.destroy(*Kind)
    staging.destroy(*Kind)
    assert [staging.batches(kind) for kind in Kind] == [[], [], [], []]


def test_the_content_is_not_readable_where_it_lies(staging, store, run_id):
    staging.seal(RAW, BATCH)
    sealed = store.read(path(run_id, RAW))
    assert sealed
    assert b"canary" not in sealed


def test_equal_contents_do_not_look_equal(staging, store, run_id):
    sealed = []
    for _ in range(2):
        staging.seal(RAW, BATCH)
        sealed.append(store.read(path(run_id, RAW)))
    assert sealed[0] != sealed[1]


# Damage -----------------------------------------------------------------------------------------------------


def damaged(staging: StagedRun, file: BatchFile = RAW, content_type: type = RawBatch) -> None:
    with pytest.raises(StagedFileDamaged, match="is not what was sealed under that name") as caught:
        staging.open(file, content_type)
    seen: BaseException | None = caught.value
    while seen:
        assert "canary" not in f"{seen}{seen!r}"
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize("part", [0.0, 0.02, 0.2, 0.5, 0.99])
def test_a_truncated_file_does_not_open(staging, store, run_id, part):
    staging.seal(RAW, BATCH)
    sealed = store.read(path(run_id, RAW))
    store.write(path(run_id, RAW), sealed[: int(len(sealed) * part)])
    damaged(staging)


def test_no_length_of_a_truncated_file_opens(run_id, keyset, tmp_path):
    store = LocalFolder(tmp_path)
    staging = StagedRun(store, run_id, keyset)
    staging.seal(RAW, BATCH)
    sealed = store.read(path(run_id, RAW))
    assert sealed
    for length in range(len(sealed)):
        (tmp_path / path(run_id, RAW)).write_bytes(sealed[:length])
        damaged(staging)


@pytest.mark.parametrize("at", [0, 4, 5, 6, 10, 40, 70, -20, -1])
def test_a_flipped_bit_is_noticed_wherever_it_is(staging, store, run_id, at):
    staging.seal(RAW, BATCH)
    sealed = bytearray(store.read(path(run_id, RAW)))
    sealed[at] ^= 1
    store.write(path(run_id, RAW), bytes(sealed))
    damaged(staging)


def test_something_added_is_noticed(staging, store, run_id):
    staging.seal(RAW, BATCH)
    store.write(path(run_id, RAW), store.read(path(run_id, RAW)) + b"\0")
    damaged(staging)


def test_two_files_swapped_do_not_open(staging, store, run_id):
    staging.seal(RAW, BATCH)
    staging.seal(OTHER, ANOTHER)
    one, other = (store.read(path(run_id, file)) for file in (RAW, OTHER))
    store.write(path(run_id, RAW), other)
    store.write(path(run_id, OTHER), one)
    damaged(staging, RAW)
    damaged(staging, OTHER)


def test_a_file_of_another_kind_does_not_open(staging, store, run_id):
    staging.seal(RAW, BATCH)
    store.write(path(run_id, RECEIPTS), store.read(path(run_id, RAW)))
    damaged(staging, RECEIPTS)


def test_a_file_of_another_run_does_not_open(staging, store, run_id, keyset):
    elsewhere = uuid4()
    StagedRun(store, elsewhere, keyset).seal(RAW, BATCH)
    store.write(path(run_id, RAW), store.read(path(elsewhere, RAW)))
    damaged(staging)


def test_a_file_sealed_with_another_keyset_does_not_open(staging, store, run_id):
    StagedRun(store, run_id, Keyset.from_json(KeysetDocument.new().text)).seal(RAW, BATCH)
    damaged(staging)


def test_a_file_of_another_content_does_not_open(staging):
    staging.seal(RAW, ReceiptHandles(["canary"], ["canary"]))
    damaged(staging)


# Out of reach -----------------------------------------------------------------------------------------------


def test_a_place_that_can_be_written_has_no_problem_and_keeps_nothing(store):
    assert store.problem() is None
    names = [*store.names("."), *(file.name for file in store.everything())]
    assert [name for name in names if "probe" in name] == []


def test_everything_is_told_with_its_size_and_time(store, run_id):
    before = time.time()
    store.write(f"{run_id}/0000-abcdef.raw", b"12345")
    (found,) = [file for file in store.everything() if file.name.startswith(str(run_id))]
    assert (found.name, found.size) == (f"{run_id}/0000-abcdef.raw", 5)
    assert before - 2 <= found.written_at <= time.time() + 2  # a bucket tells whole seconds


def test_a_missing_bucket_is_one_clear_error(run_id, keyset):
    store = in_bucket("s3://no-such-bucket-here/x")
    staging = StagedRun(store, run_id, keyset)
    for act in (
        lambda: staging.seal(RAW, BATCH),
        lambda: staging.open(RAW, RawBatch),
        lambda: staging.batches(Kind.RAW),
    ):
        with pytest.raises(StagingUnavailable, match=r"cannot \w+ s3://no-such-bucket-here/x/.*NoSuchBucket"):
            act()
    assert store.problem().startswith("staging: cannot write s3://no-such-bucket-here/x/.probe-")


def test_a_bucket_out_of_reach_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert in_bucket("s3://any-bucket", "http://127.0.0.1:9").problem().endswith(": EndpointConnectionError")


def test_a_run_may_have_more_files_than_one_listing_shows(bucket, run_id, keyset):
    store = in_bucket(f"s3://{bucket}/many")
    # S3 lists 1,000 keys at a time; two are enough to see that the listing goes on.
    store._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2}
    )
    staging = StagedRun(store, run_id, keyset)
    for number in range(5):
        store.write(f"{run_id}/{number:04}-abcdef.raw", b"x")
    assert len(staging.batches(Kind.RAW)) == 5
    staging.destroy(Kind.RAW)
    assert staging.batches(Kind.RAW) == []


def test_more_files_can_be_removed_than_one_call_takes(bucket, run_id):
    store = in_bucket(f"s3://{bucket}/many")
    last = f"{run_id}/9999-abcdef.raw"
    store.write(last, b"x")
    store.remove([*(f"{run_id}/{number:04}-abcdef.raw" for number in range(1_000)), last])
    assert store.read(last) is None


def test_a_folder_that_vanished_while_the_run_was_open_is_an_empty_one(run_id, keyset, tmp_path):
    staging = StagedRun(LocalFolder(tmp_path / "staging"), run_id, keyset)
    staging.seal(RAW, BATCH)
    shutil.rmtree(tmp_path / "staging")
    assert staging.open(RAW, RawBatch) is None
    assert staging.batches(Kind.RAW) == []


@pytest.mark.skipif(
    os.geteuid() == 0, reason="root may write everywhere; tests/unit/test_staging.py has it too"
)
def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in str(LocalFolder(tmp_path / "staging").problem())
