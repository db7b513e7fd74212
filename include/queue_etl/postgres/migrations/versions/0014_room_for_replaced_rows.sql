-- As `contract migration` makes a table with a key now. Pages that are full stay so until the table is rewritten
-- (VACUUM FULL), which is not worth it: a page gets room when vacuum removes replaced rows.
SET LOCAL ROLE etl_owner;

ALTER TABLE "public"."orders" SET (fillfactor = 90);

RESET ROLE;
