"""What the DAGs use: the engine, the contracts, the migrations, the sample."""

VERSION = "0.2.0.dev0"  # as in pyproject.toml, which the image does not have
