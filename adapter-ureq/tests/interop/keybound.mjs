// Runs the command under test, and keeps what belongs to one test in one temporary folder.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const BINARY = process.env.KEYBOUND;
if (!BINARY) throw new Error('set KEYBOUND to the path of the keybound command');

const TIME_LIMIT = 30_000;

// Runs `keybound args...` and returns { code, stdout, stderr, json() }. A status of null is a crash or a time-out.
// Asynchronous on purpose: the servers answer from this same process.
// `onStderr` is told what has been written there up to now.
export function run(args, { env = {}, input = '', onStderr = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(BINARY, args, {
      env: { ...process.env, NO_PROXY: '127.0.0.1,localhost', ...env },
      timeout: TIME_LIMIT,
    });
    const result = { args, stdout: '', stderr: '', json: () => parse(result) };
    for (const stream of ['stdout', 'stderr']) {
      child[stream].setEncoding('utf8').on('data', (chunk) => { result[stream] += chunk; });
    }
    child.stderr.on('data', () => onStderr(result.stderr));
    child.stdin.on('error', () => {}); // it may have left without reading its input
    child.stdin.end(input);
    child.on('error', reject);
    child.on('close', (code) => resolve(Object.assign(result, { code })));
  });
}

function parse({ args, stdout, stderr, code }) {
  try {
    return JSON.parse(stdout);
  } catch {
    throw new Error(`keybound ${args[0]} exited ${code} without JSON on stdout: ${stdout}\n${stderr}`);
  }
}

// A temporary folder for one test: its files, its keys, and the command's cache.
export async function workspace(t) {
  const dir = await mkdtemp(join(tmpdir(), 'keybound-interop-'));
  t.after(() => rm(dir, { recursive: true }));

  const file = (name) => join(dir, name);
  const kb = (args, { env, ...options } = {}) => run(args, { env: { XDG_CACHE_HOME: file('cache'), ...env }, ...options });
  return {
    file,
    kb,
    // Makes a key and returns { file, jwk, thumbprint, alg }.
    async key(name = 'key', ...options) {
      const made = await kb(['key', 'new', ...options, '--out', file(name)]);
      if (made.code !== 0) throw new Error(`key new exited ${made.code}: ${made.stderr}`);
      return { file: file(name), ...(await kb(['key', 'show', file(name)])).json() };
    },
  };
}
