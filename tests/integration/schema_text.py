"""A database's schema as text people can read and compare: what is there, and who may do what with it.

Only what all supported versions of Postgres say alike: no bodies of views and functions (they have their own
tests), no rights of the owner over its own things; and no partitions, which come with the rows.
"""

import psycopg

QUERIES = {
    "role": """
        WITH role AS (
            SELECT * FROM pg_roles
            WHERE rolname IN ('etl_owner', 'etl_loader', 'etl_maintainer', 'etl_remasker', 'analyst',
                              'pii_officer', 'ops_ro')
        )
        SELECT rolname, CASE WHEN rolsuper THEN 'superuser' ELSE '' END FROM role
        UNION ALL
        SELECT member::regrole::text, 'member of ' || roleid::regrole FROM pg_auth_members
        WHERE member IN (SELECT oid FROM role) AND roleid IN (SELECT oid FROM role)
        UNION ALL
        SELECT rolname, 'set ' || unnest(setconfig) FROM role
        JOIN pg_db_role_setting ON role.oid = setrole JOIN pg_database ON pg_database.oid = setdatabase
        WHERE datname = current_database()
    """,
    "schema": """
        SELECT nspname, 'owner ' || nspowner::regrole FROM pg_namespace WHERE nspname IN ('etl', 'pii')
        UNION ALL SELECT nspname, 'grant ' || unnest(nspacl) FROM pg_namespace
        WHERE nspname IN ('public', 'etl', 'pii')
    """,
    "relation": """
        WITH relation AS (
            SELECT *, oid::regclass::text AS name FROM pg_class
            WHERE relnamespace::regnamespace::text IN ('public', 'etl', 'pii')
              AND relkind IN ('r', 'p', 'v', 'S') AND NOT relispartition
        )
        SELECT name, 'owner ' || relowner::regrole FROM relation
        UNION ALL SELECT name, 'partition by ' || pg_get_partkeydef(oid) FROM relation WHERE relkind = 'p'
        UNION ALL SELECT name, 'grant ' || unnest(relacl) FROM relation
        UNION ALL SELECT name, 'grant (' || attname || ') ' || unnest(attacl)
                  FROM relation JOIN pg_attribute ON attrelid = relation.oid
        UNION ALL SELECT name, 'constraint ' || conname || ' ' || pg_get_constraintdef(pg_constraint.oid)
                  FROM relation JOIN pg_constraint ON conrelid = relation.oid WHERE contype <> 'n'
        UNION ALL SELECT name, pg_get_indexdef(indexrelid)
                  FROM relation JOIN pg_index ON indrelid = relation.oid
        UNION ALL SELECT name, concat_ws(' ', 'column', to_char(attnum, '00'), attname,
                         format_type(atttypid, atttypmod),
                         CASE WHEN attnotnull THEN 'not null' END,
                         CASE attidentity WHEN 'a' THEN 'identity' END,
                         'default ' || pg_get_expr(adbin, adrelid),
                         CASE WHEN attstorage <> typstorage THEN 'storage ' || attstorage::text END)
                  FROM relation JOIN pg_attribute ON attrelid = relation.oid
                  JOIN pg_type ON pg_type.oid = atttypid
                  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                  WHERE attnum > 0 AND NOT attisdropped AND relkind <> 'S'
    """,
    "function": """
        WITH function AS (
            SELECT *, oid::regprocedure::text AS name FROM pg_proc
            WHERE pronamespace::regnamespace::text IN ('public', 'etl', 'pii')
        )
        SELECT name, 'owner ' || proowner::regrole FROM function
        UNION ALL SELECT name, 'security definer' FROM function WHERE prosecdef
        UNION ALL SELECT name, 'set ' || unnest(proconfig) FROM function
        UNION ALL SELECT name, 'grant ' || unnest(proacl) FROM function
    """,
}


def schema_text(connection: psycopg.Connection) -> str:
    """A paragraph for each role, schema, relation and function."""
    things: dict[str, set[str]] = {}
    for kind, query in QUERIES.items():
        for name, line in connection.execute(query):
            things.setdefault(f"{kind} {name}", set()).update([line] if _is_said(line) else [])
    return "\n".join(
        "\n".join([name, *(f"  {line}" for line in sorted(lines))]) + "\n"
        for name, lines in sorted(things.items())
    )


def _is_said(line: str) -> bool:
    owners = ("grant etl_owner=", "grant pg_database_owner=", "grant =U/pg_database_owner")
    return bool(line) and not line.startswith(owners)
