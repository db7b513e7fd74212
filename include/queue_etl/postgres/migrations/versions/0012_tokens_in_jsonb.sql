SET LOCAL ROLE etl_owner;

-- Tokens inside jsonb columns -------------------------------------------------------------------------------

ALTER TABLE etl.masked_columns ADD COLUMN path text NOT NULL DEFAULT '';
COMMENT ON COLUMN etl.masked_columns.path IS
    'Where the tokens stand inside a jsonb column, such as [*].phone; empty: the column is the token.';
ALTER TABLE etl.masked_columns DROP CONSTRAINT masked_columns_pkey;
ALTER TABLE etl.masked_columns ADD PRIMARY KEY (table_name, column_name, contract, field, scheme, path);

-- '[*].phone' -> {[*],phone}: names of fields, and [*] for each item of a list or value of a map.
-- include/queue_etl/transform/json_values.py does the same.
CREATE FUNCTION etl.json_steps(path text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(step[1] ORDER BY place), '{}')
    FROM regexp_matches(path, '\[\*\]|[^.\[]+', 'g') WITH ORDINALITY AS found (step, place)
$$;

-- The path in Postgres' own language, which has one word for the items of a list and another for the values of a
-- map: so a path with n times [*] becomes 2 to the n. None of them fails, or finds more than the path says,
-- whatever the document is.
CREATE FUNCTION etl.json_paths(path text) RETURNS jsonpath[]
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made text[] := '{strict $}';
    step text;
BEGIN
    FOREACH step IN ARRAY etl.json_steps(path) LOOP
        made := ARRAY(
            SELECT start || next_step
            FROM unnest(made) AS start CROSS JOIN unnest(CASE step
                WHEN '[*]' THEN ARRAY[' ? (@.type() == "array")[*]', ' ? (@.type() == "object").*']
                ELSE ARRAY[format(' ? (exists(@.%1$s)).%1$s', to_json(step))]
            END) AS next_step
        );
    END LOOP;
    RETURN made::jsonpath[];
END $$;

-- All values at the paths. Without SET, which would cost more than the function: Postgres puts it into the query.
CREATE FUNCTION etl.json_values(document jsonb, paths jsonpath[]) RETURNS SETOF jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_path_query(document, path) FROM unnest(paths) AS path
$$;

-- The document with each text at the steps that is a key of `moves` replaced by its value there; where `moves` is
-- NULL, everything at the steps becomes null. All else stays as it is. Without SET: it calls itself for each item.
CREATE FUNCTION etl.json_changed(document jsonb, steps text[], moves jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kind text := jsonb_typeof(document);
BEGIN
    IF cardinality(steps) = 0 THEN
        RETURN CASE WHEN moves IS NULL THEN 'null'
                    WHEN kind = 'string' THEN coalesce(moves -> (document #>> '{}'), document)
                    ELSE document END;
    ELSIF steps[1] = '[*]' AND kind = 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(etl.json_changed(item, steps[2:], moves) ORDER BY place), '[]')
                FROM jsonb_array_elements(document) WITH ORDINALITY AS entry (item, place));
    ELSIF steps[1] = '[*]' AND kind = 'object' THEN
        RETURN (SELECT coalesce(jsonb_object_agg(key, etl.json_changed(item, steps[2:], moves)), '{}')
                FROM jsonb_each(document) AS entry (key, item));
    ELSIF kind = 'object' AND document ? steps[1] THEN
        RETURN jsonb_set(document, steps[1:1], etl.json_changed(document -> steps[1], steps[2:], moves));
    END IF;
    RETURN document;
END $$;

-- What remask may do with a jsonb column: see and replace tokens at the paths that are registered, and nothing
-- beside them. It has no right to the column, whose other values may say whose the tokens are.

CREATE FUNCTION etl.require_path(of_table regclass, of_column text, of_path text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM etl.masked_columns
                   WHERE to_regclass(table_name) = of_table AND column_name = of_column AND path = of_path
                     AND path <> '') THEN
        RAISE EXCEPTION 'etl.masked_columns has no path % in % of %', of_path, of_column, of_table
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- Every token at the path that begins with one of the prefixes, as often as it is there; of the rows from one
-- place of the table, or of each of its partitions, up to another.
CREATE FUNCTION etl.tokens_inside(
    of_table regclass, of_column text, of_path text, prefixes text[],
    first_place tid DEFAULT '(0,0)', end_place tid DEFAULT '(4294967295,0)'
) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM etl.require_path(of_table, of_column, of_path);
    IF EXISTS (SELECT FROM unnest(prefixes) AS prefix WHERE prefix !~ '^A[Q-Za-f][A-Za-z0-9_-]{5}$') THEN
        RAISE EXCEPTION 'only the first seven characters of tokens' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT found #>> ''{}'' '
        'FROM %s AS row CROSS JOIN LATERAL etl.json_values(row.%I, %L) AS found '
        'WHERE row.ctid >= $1 AND row.ctid < $2 AND left(found #>> ''{}'', 7) = ANY ($3) '
        'AND jsonb_typeof(found) = ''string''',
        of_table, of_column, etl.json_paths(of_path)
    ) USING first_place, end_place, prefixes;
