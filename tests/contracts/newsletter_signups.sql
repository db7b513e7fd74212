-- What the second pipeline's migration would hold.
SET ROLE etl_owner;
CREATE TABLE public.newsletter_signups (
    signed_up_on date NOT NULL,
    email_token  varchar(160),
    newsletter   varchar(40) NOT NULL,
    confirmed    boolean NOT NULL,
    referrer     varchar(20)
);
REVOKE ALL ON public.newsletter_signups FROM PUBLIC;
GRANT INSERT ON public.newsletter_signups TO etl_loader;
GRANT SELECT ON public.newsletter_signups TO analyst, pii_officer;
GRANT UPDATE (email_token) ON public.newsletter_signups TO pii_officer;
GRANT SELECT (ctid, email_token), UPDATE (email_token) ON public.newsletter_signups TO etl_remasker;
RESET ROLE;
