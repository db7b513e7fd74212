"""What the server may write into its own log: on managed Postgres the migrations could not forbid it."""

from typing import LiteralString

from include.queue_etl.postgres.connection import Connection


def warnings(connection: Connection) -> list[str]:
    """Roles whose statements and messages the server may log, values included; a sentence each.

    The migrations set this for each role in its database, which takes a superuser. The server's own
    configuration does as well: it is asked where a role has no setting.
    """
    return [
        f"the server's log may quote personal data that {role} sends: nobody could set {missing} for it. "
        f"As a superuser run {statements}; or set it in the server's configuration"
        for role, missing, statements in connection.execute(MISSING)
    ]


# A setting of a role in a database wins over one of the role. What this session's own role has set says
# nothing of the others.
MISSING: LiteralString = """
    WITH wanted (name, value) AS (VALUES
        ('log_error_verbosity', 'terse'), ('log_min_error_statement', 'panic'), ('log_min_messages', 'fatal'),
        ('log_statement', 'none'), ('log_min_duration_statement', '-1'), ('log_parameter_max_length', '0'),
        ('log_parameter_max_length_on_error', '0')
    ), missing AS (
        SELECT rolname, wanted.name, wanted.value
        FROM pg_roles CROSS JOIN wanted
        LEFT JOIN LATERAL (
            SELECT split_part(setting, '=', 2) AS value
            FROM pg_db_role_setting, unnest(setconfig) AS setting
            WHERE setrole = pg_roles.oid AND split_part(setting, '=', 1) = wanted.name
              AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            ORDER BY setdatabase DESC LIMIT 1
        ) AS own ON true
        LEFT JOIN pg_settings AS server
            ON server.name = wanted.name
               AND server.source NOT IN ('user', 'database user', 'client', 'session')
        WHERE rolname IN ('etl_loader', 'etl_maintainer', 'etl_remasker', 'pii_officer')
          AND coalesce(own.value, server.setting) IS DISTINCT FROM wanted.value
    )
    SELECT rolname, string_agg(name, ', ' ORDER BY name),
           string_agg(format('ALTER ROLE %I IN DATABASE %I SET %s = %L',
                             rolname, current_database(), name, value), '; ' ORDER BY name)
    FROM missing GROUP BY rolname ORDER BY rolname
"""
