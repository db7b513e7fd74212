SET LOCAL ROLE etl_owner;

-- Partitions of contracts' tables ---------------------------------------------------------------------------

-- Only `migrate` writes here, as the owner. So whoever may load can make partitions of these tables only, and
-- cannot choose which rows are old enough to go.
CREATE TABLE etl.tables (
    table_name       text PRIMARY KEY,
    partition_kind   text NOT NULL CHECK (partition_kind IN ('month', 'day')),
    partition_column text NOT NULL,
    retain_days      integer CHECK (retain_days > 0)
);
COMMENT ON TABLE etl.tables IS 'The partitioned tables of contracts, as the contracts say; migrate renews it.';
COMMENT ON COLUMN etl.tables.retain_days IS 'Older partitions are dropped; NULL: none is.';

-- The days that one partition holds: first_day <= day < end_day. Dates may be forged, and every partition costs
-- each query that reads the whole table a lock and some planning. So days of their own are made only near today,
-- months only from 1970 to 2100, and one partition holds all before, one all after. The limits are constants:
-- a limit by count would leave no room for true dates where forged ones came first. A DEFAULT partition would do
-- as well, but to attach another beside it waits for everybody who reads the table.
CREATE FUNCTION etl.partition_range(kind text, moment date, OUT first_day date, OUT end_day date)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    IF moment < DATE '1970-01-01' THEN
        first_day := '-infinity';
        end_day := DATE '1970-01-01';
    ELSIF moment >= DATE '2101-01-01' THEN
        first_day := DATE '2101-01-01';
        end_day := 'infinity';
    ELSIF kind = 'day' AND moment BETWEEN current_date - 400 AND current_date + 31 THEN
        first_day := moment;
        end_day := moment + 1;
    ELSE
        first_day := date_trunc('month', moment::timestamp);
        end_day := first_day + interval '1 month';
    END IF;
END $$;

-- user_logins_p202611, user_logins_p20261126, user_logins_before or user_logins_after.
CREATE FUNCTION etl.partition_name(contract_table regclass, first_day date, end_day date) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        -- A name has 63 bytes at most, and Postgres cuts a longer one: two tables could then mean the same.
        WHEN octet_length(relname) > 50 THEN left(relname, 8) || '_' || left(md5(relname), 16) ELSE relname
    END || CASE
        WHEN first_day = '-infinity' THEN '_before'
        WHEN end_day = 'infinity' THEN '_after'
        WHEN first_day = date_trunc('month', first_day::timestamp) AND end_day = first_day + interval '1 month'
            THEN to_char(first_day, '"_p"YYYYMM')
        ELSE to_char(first_day, '"_p"YYYYMMDD')
    END
    FROM pg_class WHERE oid = contract_table
$$;

-- The partitions that are there, by whomever they were made; not a DEFAULT one.
CREATE FUNCTION etl.partition_ranges(contract_table regclass)
RETURNS TABLE (partition_table regclass, first_day date, end_day date)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
    SELECT oid::regclass,
           CASE bounds[1] WHEN 'MINVALUE' THEN '-infinity' ELSE btrim(bounds[1], '''')::date END,
           CASE bounds[2] WHEN 'MAXVALUE' THEN 'infinity' ELSE btrim(bounds[2], '''')::date END
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    CROSS JOIN regexp_match(pg_get_expr(relpartbound, oid), '^FOR VALUES FROM \((.+)\) TO \((.+)\)$') AS bounds
    WHERE inhparent = contract_table AND bounds IS NOT NULL
$$;

-- Which of these days no partition holds: each stretch by its first day and the day after its last.
CREATE FUNCTION etl.partition_gaps(contract_table regclass, first_day date, end_day date)
RETURNS TABLE (gap_first_day date, gap_end_day date)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH there AS MATERIALIZED (
        SELECT part.first_day, part.end_day FROM etl.partition_ranges(contract_table) AS part
        WHERE part.end_day >= partition_gaps.first_day AND part.first_day < partition_gaps.end_day
    ), starts AS (
        SELECT partition_gaps.first_day AS start
        UNION SELECT there.end_day FROM there WHERE there.end_day < partition_gaps.end_day
    )
    SELECT start, least((SELECT min(there.first_day) FROM there WHERE there.first_day > start),
                        partition_gaps.end_day)
    FROM starts
    WHERE NOT EXISTS (SELECT FROM there WHERE there.first_day <= start AND there.end_day > start)
    ORDER BY start
$$;

-- Those of these days for which etl.ensure_partition has something to do, or at least to look at: by the
-- partition's name, which takes the same time however many there are.
CREATE FUNCTION etl.missing_partitions(contract_table regclass, days date[]) RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH named AS MATERIALIZED (  -- or else Postgres would look the name up for each partition there is
        SELECT day, to_regclass(format('%s.%I', relnamespace::regnamespace,
                                       etl.partition_name(contract_table, first_day, end_day))) AS partition_table
        FROM pg_class CROSS JOIN unnest(days) AS day CROSS JOIN etl.partition_range(
            (SELECT partition_kind FROM etl.tables WHERE to_regclass(table_name) = contract_table), day
        )
        WHERE oid = contract_table
    )
    SELECT day FROM named
    WHERE NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = partition_table AND inhparent = contract_table
    )
    ORDER BY day
