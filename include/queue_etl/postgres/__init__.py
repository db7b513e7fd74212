"""The warehouse: connection, runs, loading, checks, and the migrations of its schema."""
