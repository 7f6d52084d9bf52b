CREATE TABLE public.etude_studies (
    id integer NOT NULL,
    name character varying(200) NOT NULL,
    uid character varying(32) NOT NULL,
    plan text NOT NULL,
    digest character varying(64) NOT NULL,
    created double precision NOT NULL
);
CREATE SEQUENCE public.etude_studies_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.etude_studies_id_seq OWNED BY public.etude_studies.id;
CREATE TABLE public.etude_trials (
    study integer NOT NULL,
    number integer NOT NULL,
    parameters text NOT NULL,
    key character varying(64) NOT NULL,
    state character varying(8) NOT NULL,
    attempts integer NOT NULL,
    lease character varying(32),
    worker character varying(200),
    granted double precision,
    expires double precision,
    loss double precision,
    metric double precision,
    diverged boolean,
    seconds double precision,
    record character varying(64),
    weights character varying(64),
    error text,
    place text,
    finished double precision
);
CREATE TABLE public.etude_version (
    version integer NOT NULL
);
CREATE SEQUENCE public.etude_version_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.etude_version_version_seq OWNED BY public.etude_version.version;
ALTER TABLE ONLY public.etude_studies ALTER COLUMN id SET DEFAULT nextval('public.etude_studies_id_seq'::regclass);
ALTER TABLE ONLY public.etude_version ALTER COLUMN version SET DEFAULT nextval('public.etude_version_version_seq'::regclass);
INSERT INTO public.etude_studies VALUES (1, 'kept', '91b385cd185b4bbabeb13c1ff6764c99', '{"lrs":[0.1,0.2,0.3,0.4,0.5]}', 'db8c37c389676fdee4dc316d67074b086accdecbd6a4f3a5503864d1e1230c93', 1795707956.5242481);
INSERT INTO public.etude_studies VALUES (2, 'empty', '9f7097d50f9e4289b08e598fbe77954a', '{}', '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 1795707956.6784997);
INSERT INTO public.etude_trials VALUES (1, 4, '{"lr":0.5,"seed":0}', 'f4a9ed792a26ab6379da3249ad0bbf2bef76947dbb8a43eab265bd7614d0855b', 'waiting', 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.etude_trials VALUES (1, 0, '{"lr":0.1,"seed":0}', 'ff0a64b8b4763380bc3fe638a20a0009284041e735565bcb2fa019f8a55fe989', 'done', 1, '8de0c51562f84c0eb0e011e8d21990f0', 'host:1', 1795707956.566284, 1795708016.566284, 0.5, 0.9, false, 1.5, NULL, NULL, NULL, NULL, 1795707956.6063273);
INSERT INTO public.etude_trials VALUES (1, 1, '{"lr":0.2,"seed":0}', '10e6e5a84658d86c4a1a255a72ed3a63596fd537fffa4711c2da826d172811e3', 'done', 1, '8de0c51562f84c0eb0e011e8d21990f0', 'host:1', 1795707956.566284, 1795708016.566284, 'Infinity', NULL, true, 0.5, NULL, NULL, NULL, NULL, 1795707956.6063273);
INSERT INTO public.etude_trials VALUES (1, 2, '{"lr":0.3,"seed":0}', 'bd69a8e10afad9c0a340a43b12a381f74ddae4ea0b5a11d6ef1e1993ee12e77a', 'failed', 1, '8de0c51562f84c0eb0e011e8d21990f0', 'host:1', 1795707956.566284, 1795708016.566284, NULL, NULL, NULL, NULL, NULL, NULL, 'ValueError: no such layer', 'model.py:12', 1795707956.6349373);
INSERT INTO public.etude_trials VALUES (1, 3, '{"lr":0.4,"seed":0}', 'c07f939a250c868a993b85e54ba5c7c76f661ba3ab6ed74ca4d419df37fc8ad6', 'running', 1, 'f1e3ad77e502469c996cfcd978a94328', 'host:2', 1795707956.652571, 1795708016.652571, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.etude_version VALUES (1);
ALTER TABLE ONLY public.etude_studies
    ADD CONSTRAINT etude_studies_name_key UNIQUE (name);
ALTER TABLE ONLY public.etude_studies
    ADD CONSTRAINT etude_studies_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.etude_trials
    ADD CONSTRAINT etude_trials_pkey PRIMARY KEY (study, number);
ALTER TABLE ONLY public.etude_trials
    ADD CONSTRAINT etude_trials_study_key_key UNIQUE (study, key);
ALTER TABLE ONLY public.etude_version
    ADD CONSTRAINT etude_version_pkey PRIMARY KEY (version);
CREATE INDEX etude_trials_by_state ON public.etude_trials USING btree (study, state, number);
ALTER TABLE ONLY public.etude_trials
    ADD CONSTRAINT etude_trials_study_fkey FOREIGN KEY (study) REFERENCES public.etude_studies(id);
