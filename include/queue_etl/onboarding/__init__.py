"""From a sample of real messages to a proposed contract. Pure; no value of the sample leaves it."""
