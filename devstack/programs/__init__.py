"""Programs that run in the project's virtualenv; all else here needs the standard library alone."""