END $$;

-- Replaces tokens at several paths of one column: moves[n] has for paths[n] each old token and its new one.
-- Returns how many rows changed. A row that somebody else changes meanwhile is looked at again, as it is then.
CREATE FUNCTION etl.move_tokens_inside(
    of_table regclass, of_column text, paths text[], moves jsonb[], first_place tid, end_place tid
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text := quote_ident(of_column);
    conditions text[];
    rows_changed bigint;
BEGIN
    IF EXISTS (SELECT FROM unnest(moves) AS map CROSS JOIN LATERAL jsonb_each_text(map) AS move
               WHERE move.key !~ '^A[Q-Za-f]' OR move.value !~ '^A[Q-Za-f][A-Za-z0-9_-]*$') THEN
        RAISE EXCEPTION 'only tokens can be replaced, by tokens' USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR number IN 1..cardinality(paths) LOOP
        PERFORM etl.require_path(of_table, of_column, paths[number]);
        changed := format('etl.json_changed(%s, %L, $1[%s])', changed, etl.json_steps(paths[number]), number);
        conditions := conditions || format(
            'EXISTS (SELECT FROM etl.json_values(%I, %L) AS found WHERE $1[%s] ? (found #>> ''{}''))',
            of_column, etl.json_paths(paths[number]), number
        );
    END LOOP;
    EXECUTE format('UPDATE %s SET %I = %s WHERE ctid >= $2 AND ctid < $3 AND (%s)',
                   of_table, of_column, changed, array_to_string(conditions, ' OR '))
    USING moves, first_place, end_place;
    GET DIAGNOSTICS rows_changed = ROW_COUNT;
    RETURN rows_changed;
END $$;

-- Rights to a contract's table ------------------------------------------------------------------------------

DROP FUNCTION etl.grant_contract(regclass, text[], boolean);
DROP FUNCTION etl.grant_contract(regclass, text[]);

-- Gives a contract's table to etl_owner, and each role exactly its rights to it: pipelines insert, people read,
-- the officer erases, remask moves tokens to another key. `masked` are the columns that hold tokens, jsonb columns
-- with tokens inside too. `subject` is the column that says whose row it is, if there is one: it is erased too.
-- A table with a key (`is_upsert`) has rows replaced by later ones: who loads it reads and overwrites them. Called
-- again it restores these rights.
CREATE FUNCTION etl.grant_contract(
    contract_table regclass, masked text[], subject text DEFAULT 'user_id', is_upsert boolean DEFAULT false
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    erased_names text;
    masked_names text;  -- not jsonb: etl.tokens_inside sees the tokens there, and no role has to see the rest
BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname),
           string_agg(quote_ident(attname), ', ' ORDER BY attname)
           FILTER (WHERE attname = ANY (masked) AND atttypid <> 'jsonb'::regtype)
    INTO erased_names, masked_names
    FROM pg_attribute
    WHERE attrelid = contract_table AND NOT attisdropped AND (attname = ANY (masked) OR attname = subject);
    -- Looked at first: ALTER TABLE waits for every load under way, also where it changes nothing.
    IF (SELECT relowner <> 'etl_owner'::regrole FROM pg_class WHERE oid = contract_table) THEN
        EXECUTE format('ALTER TABLE %s OWNER TO etl_owner', contract_table);
    END IF;
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, etl_loader, etl_maintainer, etl_remasker, analyst, '
                   'pii_officer, ops_ro', contract_table);
    EXECUTE format('GRANT INSERT ON %s TO etl_loader', contract_table);
    IF is_upsert THEN
        EXECUTE format('GRANT SELECT, UPDATE ON %s TO etl_loader', contract_table);
    END IF;
    EXECUTE format('GRANT SELECT ON %s TO analyst, pii_officer', contract_table);
    IF erased_names IS NOT NULL THEN
        EXECUTE format('GRANT UPDATE (%s) ON %s TO pii_officer', erased_names, contract_table);
    END IF;
    IF masked_names IS NOT NULL THEN
        EXECUTE format('GRANT SELECT (ctid, %1$s), UPDATE (%1$s) ON %2$s TO etl_remasker',
                       masked_names, contract_table);
    END IF;
END $$;

RESET ROLE;

-- Revision 0009 gave remask a right to the whole of `items`.
SELECT etl.grant_contract(oid, '{customer_email, customer_phone, items}', is_upsert => true)
FROM pg_class WHERE oid = to_regclass('public.orders');
