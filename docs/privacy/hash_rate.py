"""How fast one core of this machine tries values against unkeyed hashes: python docs/privacy/hash_rate.py.

A timed sample, extrapolated to the whole space. Without a C compiler the sample is Python's, and a real
attacker is many times as fast.
"""

# ruff: noqa: T201 - it prints

import hashlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SECONDS = 2.0
SPACES = {"every IPv4 address": 2**32, "every ddd-dd-dddd device id": 10**9}
# One compression of one padded block for each text, as a cracking program does it. Only the rate matters, so
# the texts are the numbers themselves.
NATIVE = r"""
#include <openssl/sha.h>
#include <openssl/md5.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
int main(int argc, char **argv) {
    unsigned char block[64] = "000.000.000.000\x80";
    SHA256_CTX sha, sha0;
    MD5_CTX md5, md50;
    SHA256_Init(&sha0);
    MD5_Init(&md50);
    unsigned long n = 0, found = 0;
    double start = now();
    while (now() - start < %SECONDS%)
        for (int i = 0; i < 100000; i++, n++) {
            memcpy(block, &n, 8);
            if (argv[1][0] == 'm') {
                md5 = md50;
                MD5_Transform(&md5, block);
                found += md5.A == 1;
            } else {
                sha = sha0;
                SHA256_Transform(&sha, block);
                found += sha.h[0] == 1;
            }
        }
    printf("%f\n", n / (now() - start));
    return found > n;
}
"""


def python_rate(name: str) -> float:
    """Hashes a second of this interpreter, on one core."""
    digest, count, started = getattr(hashlib, name), 0, time.process_time()
    while time.process_time() - started < SECONDS:
        for number in range(count, count + 10_000):
            digest(b"%d.0.113.7" % number).digest()
        count += 10_000
    return count / (time.process_time() - started)


def native_rate(name: str) -> float | None:
    """Hashes a second of a small C program, on one core; None without compiler and OpenSSL's headers."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "rate.c"), Path(folder, "rate")
        source.write_text(NATIVE.replace("%SECONDS%", str(SECONDS)), encoding="utf-8")
        command = [compiler, "-O3", "-w", str(source), "-o", str(program), "-lcrypto"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        return float(subprocess.run([program, name], capture_output=True, check=False, text=True).stdout)


def main() -> None:
    """Print a line for each hash and space."""
    for name in ("sha256", "md5"):
        native = native_rate(name)
        rate, how = (native, "C") if native else (python_rate(name), "Python")
        for space, size in SPACES.items():
            sample = f"{rate / 1e6:.1f} million/s ({how}, {SECONDS:.0f} s sample)"
            print(f"{name}: {sample}: {space} in {size / rate:,.0f} s")
    print("keyed: without the key there is nothing to try values against but 2**256 keys")


if __name__ == "__main__":
    main()
