// The command against independent implementations: jose and dpop for proofs, oidc-provider for the flows.
// To run: npm ci && KEYBOUND=/path/to/keybound npm test

import assert from 'node:assert/strict';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import * as dpop from 'dpop';
import * as jose from 'jose';
import { workspace } from './keybound.mjs';
import { session } from './session.mjs';
import { RESOURCE_INDICATOR, sha256 } from './server.mjs';

const URL_SENT = 'https://server.example/token?x=1#f';
const HTU = 'https://server.example/token';
const TOKEN = 'an-access.token_of~some+kind/==';
const NONCE = 'a-nonce';
const PRIVATE_MEMBERS = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];

const now = () => Math.floor(Date.now() / 1000);
const members = (object) => Object.keys(object).sort();

// Does fn(0) ... fn(count - 1), a few at a time.
async function pooled(count, fn) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const i = next++;
      results[i] = await fn(i);
    }
  };
  await Promise.all(Array.from({ length: 6 }, worker));
  return results;
}

// ---------------------------------------------------------------------------------------------- keys and proofs

describe('key', () => {
  test('new writes a file for its owner only, and never over one that is there', async (t) => {
    const { kb, file } = await workspace(t);
    const make = () => kb(['key', 'new', '--out', file('key')]);

    assert.equal((await make()).code, 0);
    assert.equal((await stat(file('key'))).mode & 0o777, 0o600);

    const before = await readFile(file('key'));
    assert.notEqual((await make()).code, 0);
    assert.deepEqual(await readFile(file('key')), before);
  });

  test('show prints the public key and its thumbprint', async (t) => {
    const { jwk, ...shown } = await (await workspace(t)).key();
    assert.deepEqual(members(shown), ['alg', 'file', 'thumbprint']); // the file's name is ours
    assert.equal(shown.alg, 'ES256');
    assert.equal(shown.thumbprint, await jose.calculateJwkThumbprint(jwk));
    assert.deepEqual(members(jwk).filter((name) => PRIVATE_MEMBERS.includes(name)), []);
  });

  for (const alg of ['ES256', 'ES384', 'EdDSA']) {
    test(`new --alg ${alg} makes a key that signs`, async (t) => {
      const { kb, key } = await workspace(t);
      const { file, thumbprint } = await key('key', '--alg', alg);
      await checkProofBy(kb, file, alg, thumbprint);
    });
  }

  const pkcs8 = { ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] };
  for (const [alg, [type, options]] of Object.entries(pkcs8)) {
    for (const format of ['pem', 'der']) {
      test(`${alg} key of OpenSSL, PKCS#8 as ${format.toUpperCase()}`, async (t) => {
        const { kb, file } = await workspace(t);
        const { privateKey } = generateKeyPairSync(type, options);
        await writeFile(file('key'), privateKey.export({ type: 'pkcs8', format }), { mode: 0o600 });
        await checkProofBy(kb, file('key'), alg);
      });
    }
  }

  for (const alg of ['ES256', 'ES384', 'EdDSA', 'RS256', 'PS256']) {
    test(`${alg} key of jose, a private JWK`, async (t) => {
      const { kb, file } = await workspace(t);
      const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
      const jwk = { ...(await jose.exportJWK(privateKey)), alg };
      await writeFile(file('key'), JSON.stringify(jwk), { mode: 0o600 });
      await checkProofBy(kb, file('key'), alg, await jose.calculateJwkThumbprint(jwk));
    });
  }

  // RFC 9864 calls `Ed25519` what RFC 8037 called `EdDSA`; either will do.
  async function checkProofBy(kb, file, alg, thumbprint) {
    const made = await kb(['proof', 'make', '--key', file, '--method', 'GET', '--url', HTU]);
    assert.equal(made.code, 0, made.stderr);
    const { protectedHeader } = await jose.jwtVerify(made.stdout.trim(), jose.EmbeddedJWK, {
      typ: 'dpop+jwt',
      algorithms: alg === 'EdDSA' ? ['EdDSA', 'Ed25519'] : [alg],
    });
    assert.deepEqual(members(protectedHeader.jwk).filter((name) => PRIVATE_MEMBERS.includes(name)), []);
    if (thumbprint) assert.equal(await jose.calculateJwkThumbprint(protectedHeader.jwk), thumbprint);
  }
});

