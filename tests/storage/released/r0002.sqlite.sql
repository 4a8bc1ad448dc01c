BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('r0002');
CREATE TABLE measurements (
	study_id BIGINT NOT NULL, 
	number BIGINT NOT NULL, 
	step BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	measurement TEXT NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (study_id, number, step), 
	CONSTRAINT fk_measurements_trials FOREIGN KEY(study_id, number) REFERENCES trials (study_id, number) ON DELETE CASCADE
);
INSERT INTO "measurements" VALUES(1,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(1,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(1,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO "measurements" VALUES(2,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(2,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(2,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO "measurements" VALUES(3,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(3,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(3,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO "measurements" VALUES(4,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(4,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(4,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO "measurements" VALUES(5,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(5,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(5,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
INSERT INTO "measurements" VALUES(6,1,0,9223372036854775807,'{"metrics":{"loss":2.0},"step":0}');
INSERT INTO "measurements" VALUES(6,1,7,9223372036854775807,'{"metrics":{"loss":1.0},"standard_errors":{"loss":0.5},"step":7,"elapsed_s":0.3333333333333333}');
INSERT INTO "measurements" VALUES(6,1,9223372036854775807,9223372036854775807,'{"metrics":{"loss":0.5},"step":9223372036854775807}');
CREATE TABLE requests (
	scope TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	study_id BIGINT, 
	time BIGINT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	response TEXT NOT NULL, 
	CONSTRAINT pk_requests PRIMARY KEY (scope, request_id), 
	CONSTRAINT fk_requests_studies FOREIGN KEY(study_id) REFERENCES studies (id) ON DELETE CASCADE
);
INSERT INTO "requests" VALUES('Ask full-0','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('Ask full-1','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',2,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('Ask full-2','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('Ask full-3','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',4,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('Ask full-4','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',5,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('Ask plain','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',6,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
INSERT INTO "requests" VALUES('CreateStudy projects/p','free',NULL,1772323199999999,'fingerprint','{"numbers":[1,2],"text":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","none":null}');
CREATE TABLE studies (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	state TEXT NOT NULL, 
	state_reason TEXT NOT NULL, 
	create_time BIGINT NOT NULL, 
	update_time BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	next_number BIGINT NOT NULL, 
	waiting_count BIGINT NOT NULL, 
	running_count BIGINT NOT NULL, 
	succeeded_count BIGINT NOT NULL, 
	infeasible_count BIGINT NOT NULL, 
	failed_count BIGINT NOT NULL, 
	pruned_count BIGINT NOT NULL, 
	expired_count BIGINT NOT NULL, 
	best_number BIGINT, 
	best_value TEXT, 
	successes_at_best BIGINT NOT NULL, 
	labels TEXT NOT NULL, 
	description TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	CONSTRAINT uq_studies_project_name UNIQUE (project, name)
);
INSERT INTO "studies" VALUES(1,'p','full-0','STOPPED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1772323199999999,1772323199999999,9,12,0,2,0,0,0,0,1099511627776,1,'-0.0',3,'{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"random"},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO "studies" VALUES(2,'p','full-1','STOPPED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1772323199999999,1772323199999999,9,12,0,2,0,0,0,0,1099511627776,1,'-0.0',3,'{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"grid","points_per_parameter":7},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO "studies" VALUES(3,'p','full-2','STOPPED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1772323199999999,1772323199999999,9,12,0,2,0,0,0,0,1099511627776,1,'-0.0',3,'{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"sobol"},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO "studies" VALUES(4,'p','full-3','STOPPED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1772323199999999,1772323199999999,9,12,0,2,0,0,0,0,1099511627776,1,'-0.0',3,'{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"skopt","base_estimator":"ET","acquisition_function":"GP_HEDGE","initial_points":12,"xi":0.0,"kappa":1e-300,"max_observations":2000},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO "studies" VALUES(5,'p','full-4','STOPPED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',1772323199999999,1772323199999999,9,12,0,2,0,0,0,0,1099511627776,1,'-0.0',3,'{"z":"1","a":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t"}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"version":3,"parameters":[{"kind":"float","name":"lr","min":1e-300,"max":1.7976931348623157e+308,"log":true,"step":null,"default":0.1,"condition":null},{"kind":"float","name":"drop/out","min":-0.0,"max":0.5,"log":false,"step":0.1,"default":null,"condition":{"parent":"act","values":["relu",2,2.5,true]}},{"kind":"int","name":"width","min":-9223372036854775808,"max":9223372036854775807,"log":false,"step":3,"default":-1,"condition":null},{"kind":"discrete","name":"batch","values":[32.0,16.0,0.1],"log":false,"default":16.0,"condition":{"parent":"width","values":[1,9223372036854775807]}},{"kind":"categorical","name":"act","choices":["relu","Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",2,2.5,true,false,""],"default":true,"condition":null},{"kind":"categorical","name":"flag","choices":[1,"1"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"},{"metric":"accuracy","direction":"MAXIMIZE"}],"constraints":[{"metric":"latency","min":null,"max":0.30000000000000004},{"metric":"recall","min":-0.0,"max":null}],"algorithm":{"kind":"gp","initial_points":12,"cost_metric":"seconds","priors":[{"parameter":"lr","belief":{"kind":"normal","mean":0.001,"width":5e-324}},{"parameter":"width","belief":{"kind":"normal","mean":-9.223372036854776e+18,"width":10.0}},{"parameter":"act","belief":{"kind":"weighted","weights":[["Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t",1e+300],[2,0.5],[2.5,1.0],[true,3.0]]}}],"transfer_sources":[{"study":"earlier","revision":17},{"study":"0.9_b-c","revision":0}]},"stopping":{"max_trials":100,"target":-0.0,"max_trials_without_improvement":9,"max_failed_trials":7},"trial_policy":{"lease":259200000001,"max_retries":0},"seed":9223372036854775807}');
INSERT INTO "studies" VALUES(6,'default','plain','ACTIVE','',1772323199999999,1772323199999999,1,1,0,0,0,0,0,0,0,NULL,NULL,0,'{}','','{"version":1,"parameters":[{"kind":"float","name":"x","min":0.0,"max":1.0,"log":false,"step":null,"default":null,"condition":null},{"kind":"categorical","name":"c","choices":[1,1.5,true,"a"],"default":null,"condition":null}],"objectives":[{"metric":"loss","direction":"MINIMIZE"}],"algorithm":{"kind":"skopt","base_estimator":"RF","acquisition_function":"EI","initial_points":3,"xi":0.0,"kappa":1.96,"max_observations":200},"stopping":{"max_trials":9,"target":null,"max_trials_without_improvement":0},"trial_policy":{"lease":2000000,"max_retries":2},"seed":5}');
CREATE TABLE tokens (
	id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	name TEXT NOT NULL, 
	grants TEXT NOT NULL, 
	create_time BIGINT NOT NULL, 
	expire_time BIGINT, 
	revoke_time BIGINT, 
	CONSTRAINT pk_tokens PRIMARY KEY (id)
);
INSERT INTO "tokens" VALUES('a','1f','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','[["WORKER", "p"], ["WORKER", null]]',1772323199999999,1772409599999999,1772323199999999);
CREATE TABLE trials (
	study_id BIGINT NOT NULL, 
	number BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	state_reason TEXT NOT NULL, 
	revision BIGINT NOT NULL, 
	finish_revision BIGINT, 
	create_time BIGINT NOT NULL, 
	start_time BIGINT, 
	end_time BIGINT, 
	lease_expire_time BIGINT, 
	worker TEXT NOT NULL, 
	attempt BIGINT NOT NULL, 
	retry_of BIGINT, 
	parameters TEXT NOT NULL, 
	source TEXT NOT NULL, 
	predictions TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	measurement TEXT, 
	labels TEXT NOT NULL, 
	notes TEXT NOT NULL, 
	CONSTRAINT pk_trials PRIMARY KEY (study_id, number), 
	CONSTRAINT fk_trials_studies FOREIGN KEY(study_id) REFERENCES studies (id) ON DELETE CASCADE
);
INSERT INTO "trials" VALUES(1,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(1,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(1,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(2,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(2,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(3,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(3,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(4,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(4,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(5,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(5,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,1,'SUCCEEDED','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',9223372036854775807,4,1772323199999999,-62135596800000000,253402300799999999,1772323200000000,'Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	',3,17,'{"b":1,"a":1.0,"c":true,"d":"1","e":-0.0,"f":9223372036854775807,"g":5e-324,"h":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t\u0000"}','MODEL','{"loss":[0.30000000000000004,0.0],"accuracy":[-0.0,1e+300]}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	','{"metrics":{"loss":-0.0,"n":3.0},"standard_errors":{"loss":1e-17},"step":9223372036854775807,"elapsed_s":0.1}','{"z":"Gr\u00fc\u00dfe, \u4e16\u754c \ud83d\ude00 \"quoted\" ''single'' %s :name ? \\ \n\t","a":""}','Grüße, 世界 😀 "quoted" ''single'' %s :name ? \ 
	');
INSERT INTO "trials" VALUES(6,2,'WAITING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.25}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,3,'RUNNING','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.375}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,4,'SUCCEEDED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.5}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,5,'INFEASIBLE','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.625}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,6,'FAILED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.75}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,7,'PRUNED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":0.875}','SAMPLER','{}','',NULL,'{}','');
INSERT INTO "trials" VALUES(6,8,'EXPIRED','',1,NULL,1772323199999999,NULL,NULL,NULL,'',1,NULL,'{"x":1.0}','SAMPLER','{}','',NULL,'{}','');
CREATE INDEX ix_requests_study_id ON requests (study_id);
CREATE INDEX ix_requests_time ON requests (time);
CREATE INDEX ix_trials_lease_expire_time ON trials (lease_expire_time) WHERE state = 'RUNNING' AND lease_expire_time IS NOT NULL;
CREATE INDEX ix_trials_study_id_revision ON trials (study_id, revision);
CREATE INDEX ix_trials_study_id_state_number ON trials (study_id, state, number);
CREATE INDEX ix_measurements_study_id_revision ON measurements (study_id, revision);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('studies',6);
COMMIT;
