-- A dump of a database that lockstock 0.1.0 made with sqlx::migrate!. Never edit it.
CREATE TABLE public._sqlx_migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
CREATE TABLE public.idempotency (
    caller text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.ledger (
    product bigint NOT NULL,
    version bigint NOT NULL,
    id uuid NOT NULL,
    reason text NOT NULL,
    delta bigint NOT NULL,
    stock_after bigint NOT NULL,
    unit_price bigint,
    reservation uuid,
    request text NOT NULL,
    fence bigint,
    at timestamp with time zone NOT NULL,
    CONSTRAINT ledger_check CHECK (((reason <> ALL (ARRAY['purchase'::text, 'confirmed'::text])) OR ((delta < 0) AND (unit_price IS NOT NULL)))),
    CONSTRAINT ledger_check1 CHECK (((reason <> 'confirmed'::text) OR (reservation IS NOT NULL))),
    CONSTRAINT ledger_reason_check CHECK ((reason = ANY (ARRAY['opening'::text, 'created'::text, 'changed'::text, 'purchase'::text, 'confirmed'::text, 'deleted'::text]))),
    CONSTRAINT ledger_stock_after_check CHECK ((stock_after >= 0)),
    CONSTRAINT ledger_unit_price_check CHECK ((unit_price >= 0)),
    CONSTRAINT ledger_version_check CHECK ((version >= 1))
);
CREATE TABLE public.products (
    id bigint NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    price bigint NOT NULL,
    stock bigint NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT products_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT products_price_check CHECK (((price >= 0) AND (price <= 2147483647))),
    CONSTRAINT products_stock_check CHECK (((stock >= 0) AND (stock <= 2147483647))),
    CONSTRAINT products_version_check CHECK ((version >= 1))
);
ALTER TABLE public.products ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.products_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.reservations (
    id uuid NOT NULL,
    product bigint NOT NULL,
    caller text NOT NULL,
    quantity bigint NOT NULL,
    state text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    purchase uuid,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT reservations_check CHECK (((purchase IS NOT NULL) = (state = 'confirmed'::text))),
    CONSTRAINT reservations_quantity_check CHECK ((quantity >= 1)),
    CONSTRAINT reservations_state_check CHECK ((state = ANY (ARRAY['held'::text, 'confirmed'::text, 'cancelled'::text])))
);
INSERT INTO public._sqlx_migrations VALUES (1, 'products', '2026-11-26 14:32:19.088667+00', true, '\xb9737e272702b3fccbb60a5a470413f8f53b2edc09dd973d20840e35493c55d291b8fdecbef25c78d728744267ae2fc4', 23017004);
INSERT INTO public._sqlx_migrations VALUES (2, 'sales', '2026-11-26 14:32:19.119664+00', true, '\x13d085be9d20fe07594c491aabd41b429c0e150cb4ad31bfad4ed2ced46a21311874d010b5036c3febf22f093f07810a', 60028361);
INSERT INTO public._sqlx_migrations VALUES (3, 'fewer indexes', '2026-11-26 14:32:19.183646+00', true, '\xe3313d78492d8116411138de142978c16ea69d9e5d9fa533ab72a5bad2e8134da404368c10a1a68340019664052b9c29', 8064740);
INSERT INTO public.idempotency VALUES ('', 'first', '\x162d6e6ec4da4f38e8de28dc83e13e84627461a19b051a52b9188ef7e7c16426', '\x010000000000000000000000000000000000000000000000000000000000000000c901020c636f6e74656e742d74797065106170706c69636174696f6e2f6a736f6e086c6f636174696f6e342f6170692f7075726368617365732f30316132313834352d386463622d373565342d623333392d6130303365396432623264662fc1017b226964223a2230316132313834352d386463622d373565342d623333392d613030336539643262326466222c2270726f64756374223a312c227175616e74697479223a322c22756e69745f7072696365223a31323030302c22746f74616c223a32343030302c2273746f636b5f6166746572223a372c2276657273696f6e223a332c227265736572766174696f6e223a6e756c6c2c22637265617465645f6174223a22323032362d31312d32365431343a33323a32312e3139353235315a227d', '2026-11-26 14:32:21.196473+00');
INSERT INTO public.ledger VALUES (1, 1, '01a21845-8da5-70dc-ac7d-6ac378961a21', 'created', 10, 10, NULL, NULL, '0c5bcdff73ccd25ad086530939f2ab27', NULL, '2026-11-26 14:32:21.155871+00');
INSERT INTO public.ledger VALUES (2, 1, '01a21845-8db5-7169-be07-3d3bbcd5f8e9', 'created', 3, 3, NULL, NULL, '08fe9cb0a50f8a6ab81cff321cd00618', NULL, '2026-11-26 14:32:21.172127+00');
INSERT INTO public.ledger VALUES (1, 2, '7a7837d0-a2fe-4670-aefb-4ab2a7fdb2dd', 'changed', -1, 9, NULL, NULL, 'a2c9e7d680496205bf202821c487c737', 1795703541184274, '2026-11-26 14:32:21.184416+00');
INSERT INTO public.ledger VALUES (1, 3, '01a21845-8dcb-75e4-b339-a003e9d2b2df', 'purchase', -2, 7, 12000, NULL, 'c7a4f83624c0733d7c697a0a37842a34', NULL, '2026-11-26 14:32:21.195251+00');
INSERT INTO public.products OVERRIDING SYSTEM VALUE VALUES (2, 'Linen towel', '', 8000, 3, 1, 0, '2026-11-26 14:32:21.172127+00', '2026-11-26 14:32:21.172127+00');
INSERT INTO public.products OVERRIDING SYSTEM VALUE VALUES (1, 'Enamel mug', 'Holds 350 ml', 12000, 7, 3, 1795703541184274, '2026-11-26 14:32:21.155871+00', '2026-11-26 14:32:21.195251+00');
INSERT INTO public.reservations VALUES ('d11629c6-af4f-473c-a19d-cb9629839556', 1, '', 1, 'held', '2026-11-26 14:42:21.205883+00', NULL, '2026-11-26 14:32:21.205883+00');
SELECT pg_catalog.setval('public.products_id_seq', 2, true);
ALTER TABLE ONLY public._sqlx_migrations
    ADD CONSTRAINT _sqlx_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (caller, key);
ALTER TABLE ONLY public.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (product, version);
ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_pkey PRIMARY KEY (id);
CREATE INDEX idempotency_age ON public.idempotency USING btree (created_at);
CREATE UNIQUE INDEX ledger_confirmed ON public.ledger USING btree (reservation) WHERE (reservation IS NOT NULL);
CREATE UNIQUE INDEX ledger_purchase_ids ON public.ledger USING btree (id) WHERE (reason = ANY (ARRAY['purchase'::text, 'confirmed'::text]));
CREATE INDEX ledger_purchases ON public.ledger USING btree (product, version) WHERE (reason = ANY (ARRAY['purchase'::text, 'confirmed'::text]));
CREATE INDEX reservations_held ON public.reservations USING btree (product, expires_at) INCLUDE (quantity) WHERE (state = 'held'::text);
CREATE INDEX reservations_owned ON public.reservations USING btree (product, caller, expires_at) WHERE ((state = 'held'::text) AND (caller <> ''::text));