describe('proof make', () => {
  test('makes what RFC 9449 section 4.2 asks for, and nothing more', async (t) => {
    const { kb, key } = await workspace(t);
    const { file, jwk } = await key();
    const before = now();
    const made = await kb([
      'proof', 'make', '--key', file, '--method', 'POST', '--url', URL_SENT, '--nonce', NONCE, '--access-token-env', 'AT',
    ], { env: { AT: TOKEN } });
    assert.equal(made.code, 0, made.stderr);

    const { payload, protectedHeader } = await verify(made.stdout);
    assert.deepEqual(members(protectedHeader), ['alg', 'jwk', 'typ']);
    assert.deepEqual(members(protectedHeader.jwk), ['crv', 'kty', 'x', 'y']);
    assert.deepEqual(protectedHeader.jwk, jwk);
    assert.deepEqual(members(payload), ['ath', 'htm', 'htu', 'iat', 'jti', 'nonce']);
    assert.equal(payload.htm, 'POST');
    assert.equal(payload.htu, HTU);
    assert.equal(payload.nonce, NONCE);
    assert.equal(payload.ath, sha256(TOKEN));
    assert.ok(Number.isInteger(payload.iat));
    assert.ok(payload.iat >= before - 5 && payload.iat <= now(), `iat ${payload.iat}, made after ${before}`);
  });

  test('without nonce and access token there is no claim for them', async (t) => {
    const { kb, key } = await workspace(t);
    const { stdout } = await kb(['proof', 'make', '--key', (await key()).file, '--method', 'GET', '--url', HTU]);
    assert.deepEqual(members((await verify(stdout)).payload), ['htm', 'htu', 'iat', 'jti']);
  });

  // Every NQCHAR, a nonce that looks like an option, and one that looks like a number.
  const nqchars = String.fromCharCode(...Array(0x7f).keys()).replace(/[\x00-\x20"\\]/g, '');
  for (const nonce of [nqchars, '-abc', '--key', '0123']) {
    test(`nonce ${nonce} survives`, async (t) => {
      const { kb, key } = await workspace(t);
      const made = await kb(['proof', 'make', '--key', (await key()).file, '--method', 'GET', '--url', HTU, '--nonce', nonce]);
      assert.equal(made.code, 0, made.stderr);
      assert.equal((await verify(made.stdout)).payload.nonce, nonce);
    });
  }

  test('256 proofs have 256 identifiers of 128 random bits', async (t) => {
    const { kb, key } = await workspace(t);
    const { file } = await key();
    const ids = await pooled(256, async () => {
      const { stdout } = await kb(['proof', 'make', '--key', file, '--method', 'GET', '--url', HTU]);
      return jose.decodeJwt(stdout.trim()).jti;
    });
    assert.equal(new Set(ids).size, 256);
    // 256 samples show nearly all values that a position can take; a UUID, with its 122 bits, stays below this.
    const length = Math.min(...ids.map((id) => id.length));
    let bits = 0;
    for (let i = 0; i < length; i += 1) bits += Math.log2(new Set(ids.map((id) => id[i])).size);
    assert.ok(bits > 126, `${bits} bits, as in ${ids[0]}`);
  });

  const verify = (proof) => jose.jwtVerify(proof.trim(), jose.EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'] });
});

describe('proof inspect', () => {
  test('accepts what proof make made', async (t) => {
    const { inspect, proof, thumbprint } = await inspected(t);
    accepted(await inspect(proof), thumbprint);
  });

  test('accepts the proof for any of several URLs', async (t) => {
    const { inspect, proof, thumbprint } = await inspected(t);
    accepted(await inspect(proof, { url: 'https://server.example/other' }, '--url', HTU, '--url', 'https://server.org/'), thumbprint);
  });

  test('refuses the proof with any one character changed', async (t) => {
    const { inspect, proof } = await inspected(t);
    const changed = [...positions(proof)].map((i) => proof.slice(0, i) + other(proof[i]) + proof.slice(i + 1));
    const damaged = [...changed, `${proof}=`, `${proof}.`, `.${proof}`, `${proof}\n${proof}`, proof.slice(0, -1)];
    await pooled(damaged.length, async (i) => refused(await inspect(damaged[i]), damaged[i]));
  });

  const expectations = {
    method: { method: 'GET' },
    path: { url: `${HTU}/` },
    host: { url: 'https://server.example.org/token' },
    scheme: { url: 'http://server.example/token' },
    port: { url: 'https://server.example:8443/token' },
    nonce: { nonce: `${NONCE}x` },
    'access token': { tokenEnv: 'OTHER' },
  };
  for (const [name, expected] of Object.entries(expectations)) {
    test(`refuses the proof where another ${name} is expected`, async (t) => {
      const { inspect, proof } = await inspected(t);
      refused(await inspect(proof, expected), name);
    });
  }

  for (const alg of ['ES256', 'ES384', 'EdDSA', 'Ed25519', 'RS256', 'PS256']) {
    test(`accepts ${alg} of jose`, async (t) => {
      const { inspect } = await workspaceToInspect(t);
      const signer = await joseSigner(alg);
      accepted(await inspect(await signer.sign()), await jose.calculateJwkThumbprint(signer.jwk), alg);
    });
  }

  test('accepts ES256 of dpop', async (t) => {
    const { inspect } = await workspaceToInspect(t);
    const pair = await dpop.generateKeyPair('ES256');
    const proof = await dpop.generateProof(pair, HTU, 'POST', NONCE, TOKEN);
    accepted(await inspect(proof), await dpop.calculateThumbprint(pair.publicKey));
  });

  const sound = {
    'htu in another spelling': { claims: { htu: 'HTTPS://Server.Example:443/token' } },
    'a claim that nobody knows': { claims: { 'https://example.org/claim': [1] } },
  };
  for (const [name, variant] of Object.entries(sound)) {
    test(`accepts ${name}`, async (t) => {
      const { inspect } = await workspaceToInspect(t);
      accepted(await inspect(await (await joseSigner('ES256')).sign(variant)));
    });
  }

  const unsound = {
    'another typ': { header: { typ: 'JWT' } },
    'no typ': { header: { typ: undefined } },
    'no jwk': { header: { jwk: undefined } },
    'a private jwk': { header: { jwk: (jwk) => ({ ...jwk, d: jwk.x }) } },
    'a jwk of somebody else': { header: { jwk: async () => (await joseSigner('ES256')).jwk } },
    'a critical extension': { header: { crit: ['urn:x'], 'urn:x': 1 }, crit: { 'urn:x': true } },
    'no jti': { claims: { jti: undefined } },
    'no iat': { claims: { iat: undefined } },
    'iat as text': { claims: { iat: String(now()) } },
    'an old iat': { claims: { iat: now() - 86400 } },
    'an iat ahead of time': { claims: { iat: now() + 86400 } },
    'no htm': { claims: { htm: undefined } },
    'htm in lower case': { claims: { htm: 'post' } },
    'no htu': { claims: { htu: undefined } },
    'no ath': { claims: { ath: undefined } },
    'no nonce': { claims: { nonce: undefined } },
    'an exp in the past': { claims: { exp: now() - 86400 } },
  };
  for (const [name, variant] of Object.entries(unsound)) {
    test(`refuses ${name}`, async (t) => {
      const { inspect } = await workspaceToInspect(t);
      refused(await inspect(await (await joseSigner('ES256')).sign(variant)), name);
    });
  }

  test('refuses an unsigned proof and one with a shared secret', async (t) => {
    const { inspect } = await workspaceToInspect(t);
    const { jwk } = await joseSigner('ES256');
    const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
    const unsigned = `${encode({ typ: 'dpop+jwt', alg: 'none', jwk })}.${encode(claims())}.`;
    refused(await inspect(unsigned), 'none');

    const secret = randomBytes(32);
    const header = { typ: 'dpop+jwt', alg: 'HS256', jwk: { kty: 'oct', k: secret.toString('base64url') } };
    refused(await inspect(await new jose.SignJWT(claims()).setProtectedHeader(header).sign(secret)), 'HS256');
  });

  const binding = ({ method = 'POST', url = HTU, nonce = NONCE, tokenEnv = 'AT' } = {}) => [
    '--method', method, '--url', url, '--nonce', nonce, '--access-token-env', tokenEnv,
  ];

  const claims = () => ({ jti: sha256(randomBytes(32)), htm: 'POST', htu: HTU, iat: now(), nonce: NONCE, ath: sha256(TOKEN) });

  // A proof maker whose headers and claims can be changed one by one; undefined leaves a member out.
  async function joseSigner(alg) {
    const { privateKey, publicKey } = await jose.generateKeyPair(alg);
    const jwk = await jose.exportJWK(publicKey);
    return {
      jwk,
      async sign({ header = {}, claims: changes = {}, crit } = {}) {
        const changed = { typ: 'dpop+jwt', alg, jwk, ...header };
        if (typeof changed.jwk === 'function') changed.jwk = await changed.jwk(jwk);
        return new jose.SignJWT({ ...claims(), ...changes }).setProtectedHeader(changed).sign(privateKey, { crit });
      },
    };
  }

  async function workspaceToInspect(t) {
    const { kb, key } = await workspace(t);
    const env = { AT: TOKEN, OTHER: `${TOKEN}x` };
    const inspect = (input, expected, ...args) => kb(['proof', 'inspect', ...binding(expected), ...args], { env, input });
    return { kb, key, env, inspect };
  }

  async function inspected(t) {
    const { kb, key, env, inspect } = await workspaceToInspect(t);
    const { file, thumbprint } = await key();
    const made = await kb(['proof', 'make', '--key', file, ...binding()], { env });
    accepted(await inspect(made.stdout), thumbprint); // as a pipe would hand it over, line end included
    return { inspect, proof: made.stdout.trim(), thumbprint };
  }

  function accepted(result, thumbprint, alg) {
    const answer = result.json();
    assert.deepEqual(answer.problems, []);
    assert.equal(answer.valid, true);
    assert.equal(result.code, 0);
    assert.equal(answer.claims.htm, 'POST');
    if (thumbprint) assert.equal(answer.jkt, thumbprint);
    if (alg) assert.equal(answer.alg, alg);
  }

  function refused(result, what) {
    assert.equal(result.code, 1, `accepted: ${what}\n${result.stdout}${result.stderr}`);
    const answer = result.json();
    assert.equal(answer.valid, false);
    assert.ok(answer.problems.length > 0);
  }

  // 13 places in each of the three parts, first and last among them, and the dots.
  function* positions(proof) {
    let start = 0;
    for (const part of proof.split('.')) {
      for (let i = 0; i < 13; i += 1) yield start + Math.round((i * (part.length - 1)) / 12);
      start += part.length + 1;
      if (start < proof.length) yield start - 1;
    }
  }

  // The next character of the alphabet. At the signature's end that changes only bits which mean nothing and must be zero.
  function other(char) {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    return alphabet[(alphabet.indexOf(char) + 1) % 64];
  }
});

test('wrong usage exits 2', async (t) => {
  const { kb } = await workspace(t);
  for (const args of [
    ['no-such-command'],
    ['proof', 'make', '--method', 'GET', '--url', HTU],
    ['token', '--no-such-option'],
    ['token', '--client-id', 'x'],
    ['token', '--token-url', 'https://server.example/token', '--client-id', 'x', '--client-secret-env', 'NOT_SET'],
  ]) {
    const { code, stdout, stderr } = await kb(args);
    assert.equal(code, 2, args.join(' '));
    assert.equal(stdout, '');
    assert.notEqual(stderr, '');
  }
});

// ------------------------------------------------------------------------------------------------------- flows

describe('client_credentials', () => {
  test('learns the nonce in one extra request, and remembers it', async (t) => {
    const { server, run, machine, thumbprint } = await session(t, { requireNonce: true });
    checkToken(await run('token', machine('basic')), server, { jkt: thumbprint, expiresIn: 600 });
    assert.deepEqual(seen(server, '/token'), [[400, false, 'use_dpop_nonce'], [200, true]]);

    checkToken(await run('token', machine('basic')), server, { jkt: thumbprint, expiresIn: 600 });
    assert.deepEqual(seen(server, '/token').slice(2), [[200, true]]);
  });

  test('sends no nonce where none was asked for', async (t) => {
    const { server, run, machine, thumbprint } = await session(t);
    checkToken(await run('token', machine('basic'), '--scope', 'read write'), server, { jkt: thumbprint, scope: 'read write' });
    assert.deepEqual(seen(server, '/token'), [[200, false]]);
  });

  test('uses a nonce that came unasked with a success', async (t) => {
    const { server, run, machine, thumbprint } = await session(t, { offerNonce: true });
    for (let i = 0; i < 2; i += 1) checkToken(await run('token', machine('basic')), server, { jkt: thumbprint });
    assert.deepEqual(seen(server, '/token'), [[200, false], [200, true]]);
  });

  test('replaces remembered nonces that have become stale', async (t) => {
    const before = await session(t, { requireNonce: true });
    assert.equal((await before.run('call', before.machine('basic'), `${before.server.issuer}/resource`)).code, 0);
    await before.server.close();

    const { server, run, machine } = await session(t, { requireNonce: true, port: before.server.port }, before);
    const result = await run('call', machine('basic'), `${server.issuer}/resource`);
    assert.equal(result.code, 0, result.stderr);
    assert.deepEqual(seen(server, '/token'), [[400, true, 'use_dpop_nonce'], [200, true]]);
    assert.deepEqual(seen(server, '/resource'), [[401, true, 'use_dpop_nonce'], [200, true]]);
  });

  for (const [name, ...auth] of [['post', '--auth', 'post'], ['odd', '--auth', 'basic'], ['odd']]) {
    test(`client ${name} ${auth.join(' ')}`, async (t) => {
      const { server, run, machine, thumbprint } = await session(t, { requireNonce: true });
      checkToken(await run('token', machine(name), ...auth), server, { jkt: thumbprint });
      assert.equal(server.log.at(-1).scheme, name === 'post' ? undefined : 'Basic');
    });
  }

  for (const [name, auth] of [['basic', 'basic'], ['post', 'post'], ['odd', 'basic']]) {
    test(`wrong secret of client ${name}`, async (t) => {
      const { server, run, machine } = await session(t, { requireNonce: true });
      checkRefusal(await run('token', machine(name, 'a-wrong:secret+of%20some/length'), '--auth', auth), /invalid_client/);
      assert.deepEqual(seen(server, '/token'), [[401, false, 'invalid_client']]);
    });
  }

  test('a scope that the client may not have', async (t) => {
    const { run, machine } = await session(t);
    checkRefusal(await run('token', machine('basic'), '--scope', 'openid'), /invalid_scope/);
  });

  test('a JWT access token names the key', async (t) => {
    const { server, run, machine, thumbprint } = await session(t, { requireNonce: true });
    const result = await run('token', machine('basic'), '--param', `resource=${RESOURCE_INDICATOR}`, '--scope', 'read');
    const { access_token: token } = checkToken(result, server, { jkt: thumbprint, scope: 'read' });
    const { aud, cnf } = jose.decodeJwt(token);
    assert.deepEqual({ aud, cnf }, { aud: RESOURCE_INDICATOR, cnf: { jkt: thumbprint } });
  });

  test('without --dpop the token is a plain one', async (t) => {
    const { server, run, machine } = await session(t);
    const answer = (await run('token', unbound(machine('basic')))).json();
    assert.equal(answer.token_type.toLowerCase(), 'bearer');
    assert.equal(answer.jkt ?? null, null);
    assert.equal(server.log[0].hadProof, false);
  });
});

describe('call with client_credentials', () => {
  for (const requireNonce of [true, false]) {
    test(`GET, ${requireNonce ? 'the nonces of both servers kept apart' : 'without nonces'}`, async (t) => {
      const { server, run, machine } = await session(t, { requireNonce });
      const get = () => run('call', machine('basic'), `${server.issuer}/resource?page=1&q=a%20b`);

      const result = await get();
      assert.equal(result.code, 0, result.stderr);
      const { method, query, client } = result.json();
      assert.deepEqual({ method, query, client }, { method: 'GET', query: 'page=1&q=a%20b', client: 'basic' });
      assert.deepEqual(seen(server, '/resource'), requireNonce ? [[401, false, 'use_dpop_nonce'], [200, true]] : [[200, false]]);

      const before = server.log.length;
      assert.equal((await get()).code, 0);
      assert.deepEqual(server.log.slice(before).map(({ path, status }) => [path, status]), [['/token', 200], ['/resource', 200]]);
    });
  }

  test('POST sends its body again after the challenge', async (t) => {
    const data = '{"amount": 100, "text": "grün"}';
    for (const fromFile of [false, true]) {
      const { file, server, run, machine } = await session(t, { requireNonce: true });
      await writeFile(file('data'), data);
      const result = await run('call', machine('basic'), '-X', 'POST', '-d', fromFile ? `@${file('data')}` : data,
        '-H', 'content-type=application/json', '-H', 'x-note=a=b', `${server.issuer}/resource`);
      assert.equal(result.code, 0, result.stderr);
      const { method, type, note, body } = result.json();
      assert.deepEqual({ method, type, note, body }, { method: 'POST', type: 'application/json', note: 'a=b', body: data });
      assert.equal(seen(server, '/resource').length, 2);
    }
  });

  test('-i prints status and headers before the body', async (t) => {
    const { server, run, machine } = await session(t);
    const { stdout } = await run('call', machine('basic'), '-i', `${server.issuer}/resource`);
    assert.match(stdout, /^HTTP\/1\.1 200\b[^]*\ncontent-type: application\/json[^]*\n\r?\n\{/i);
  });

  test('a wrong path is a refusal', async (t) => {
    const { server, run, machine } = await session(t, { requireNonce: true });
    checkRefusal(await run('call', machine('basic'), `${server.issuer}/no-such-path`), /404/);
    assert.deepEqual(seen(server, '/no-such-path'), [[404, false]]);
  });

  test('a token without a key is refused, without end', async (t) => {
    const { server, run, machine } = await session(t);
    checkRefusal(await run('call', unbound(machine('basic')), `${server.issuer}/resource`), /invalid_token|401/);
    assert.ok(seen(server, '/resource').length <= 2);
  });
});

describe('authorization_code and refresh_token', () => {
  for (const requireNonce of [true, false]) {
    test(`from the code to a refreshed call, ${requireNonce ? 'with' : 'without'} nonces`, async (t) => {
      const { server, run, thumbprint, login, refresh } = await session(t, { requireNonce });
      const expected = { jkt: thumbprint, expiresIn: 3600, scope: 'openid offline_access' };
      const first = checkToken(await run('token', await login()), server, expected);
      const second = checkToken(await run('token', refresh(first.refresh_token)), server, expected);
      assert.notEqual(second.access_token, first.access_token);
      assert.notEqual(second.refresh_token, first.refresh_token); // this server rotates them

      const called = await run('call', refresh(second.refresh_token), `${server.issuer}/me`);
      assert.equal(called.code, 0, called.stderr);
      assert.equal(called.json().sub, 'alice');
      const challenge = (status) => (requireNonce ? [[status, false, 'use_dpop_nonce']] : []);
      assert.deepEqual(seen(server, '/token'), [...challenge(400), ...Array(3).fill([200, requireNonce])]);
      assert.deepEqual(seen(server, '/me'), [...challenge(401), [200, requireNonce]]);
    });
  }

  test('a refresh token is bound to its key', async (t) => {
    const { server, run, key, thumbprint, login, refresh } = await session(t, { requireNonce: true });
    const { refresh_token: token } = (await run('token', await login())).json();
    const another = await key('another');
    checkRefusal(await run('token', { ...refresh(token), key: another.file }), /invalid_grant|invalid_dpop_proof/);
    assert.deepEqual(seen(server, '/token').at(-1), [400, true, 'invalid_grant']);
    checkToken(await run('token', refresh(token)), server, { jkt: thumbprint });
  });

  test('a code is bound to the key that dpop_jkt named', async (t) => {
    const { server, run, key, thumbprint, login } = await session(t, { requireNonce: true });
    const another = await key('another');
    checkRefusal(await run('token', { ...await login(thumbprint), key: another.file }), /invalid_grant/);
    checkToken(await run('token', await login(thumbprint)), server, { jkt: thumbprint });
  });

  test('a refresh token that was used before', async (t) => {
    const { server, run, thumbprint, login, refresh } = await session(t);
    const { refresh_token: token } = (await run('token', await login())).json();
    checkToken(await run('token', refresh(token)), server, { jkt: thumbprint });
    const before = server.log.length;
    checkRefusal(await run('token', refresh(token)), /invalid_grant/);
    assert.equal(server.log.length, before + 1);
  });
});

// That no run shows a secret, with or without --trace, is checked in `session`.
test('--trace shows the exchange', async (t) => {
  const { server, run, machine, login, refresh } = await session(t, { requireNonce: true });
  const called = await run('call', machine('odd'), '--trace', `${server.issuer}/resource`);
  const posted = await run('token', machine('post'), '--trace', '--auth', 'post');
  const started = await run('token', await login(), '--trace');
  const refreshed = await run('call', refresh(started.json().refresh_token), '--trace', `${server.issuer}/me`);
  for (const { code, stderr } of [called, posted, started, refreshed]) {
    assert.equal(code, 0, stderr);
    assert.match(stderr, /\/token/);
    assert.match(stderr, /\b200\b/);
  }
  assert.match(called.stderr, /\b400\b[^]*\/resource[^]*\b401\b/);
});

const unbound = (as) => ({ ...as, key: undefined });

// What happened at a path, in short: [status, nonce claim or not, error if any] of each request.
const seen = (server, path) => server.log
  .filter((entry) => entry.path === path)
  .map(({ status, hadNonceClaim, error }) => (error ? [status, hadNonceClaim, error] : [status, hadNonceClaim]));

function checkToken(result, server, { jkt, expiresIn, scope }) {
  assert.equal(result.code, 0, result.stderr);
  const token = result.json();
  const { answer } = server.log.findLast(({ path }) => path === '/token');
  assert.equal(token.token_type, 'DPoP');
  assert.equal(token.access_token, answer.access_token);
  assert.equal(token.refresh_token ?? undefined, answer.refresh_token);
  assert.equal(token.jkt, jkt);
  assert.ok(Number.isInteger(token.expires_at));
  assert.ok(Math.abs(token.expires_at - now() - answer.expires_in) <= 5, `expires_at ${token.expires_at}`);
  if (expiresIn) assert.equal(answer.expires_in, expiresIn);
  if (scope) assert.equal(token.scope, scope);
  return token;
}

function checkRefusal({ code, stdout, stderr }, reason) {
  assert.equal(code, 1, stdout + stderr);
  assert.match(stderr, reason);
}
