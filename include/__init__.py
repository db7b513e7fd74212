"""What the DAGs use: the engine, the contracts, the migrations, the sample."""
