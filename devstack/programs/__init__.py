"""Programs that run in the project's virtualenv; the rest of the launcher needs the standard library alone."""
