"""The second contract: a pipeline that shares nothing with `user_logins` but the engine."""
