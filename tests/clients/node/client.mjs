// One whole study from Node.js, by someone who has read nothing but proto/.
//
//   node client.mjs TARGET PROTO_FOLDER GOOGLE_FOLDER STUDY_ID
//
// GOOGLE_FOLDER holds google/rpc/status.proto and error_details.proto, the public types of error details. With TLS_CA set, a
// file in PEM, it connects over TLS. Prints one JSON object that says what was seen; ends with status 1 and a stack trace if a call fails that should not.
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

const require = createRequire(import.meta.url); // unlike import, it looks into NODE_PATH
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [target, protoFolder, googleFolder, studyId] = process.argv.slice(2);
const definition = loader.loadSync(
  ['asktell/v1/study_service.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'],
  { includeDirs: [protoFolder, googleFolder], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true },
);
const { StudyService } = grpc.loadPackageDefinition(definition).asktell.v1;
const { TLS_CA: ca } = process.env;
const client = new StudyService(target, ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure());

// A unary call as a promise, with a deadline.
function call(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + 30_000 }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// The details of an error: google.rpc.Status in a trailer, each detail an Any whose type its URL names.
function details(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  const status = definition['google.rpc.Status'].deserialize(bytes);
  return Object.fromEntries(
    status.details.map(({ type_url: url, value }) => {
      const type = url.split('/').pop();
      return [type, definition[type].deserialize(value)];
    }),
  );
}

// Makes a call that has to be refused, and returns how it was.
async function refused(method, request) {
  try {
    await call(method, request);
  } catch (error) {
    const found = details(error);
    return {
      call: method,
      code: grpc.status[error.code],
      reason: found['google.rpc.ErrorInfo'].reason,
      fields: (found['google.rpc.BadRequest']?.field_violations ?? []).map((violation) => violation.field),
    };
  }
  throw new Error(`${method} should have been refused`);
}

function spec(lowestRate) {
  return {
    parameters: [
      { name: 'lr', float: { min: lowestRate, max: 0.1, log: true } },
      { name: 'width', int: { min: 16, max: 64, step: 16 } },
      { name: 'act', categorical: { choices: [{ string_value: 'relu' }, { string_value: 'leaky' }] } },
      {
        name: 'slope',
        float: { min: 0, max: 0.5 },
        condition: { parent: 'act', values: [{ string_value: 'leaky' }] },
      },
    ],
    objectives: [{ metric: 'loss', direction: 'MINIMIZE' }],
    algorithm: { sobol: {} },
    stopping_criteria: { max_trials: 10 },
    trial_policy: { lease: { seconds: 60 } },
    seed: 7,
  };
}

// What the training job measures at a point.
function loss({ lr, width, act, slope }) {
  return (Math.log10(lr.float_value) + 3) ** 2 + width.int_value / 64 + (act.string_value === 'leaky' ? slope.float_value : 0.25);
}

// Collects the last state of every trial until the study is COMPLETED.
function watch(name) {
  return new Promise((resolve, reject) => {
    const states = {};
    const stream = client.WatchStudy({ name, after_revision: 0 });
    stream.on('data', ({ study, trials }) => {
      for (const trial of trials) states[trial.name.split('/').pop()] = trial.state;
      if (study?.state === 'COMPLETED') {
        resolve(states);
        stream.cancel();
      }
    });
    stream.on('error', (error) => (error.code === grpc.status.CANCELLED ? undefined : reject(error)));
  });
}

const parent = 'projects/default';
const create = { parent, study_id: studyId, study: { spec: spec(1e-5) } };
const refusals = [await refused('CreateStudy', { ...create, study: { spec: { ...spec(0), objectives: [] } } })];
const study = await call('CreateStudy', { ...create, conflict_policy: 'USE_EXISTING' });
const again = await call('CreateStudy', { ...create, conflict_policy: 'USE_EXISTING' });
refusals.push(await refused('CreateStudy', create));

const watched = watch(study.name);
await call('CreateTrials', {
  parent: study.name,
  trials: [{ parameters: { lr: { float_value: 0.001 }, width: { int_value: 32 }, act: { string_value: 'relu' } } }],
});

// A lost reply: the same request id brings the same trials.
const ask = { parent: study.name, count: 2, worker: 'node', request_id: randomUUID() };
const first = await call('Ask', ask);
const repeated = await call('Ask', ask);
const sources = [];
let trials = first.trials;
let state = 'ACTIVE';
while (true) {
  for (const { name, parameters, suggestion } of trials) {
    sources.push(suggestion.source);
    const value = loss(parameters);
    await call('Report', { name, measurement: { step: 1, metrics: { loss: value + 1 } } });
    const { should_stop: stop } = await call('Heartbeat', { name });
    if (stop) throw new Error('nothing asked this trial to stop');
    const result = {
      3: { failed: { reason: 'out of luck' } },
      4: { infeasible: { reason: 'out of memory' } },
      5: { pruned: {} },
    }[name.split('/').pop()] ?? { measurement: { metrics: { loss: value } } };
    ({ study_state: state } = await call('Tell', { name, ...result }));
  }
  if (state !== 'ACTIVE') break;
  ({ trials } = await call('Ask', { parent: study.name, worker: 'node', request_id: randomUUID() }));
}
refusals.push(await refused('Ask', { parent: study.name }));
refusals.push(await refused('Tell', { name: `${study.name}/trials/1`, measurement: { metrics: { loss: -1 } } }));
refusals.push(await refused('GetTrial', { name: `${study.name}/trials/99` }));

const listed = {};
let token = '';
do {
  const page = await call('ListTrials', { parent: study.name, page_size: 3, page_token: token });
  for (const trial of page.trials) listed[trial.name.split('/').pop()] = trial.state;
  token = page.next_page_token;
} while (token);
const best = await call('ListBestTrials', { parent: study.name });

console.log(
  JSON.stringify({
    study: study.name,
    same_study: again.create_time.seconds === study.create_time.seconds && again.name === study.name,
    same_trials: JSON.stringify(first.trials.map((t) => t.name)) === JSON.stringify(repeated.trials.map((t) => t.name)),
    sources,
    listed,
    watched: await watched,
    best: best.trials.map(({ name, measurement }) => ({ name, loss: measurement.metrics.loss })),
    refusals,
  }),
);
client.close();
