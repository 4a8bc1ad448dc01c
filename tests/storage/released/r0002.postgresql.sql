SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.measurements (
    study_id bigint NOT NULL,
    number bigint NOT NULL,
    step bigint NOT NULL,
    revision bigint NOT NULL,
    measurement text NOT NULL
);
CREATE TABLE public.requests (
    scope text NOT NULL,
    request_id text NOT NULL,
    study_id bigint,
    "time" bigint NOT NULL,
    fingerprint text NOT NULL,
    response text NOT NULL
);
CREATE TABLE public.studies (
    id bigint NOT NULL,
    project text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    state text NOT NULL,
    state_reason text NOT NULL,
    create_time bigint NOT NULL,
    update_time bigint NOT NULL,
    revision bigint NOT NULL,
    next_number bigint NOT NULL,
    waiting_count bigint NOT NULL,
    running_count bigint NOT NULL,
    succeeded_count bigint NOT NULL,
    infeasible_count bigint NOT NULL,
    failed_count bigint NOT NULL,
    pruned_count bigint NOT NULL,
    expired_count bigint NOT NULL,
    best_number bigint,
    best_value text,
    successes_at_best bigint NOT NULL,
    labels text NOT NULL,
    description text NOT NULL,
    spec text NOT NULL
);
CREATE SEQUENCE public.studies_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_id_seq OWNED BY public.studies.id;
CREATE TABLE public.tokens (
    id text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL,
    name text NOT NULL,
    grants text NOT NULL,
    create_time bigint NOT NULL,
    expire_time bigint,
    revoke_time bigint
);
CREATE TABLE public.trials (
    study_id bigint NOT NULL,
    number bigint NOT NULL,
    state text NOT NULL,
    state_reason text NOT NULL,
    revision bigint NOT NULL,
    finish_revision bigint,
    create_time bigint NOT NULL,
    start_time bigint,
    end_time bigint,
    lease_expire_time bigint,
    worker text NOT NULL,
    attempt bigint NOT NULL,
    retry_of bigint,
    parameters text NOT NULL,
    source text NOT NULL,
    predictions text NOT NULL,
    detail text NOT NULL,
    measurement text,
    labels text NOT NULL,
    notes text NOT NULL
);
ALTER TABLE ONLY public.studies ALTER COLUMN id SET DEFAULT nextval('public.studies_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('r0002');
INSERT INTO public.measurements VALUES (1, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (1, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (1, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.measurements VALUES (2, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (2, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (2, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.measurements VALUES (3, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (3, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (3, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.measurements VALUES (4, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (4, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (4, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.measurements VALUES (5, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (5, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (5, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.measurements VALUES (6, 1, 0, 9223372036854775807, '{"metrics":{"loss":2.0},"step":0}');
INSERT INTO public.measurements VALUES (6, 1, 7, 9223372036854775807, '{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO public.measurements VALUES (6, 1, 9223372036854775807, 9223372036854775807, '{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO public.requests VALUES ('Ask full-0', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('Ask full-1', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 2, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('Ask full-2', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('Ask full-3', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 4, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('Ask full-4', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 5, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('Ask plain', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 6, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.requests VALUES ('CreateStudy projects/p', 'free', NULL, 1772323199999999, 'fingerprint', '{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO public.studies VALUES (1, 'p', 'full-0', 'STOPPED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1772323199999999, 1772323199999999, 9, 12, 0, 2, 0, 0, 0, 0, 1099511627776, 1, '-0.0', 3, '{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"random"},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO public.studies VALUES (2, 'p', 'full-1', 'STOPPED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1772323199999999, 1772323199999999, 9, 12, 0, 2, 0, 0, 0, 0, 1099511627776, 1, '-0.0', 3, '{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"grid","points_per_parameter":7},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO public.studies VALUES (3, 'p', 'full-2', 'STOPPED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1772323199999999, 1772323199999999, 9, 12, 0, 2, 0, 0, 0, 0, 1099511627776, 1, '-0.0', 3, '{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"sobol"},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO public.studies VALUES (4, 'p', 'full-3', 'STOPPED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1772323199999999, 1772323199999999, 9, 12, 0, 2, 0, 0, 0, 0, 1099511627776, 1, '-0.0', 3, '{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"skopt","base_estimator":"ET","acquisition_function":"GP_HEDGE","initial_points":12,"xi":0.0,"kappa":1e-300,"max_observations":2000},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO public.studies VALUES (5, 'p', 'full-4', 'STOPPED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 1772323199999999, 1772323199999999, 9, 12, 0, 2, 0, 0, 0, 0, 1099511627776, 1, '-0.0', 3, '{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"gp","initial_points":12,"cost_metric":"seconds","priors":[{"parameter":"lr","belief":{"kind":"normal","mean":0.001,"width":5e-324}},{"parameter":"width","belief":{"kind":"normal","mean":-9.223372036854776e+18,"width":10.0}},{"parameter":"act","belief":{"kind":"weighted","weights":[["Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",1e+300],[2,0.5],[2.5,1.0],[true,3.0]]}}],"transfer_sources":[{"study":"earlier","revision":17},{"study":"0.9_b-c","revision":0}]},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO public.studies VALUES (6, 'default', 'plain', 'ACTIVE', '', 1772323199999999, 1772323199999999, 1, 1, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, '{}', '', '{"version":1,"parameters":[{"kind":"float","name":"x","min":0.0,"max":1.0,"log":false,"step":null,"default":null,"condition":null},{"kind":"categorical","name":"c","choices":[1,1.5,true,"a"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"}],"algorithm":{"kind":"skopt","base_estimator":"RF","acquisition_function":"EI","initial_points":3,"xi":0.0,"kappa":1.96,"max_observations":200},"stopping":{"max_trials":9,"target":null,"max_trials_without_improvement":0},"trial_policy":{"lease":2000000,"max_retries":2},"seed":5}');
INSERT INTO public.tokens VALUES ('a', '1f', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '[["WORKER", "p"], ["WORKER", null]]', 1772323199999999, 1772409599999999, 1772323199999999);
INSERT INTO public.trials VALUES (1, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (1, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (1, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (2, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (2, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (3, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (3, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (4, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (4, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (5, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (5, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 1, 'SUCCEEDED', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 9223372036854775807, 4, 1772323199999999, -62135596800000000, 253402300799999999, 1772323200000000, 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', 3, 17, '{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}', 'MODEL', '{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	', '{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}', '{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}', 'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO public.trials VALUES (6, 2, 'WAITING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.25}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 3, 'RUNNING', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.375}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 4, 'SUCCEEDED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.5}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 5, 'INFEASIBLE', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.625}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 6, 'FAILED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.75}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 7, 'PRUNED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":0.875}', 'SAMPLER', '{}', '', NULL, '{}', '');
INSERT INTO public.trials VALUES (6, 8, 'EXPIRED', '', 1, NULL, 1772323199999999, NULL, NULL, NULL, '', 1, NULL, '{"x":1.0}', 'SAMPLER', '{}', '', NULL, '{}', '');
SELECT pg_catalog.setval('public.studies_id_seq', 6, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.measurements
    ADD CONSTRAINT pk_measurements PRIMARY KEY (study_id, number, step);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT pk_requests PRIMARY KEY (scope, request_id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT pk_studies PRIMARY KEY (id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT pk_tokens PRIMARY KEY (id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT pk_trials PRIMARY KEY (study_id, number);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT uq_studies_project_name UNIQUE (project, name);
CREATE INDEX ix_measurements_study_id_revision ON public.measurements USING btree (study_id, revision);
CREATE INDEX ix_requests_study_id ON public.requests USING btree (study_id);
CREATE INDEX ix_requests_time ON public.requests USING btree ("time");
CREATE INDEX ix_trials_lease_expire_time ON public.trials USING btree (lease_expire_time) WHERE ((state = 'RUNNING'::text) AND (lease_expire_time IS NOT NULL));
CREATE INDEX ix_trials_study_id_revision ON public.trials USING btree (study_id, revision);
CREATE INDEX ix_trials_study_id_state_number ON public.trials USING btree (study_id, state, number);
ALTER TABLE ONLY public.measurements
    ADD CONSTRAINT fk_measurements_trials FOREIGN KEY (study_id, number) REFERENCES public.trials(study_id, number) ON DELETE CASCADE;
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_studies FOREIGN KEY (study_id) REFERENCES public.studies(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT fk_trials_studies FOREIGN KEY (study_id) REFERENCES public.studies(id) ON DELETE CASCADE;
