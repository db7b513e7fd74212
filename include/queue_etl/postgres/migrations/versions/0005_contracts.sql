SET LOCAL ROLE etl_owner;

-- Gives a contract's table to etl_owner, and each role exactly its rights to it: pipelines insert, people read,
-- the officer erases, remask moves tokens to another key. `masked` are the columns that hold tokens. A column
-- user_id, if there is one, is erased too. Called again it restores these rights.
CREATE FUNCTION etl.grant_contract(contract_table regclass, masked text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    masked_names text := (SELECT string_agg(quote_ident(name), ', ') FROM unnest(masked) AS name);
    erased_names text := (
        SELECT string_agg(quote_ident(name), ', ')
        FROM (SELECT unnest(masked)
              UNION SELECT attname::text FROM pg_attribute
              WHERE attrelid = contract_table AND attname = 'user_id' AND NOT attisdropped) AS erased (name)
    );
BEGIN
    -- Looked at first: ALTER TABLE waits for every load under way, also where it changes nothing.
    IF (SELECT relowner <> 'etl_owner'::regrole FROM pg_class WHERE oid = contract_table) THEN
        EXECUTE format('ALTER TABLE %s OWNER TO etl_owner', contract_table);
    END IF;
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, etl_loader, etl_maintainer, etl_remasker, analyst, '
                   'pii_officer, ops_ro', contract_table);
    EXECUTE format('GRANT INSERT ON %s TO etl_loader', contract_table);
    EXECUTE format('GRANT SELECT ON %s TO analyst, pii_officer', contract_table);
    IF erased_names IS NOT NULL THEN
        EXECUTE format('GRANT UPDATE (%s) ON %s TO pii_officer', erased_names, contract_table);
    END IF;
    IF masked_names IS NOT NULL THEN
        EXECUTE format('GRANT SELECT (ctid, %1$s), UPDATE (%1$s) ON %2$s TO etl_remasker',
                       masked_names, contract_table);
    END IF;
END $$;

-- Outlives the contract's file: a key must stay as long as rows hold its tokens.
CREATE TABLE etl.masked_columns (
    contract    text NOT NULL,
    table_name  text NOT NULL,
    column_name text NOT NULL,
    field       text NOT NULL,
    scheme      text NOT NULL,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, column_name, contract, field, scheme)
);
COMMENT ON TABLE etl.masked_columns IS
    'Every column that ever held tokens; a table that is renamed is entered anew.';

INSERT INTO etl.masked_columns (contract, table_name, column_name, field, scheme)
VALUES ('user_logins', 'public.user_logins', 'masked_ip', 'ip', 'recoverable'),
       ('user_logins', 'public.user_logins', 'masked_device_id', 'device_id', 'recoverable');

RESET ROLE;
