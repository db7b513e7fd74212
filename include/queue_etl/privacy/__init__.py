"""What the privacy officer does: unmask, erase, rotate keys, and the audit of it all."""
