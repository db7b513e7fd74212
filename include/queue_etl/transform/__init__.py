"""A raw batch becomes a masked batch and its rejected messages. Pure, given the keyset."""
