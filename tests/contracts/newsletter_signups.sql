-- What the second pipeline's revision would hold.
CREATE TABLE public.newsletter_signups (
    email_token  varchar(160),
    newsletter   varchar(40) NOT NULL,
    confirmed    boolean,
    referrer     varchar(20),
    signed_up_on date NOT NULL
);
SELECT etl.grant_contract('public.newsletter_signups', '{email_token}');
