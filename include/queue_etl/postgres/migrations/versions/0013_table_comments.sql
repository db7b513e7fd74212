-- The comments that contracts give their tables, where these were made before. As who migrates, and not as
-- etl_owner: somebody may have made user_logins by hand, who owns it until this `migrate` ends.

COMMENT ON TABLE "public"."user_logins" IS
    'A login. Every field must be there; those with `None` may be null. One row for each '
    'message; contract user_logins.';
COMMENT ON COLUMN "public"."user_logins"."user_id" IS
    'From `user_id`.';
COMMENT ON COLUMN "public"."user_logins"."device_type" IS
    'From `device_type`.';
COMMENT ON COLUMN "public"."user_logins"."masked_ip" IS
    'From `ip`. Masked: recoverable token, normalized as ip.';
COMMENT ON COLUMN "public"."user_logins"."masked_device_id" IS
    'From `device_id`. Masked: recoverable token, normalized as text.';
COMMENT ON COLUMN "public"."user_logins"."locale" IS
    'From `locale`.';
COMMENT ON COLUMN "public"."user_logins"."app_version" IS
    'Computed from `app_version`.';
COMMENT ON COLUMN "public"."user_logins"."create_date" IS
    'From the message''s SentTimestamp.';

COMMENT ON TABLE "public"."orders" IS
    'An order, as it is after a change. The newest message of each order_id; contract orders.';
COMMENT ON COLUMN "public"."orders"."order_id" IS
    'From `order_id`.';
COMMENT ON COLUMN "public"."orders"."status" IS
    'From `status`.';
COMMENT ON COLUMN "public"."orders"."placed_at" IS
    'when the customer placed it. From `placed_at`.';
COMMENT ON COLUMN "public"."orders"."total" IS
    'with taxes, in the currency. From `total`.';
COMMENT ON COLUMN "public"."orders"."currency" IS
    'From `currency`.';
COMMENT ON COLUMN "public"."orders"."customer_id" IS
    'number of the customer. From `customer.id`.';
COMMENT ON COLUMN "public"."orders"."customer_email" IS
    'From `customer.email`. Masked: recoverable token, normalized as email_folded.';
COMMENT ON COLUMN "public"."orders"."customer_phone" IS
    'From `customer.phone`. Masked: recoverable token, normalized as phone of DE.';
COMMENT ON COLUMN "public"."orders"."items" IS
    'From `items`. Masked at `items[*].gift_for`: recoverable token, normalized as text.';
COMMENT ON COLUMN "public"."orders"."note" IS
    'From `note`.';
COMMENT ON COLUMN "public"."orders"."sent_at" IS
    'From the message''s SentTimestamp.';
