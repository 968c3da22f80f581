// Clients that authenticate themselves by a signature, beside the proof by another key.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import * as jose from 'jose';
import { workspace } from './keybound.mjs';
import { session } from './session.mjs';

const RSA = ['RS256', 'PS256'];
const isToken = ({ path }) => path === '/token';

// A server that knows a client by its key, and that client.
async function signed(t, alg, options = {}) {
  const space = await workspace(t);
  const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  const jwk = { ...(await jose.exportJWK(privateKey)), alg, kid: 'client-key' };
  await writeFile(space.file('client'), JSON.stringify(jwk), { mode: 0o600 });
  const { d, p, q, dp, dq, qi, ...known } = jwk;
  const clients = [{
    client_id: 'signed',
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: alg,
    jwks: { keys: [known] },
  }];
  const made = await session(t, { ...options, clients }, { ...space, mine: await space.key('mine') });
  const client = { args: ['--client-id', 'signed', '--client-key', space.file('client')], env: {}, key: made.mine.file };
  return { ...made, client, jwk };
}

describe('--auth private-key-jwt', () => {
  for (const alg of ['ES256', 'ES384', 'EdDSA', ...RSA]) {
    test(`${alg}, beside a proof by another key`, async (t) => {
      const { server, run, client, thumbprint } = await signed(t, alg, { requireNonce: true });
      const result = await run('token', client, '--issuer', server.issuer);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.json().jkt, thumbprint);
      // The nonce costs one request more, with an assertion of its own.
      assert.deepEqual(server.log.filter(isToken).map(({ status }) => status), [400, 200]);
    });
  }

  test('the word itself, without a proof', async (t) => {
    const { server, run, client } = await signed(t, 'ES256');
    const result = await run('token', { ...client, key: undefined }, '--issuer', server.issuer, '--auth', 'private-key-jwt');
    assert.equal(result.code, 0, result.stderr);
    assert.equal(result.json().jkt, null);
  });

  test('a key from PKCS#8 has the kid that is given', async (t) => {
    const { server, run, client, jwk, file } = await signed(t, 'ES256');
    const pem = await jose.exportPKCS8(await jose.importJWK(jwk, 'ES256', { extractable: true }));
    await writeFile(file('pem'), pem, { mode: 0o600 });
    const args = (kid) => ['--client-id', 'signed', '--client-key', file('pem'), '--client-kid', kid];
    const asked = (kid) => run('token', { ...client, args: args(kid) }, '--issuer', server.issuer);
    assert.equal((await asked('client-key')).code, 0);
    assert.equal((await asked('another')).code, 1);
  });

  test('the assertion is for the token endpoint where no issuer is known, or for whom --client-audience says', async (t) => {
    const { server, run, client } = await signed(t, 'ES256');
    const token = (...args) => run('token', client, '--token-url', `${server.issuer}/token`, ...args);
    assert.equal((await token()).code, 0);
    assert.equal((await token('--client-audience', server.issuer)).code, 0);
    const refused = await token('--client-audience', 'https://elsewhere.example');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /invalid_client/);
  });

  test('another key is not the client', async (t) => {
    const { server, run, client, mine } = await signed(t, 'ES256');
    const imposter = { ...client, args: ['--client-id', 'signed', '--client-key', mine.file, '--client-kid', 'client-key'] };
    const result = await run('token', imposter, '--issuer', server.issuer);
    assert.equal(result.code, 1);
    assert.match(result.stderr, /invalid_client/);
  });
});
