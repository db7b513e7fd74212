"""The keyset: the one secret that masks, encrypts and recovers; how it is stored and wrapped."""
