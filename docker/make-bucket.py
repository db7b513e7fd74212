"""Make the bucket for staged files on the emulator, unless it is there: `make-bucket.py s3://bucket/prefix`.

Nothing is done for a folder. The standard library alone: the emulator checks no signature.
"""

import os
import sys
import urllib.request


def main(staging: str) -> None:
    """Make it; again changes nothing, for a bucket of one's own may be made twice."""
    if not staging.startswith("s3://"):
        return
    bucket = staging.removeprefix("s3://").partition("/")[0]
    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}", method="PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
        print(f"bucket {bucket} is there")


if __name__ == "__main__":
    main(sys.argv[1])
