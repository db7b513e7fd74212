CREATE TABLE public.deliveries (
    parcel    text NOT NULL,
    customer  text,
    sender_ip text,
    contacts  jsonb NOT NULL,
    notes     jsonb,
    day       date NOT NULL
);
SELECT etl.grant_contract('public.deliveries', '{sender_ip, contacts, notes}', 'customer');
