// A server, a workspace with a key, and runs of `keybound token` and `keybound call` between them.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { workspace } from './keybound.mjs';
import { authorizationCode, CLIENTS, REDIRECT_URI, sha256, startProvider } from './server.mjs';

// `earlier` is a session whose workspace, cache and key are to be used again.
export async function session(t, options, earlier) {
  const { kb, key, file } = earlier ?? await workspace(t);
  const mine = earlier?.mine ?? await key('mine');
  const server = await startProvider(options);
  t.after(() => server.close());

  // Who asks is `{ args, env, key }`: every value of `env` is a secret, `key` is the file to bind the token to.
  const run = async (command, { args: who, env, key: bind, onStderr }, ...args) => {
    const where = args.includes('--issuer') || args.includes('--token-url') ? [] : ['--token-url', `${server.issuer}/token`];
    const dpop = bind ? ['--dpop', '--key', bind] : [];
    const result = await kb([command, ...where, ...who, ...dpop, ...args], { env, onStderr });
    checkSecrecy(result, server, env);
    checkProofs(server);
    return result;
  };

  const machine = (name, secret = CLIENTS[name].client_secret) => ({
    args: ['--client-id', CLIENTS[name].client_id, '--client-secret-env', 'CLIENT_SECRET'],
    env: { CLIENT_SECRET: secret },
    key: mine.file,
  });

  const app = (grant, ...args) => ({
    args: ['--client-id', CLIENTS.app.client_id, '--auth', 'none', '--grant', grant, ...args],
    env: {},
    key: mine.file,
  });

  const login = async (dpopJkt) => {
    const codeVerifier = randomBytes(32).toString('base64url');
    const code = await authorizationCode({
      issuer: server.issuer, clientId: CLIENTS.app.client_id, redirectUri: REDIRECT_URI, codeVerifier, dpopJkt,
    });
    const params = { code, redirect_uri: REDIRECT_URI, code_verifier: codeVerifier };
    return app('authorization_code', ...Object.entries(params).flatMap(([name, value]) => ['--param', `${name}=${value}`]));
  };

  const refresh = (token) => ({
    ...app('refresh_token', '--refresh-token-env', 'REFRESH_TOKEN'),
    env: { REFRESH_TOKEN: token },
  });

  return { server, run, machine, login, refresh, kb, key, file, mine, thumbprint: mine.thumbprint };
}

// No secret that went in comes out; on stderr, and on the stdout of `call`, nothing that the servers exchanged either.
function checkSecrecy({ args: [command], stdout, stderr }, { log }, env) {
  const given = Object.values(env).flatMap((secret) => [secret, encodeURIComponent(secret)]);
  const exchanged = log.flatMap(({ credentials, proof, answer }) => [
    credentials,
    ...(proof?.split('.').slice(1) ?? []), // the header holds nothing but the public key
    answer?.access_token,
    answer?.refresh_token,
    answer?.id_token,
  ]).filter(Boolean);

  const shows = (output, secrets) => secrets.some((secret) => output.includes(secret));
  assert.ok(!shows(stdout, given), `${command} shows a secret on stdout`);
  assert.ok(!shows(stderr, [...given, ...exchanged]), `${command} shows a secret on stderr`);
  if (command === 'call') assert.ok(!shows(stdout, exchanged), 'call shows a token on stdout');
}

// What holds for every proof that reached a server, accepted or not.
function checkProofs({ issuer, log }) {
  const proofs = log.filter(({ hadProof }) => hadProof);
  assert.equal(new Set(proofs.map(({ claims }) => claims.jti)).size, proofs.length, 'a jti was used twice');
  for (const { method, path, time, scheme, credentials, header, claims } of proofs) {
    assert.deepEqual(Object.keys(header).sort(), ['alg', 'jwk', 'typ']);
    assert.equal(claims.htm, method);
    assert.equal(claims.htu, issuer + path);
    assert.ok(claims.iat <= time && claims.iat >= time - 5, `iat ${claims.iat} at ${time}`);
    const hasToken = scheme?.toLowerCase() === 'dpop';
    assert.equal(hasToken, path === '/resource' || path === '/me' || path === '/no-such-path', `a token at ${path}`);
    assert.equal(claims.ath, hasToken ? sha256(credentials) : undefined, `ath at ${path}`);
  }
}
