-- The contract `orders`.
SET LOCAL ROLE etl_owner;

CREATE TABLE public.orders (
    order_id       varchar(40)    NOT NULL,
    status         text           NOT NULL CHECK (status IN ('placed', 'paid', 'shipped', 'cancelled')),
    placed_at      timestamptz    NOT NULL,
    total          numeric(12, 2) NOT NULL,
    currency       text           NOT NULL CHECK (currency IN ('EUR', 'GBP', 'USD')),
    customer_id    bigint         NOT NULL,
    customer_email text,
    customer_phone text,
    items          jsonb          NOT NULL,
    note           varchar(500),
    sent_at        timestamptz    NOT NULL
);
CREATE UNIQUE INDEX orders_key ON public.orders (order_id);
COMMENT ON TABLE public.orders IS 'Orders as they are after their latest change. One row for each order.';

RESET ROLE;

SELECT etl.grant_contract('public.orders', '{customer_email, customer_phone, items}', true);
