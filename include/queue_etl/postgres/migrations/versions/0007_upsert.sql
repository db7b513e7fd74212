SET LOCAL ROLE etl_owner;

-- As etl.grant_contract with two arguments. A table with a key has rows replaced by later ones: who loads it needs
-- to read and to overwrite them.
CREATE FUNCTION etl.grant_contract(contract_table regclass, masked text[], is_upsert boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM etl.grant_contract(contract_table, masked);
    IF is_upsert THEN
        EXECUTE format('GRANT SELECT, UPDATE ON %s TO etl_loader', contract_table);
    END IF;
END $$;

RESET ROLE;