$$;

CREATE FUNCTION etl.partition_bounds(first_day date, end_day date) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' AS $$
    SELECT format('FROM (%s) TO (%s)',
                  CASE first_day WHEN '-infinity' THEN 'MINVALUE' ELSE quote_literal(first_day) END,
                  CASE end_day WHEN 'infinity' THEN 'MAXVALUE' ELSE quote_literal(end_day) END)
$$;

-- Takes from everybody but the owner what they may do with a table: who may use a partitioned table needs no
-- right to its partitions, and default privileges may give some.
CREATE FUNCTION etl.revoke_all(of_table regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        FROM pg_class CROSS JOIN aclexplode(relacl) WHERE oid = of_table AND grantee <> relowner
        UNION
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        FROM pg_attribute CROSS JOIN aclexplode(attacl) WHERE attrelid = of_table
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', of_table, grantee_name);
    END LOOP;
END $$;

-- Makes the partition for rows of that day, if there is none; returns how many were made. More than one only
-- where others were made by hand: what they leave of the range. Create, then attach, as for the ledger: loads
-- under way go on. Call it in a transaction of its own for each day: it takes some five locks a partition.
CREATE FUNCTION etl.ensure_partition(contract_table regclass, moment date) RETURNS integer
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    kind text := (SELECT partition_kind FROM etl.tables WHERE to_regclass(table_name) = contract_table);
    namespace text := (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = contract_table);
    wanted record := etl.partition_range(kind, moment);
    gap record;
    base_name text;
    full_name text;
    made integer := 0;
BEGIN
    IF kind IS NULL THEN
        RAISE EXCEPTION 'etl.tables has no table %', contract_table USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM etl.partition_gaps(contract_table, wanted.first_day, wanted.end_day)) THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(contract_table::oid::bigint);
    FOR gap IN SELECT * FROM etl.partition_gaps(contract_table, wanted.first_day, wanted.end_day) LOOP
        base_name := etl.partition_name(contract_table, gap.gap_first_day, gap.gap_end_day);
        full_name := format('%s.%I', namespace, base_name);
        FOR attempt IN 2..99 LOOP  -- a partition that was detached keeps its name
            EXIT WHEN to_regclass(full_name) IS NULL;
            full_name := format('%s.%I', namespace, base_name || '_' || attempt);
        END LOOP;
        EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING GENERATED '
                       'INCLUDING STORAGE INCLUDING COMPRESSION)', full_name, contract_table);
        PERFORM etl.revoke_all(full_name::regclass);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES %s', contract_table, full_name,
                       etl.partition_bounds(gap.gap_first_day, gap.gap_end_day));
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- The partitions whose last day is more than retain_days ago, the oldest first.
CREATE FUNCTION etl.expired_partitions(contract_table regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT partition_table FROM etl.tables CROSS JOIN etl.partition_ranges(contract_table)
    WHERE to_regclass(table_name) = contract_table AND end_day <= current_date - retain_days
    ORDER BY end_day
$$;

-- Drops up to 50 of them, and so few that one transaction has locks enough; returns how many. Waits at most five
-- seconds for those who use the table.
CREATE FUNCTION etl.drop_partitions(contract_table regclass) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    partition_table regclass;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(contract_table::oid::bigint);
    FOR partition_table IN SELECT * FROM etl.expired_partitions(contract_table) LIMIT 50 LOOP
        EXECUTE format('DROP TABLE %s', partition_table);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

RESET ROLE;

-- public.user_logins, by month of create_date ---------------------------------------------------------------

-- The rows stay where they are: the table itself becomes the first partition, user_logins_first, however large.
-- It is read twice, under a lock that keeps everybody else out.
DO $$
DECLARE
    logins regclass := 'public.user_logins';
    logins_comment text := obj_description('public.user_logins'::regclass, 'pg_class');
    dependents text;
    dateless bigint;
    first_day date;
    end_day date;
    statement text;
    grants text[];
    views text[];
BEGIN
    IF pg_get_partkeydef(logins) = 'RANGE (create_date)' THEN
        RETURN;  -- by somebody's own hand
    END IF;
    LOCK TABLE public.user_logins IN ACCESS EXCLUSIVE MODE;

    -- What would go on with the old rows only, and is not made anew below.
    SELECT string_agg(DISTINCT name, ', ') INTO dependents
    FROM (
        SELECT pg_describe_object(classid, objid, objsubid) AS name FROM pg_depend
        WHERE refclassid = 'pg_class'::regclass AND refobjid = logins
          AND classid NOT IN ('pg_attrdef'::regclass, 'pg_type'::regclass, 'pg_statistic_ext'::regclass)
          AND NOT EXISTS (SELECT FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
                          WHERE classid = 'pg_rewrite'::regclass AND pg_rewrite.oid = objid AND relkind = 'v')
          AND NOT EXISTS (SELECT FROM pg_constraint
                          WHERE classid = 'pg_constraint'::regclass AND pg_constraint.oid = objid
                            AND contype IN ('c', 'n', 'p', 'u'))
          AND NOT EXISTS (SELECT FROM pg_class
                          WHERE classid = 'pg_class'::regclass AND pg_class.oid = objid
                            AND (relkind IN ('i', 'I', 't') OR relispartition))
        UNION ALL
        SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
        WHERE refclassid = 'pg_type'::regclass AND classid <> 'pg_type'::regclass
          AND refobjid IN (SELECT unnest(ARRAY[pg_type.oid, typarray]) FROM pg_type WHERE typrelid = logins)
        UNION ALL
        SELECT format('unique index %s, which lacks create_date', indexrelid::regclass)
        FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attname = 'create_date'
        WHERE indrelid = logins AND (indisunique OR indisexclusion) AND attnum <> ALL (indkey)
    ) AS dependent;
    IF dependents IS NOT NULL THEN
        RAISE EXCEPTION 'public.user_logins cannot be partitioned because of %; drop it, migrate, make it again',
            dependents USING ERRCODE = 'wrong_object_type';
    END IF;

    SELECT count(*) FILTER (WHERE create_date IS NULL), date_trunc('month', min(create_date)::timestamp),
           date_trunc('month', max(create_date)::timestamp) + interval '1 month'
    INTO dateless, first_day, end_day FROM public.user_logins;
    IF dateless > 0 THEN
        RAISE EXCEPTION 'public.user_logins has % rows without create_date, which no load makes; '
            'give them a date or delete them, then migrate', dateless USING ERRCODE = 'wrong_object_type';
    END IF;

    grants := ARRAY(
        SELECT format('GRANT %s%s ON public.user_logins TO %s%s', privilege_type, column_name,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
                      CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
        FROM (
            SELECT '' AS column_name, acl.*, relowner FROM pg_class CROSS JOIN aclexplode(relacl) AS acl
            WHERE oid = logins
            UNION ALL
            SELECT format(' (%I)', attname), acl.*, relowner
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid CROSS JOIN aclexplode(attacl) AS acl
            WHERE attrelid = logins
        ) AS given
        WHERE grantee <> relowner
    );
    views := ARRAY(
        SELECT DISTINCT format('CREATE OR REPLACE VIEW %s%s AS %s', view.oid::regclass,
                               ' WITH (' || array_to_string(reloptions, ', ') || ')', pg_get_viewdef(view.oid))
        FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid JOIN pg_class AS view ON view.oid = ev_class
        WHERE refclassid = 'pg_class'::regclass AND refobjid = logins AND classid = 'pg_rewrite'::regclass
    );

    ALTER TABLE public.user_logins OWNER TO etl_owner;
    ALTER TABLE public.user_logins RENAME TO user_logins_first;
    CREATE TABLE public.user_logins (LIKE public.user_logins_first INCLUDING ALL) PARTITION BY RANGE (create_date);
    ALTER TABLE public.user_logins ALTER create_date SET NOT NULL;
    ALTER TABLE public.user_logins OWNER TO etl_owner;
    EXECUTE format('COMMENT ON TABLE public.user_logins IS %L', logins_comment);
    PERFORM etl.revoke_all('public.user_logins');
    FOREACH statement IN ARRAY grants || views LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM etl.revoke_all(logins);

    IF first_day IS NULL THEN
        DROP TABLE public.user_logins_first;
    ELSE
        -- This reads the rows once, and spares SET NOT NULL and ATTACH from reading them again.
        EXECUTE format('ALTER TABLE public.user_logins_first ADD CONSTRAINT user_logins_first_days '
                       'CHECK (create_date IS NOT NULL AND create_date >= %L AND create_date < %L)',
                       first_day, end_day);
        ALTER TABLE public.user_logins_first ALTER create_date SET NOT NULL;
        EXECUTE format('ALTER TABLE public.user_logins ATTACH PARTITION public.user_logins_first FOR VALUES %s',
                       etl.partition_bounds(first_day, end_day));
        ALTER TABLE public.user_logins_first DROP CONSTRAINT user_logins_first_days;
    END IF;
END $$;

INSERT INTO etl.tables (table_name, partition_kind, partition_column)
VALUES ('public.user_logins', 'month', 'create_date');
