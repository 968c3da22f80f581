// `--issuer` instead of `--token-url`. Run by `npm run test:discovery`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { session } from './session.mjs';

const isMetadata = ({ path }) => path.includes('/.well-known/');
const isToken = ({ path }) => path === '/token';

describe('--issuer', { skip: !process.env.KEYBOUND_DISCOVERY && 'KEYBOUND_DISCOVERY is not set' }, () => {
  for (const requireNonce of [true, false]) {
    test(`finds the token endpoint, ${requireNonce ? 'with' : 'without'} nonces`, async (t) => {
      const { server, run, machine, thumbprint } = await session(t, { requireNonce });
      const result = await run('token', machine('basic'), '--issuer', server.issuer);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.json().jkt, thumbprint);
      assert.equal(server.log.filter(isMetadata).length, 1);
      assert.equal(server.log.filter(isToken).length, requireNonce ? 2 : 1);
      assert.ok(server.log.filter(isMetadata).every(({ scheme, hadProof }) => !scheme && !hadProof));
    });
  }

  // RFC 8414 section 3.3: the metadata must name the issuer that was asked for.
  test('refuses metadata of another issuer', async (t) => {
    const { server, run, machine } = await session(t);
    const result = await run('token', machine('basic'), '--issuer', server.issuer.replace('127.0.0.1', 'localhost'));
    assert.equal(result.code, 1);
    assert.match(result.stderr, /issuer/);
    assert.ok(server.log.some(isMetadata));
    assert.equal(server.log.filter(isToken).length, 0);
  });

  test('refuses an issuer without metadata', async (t) => {
    const { server, run, machine } = await session(t);
    const result = await run('token', machine('basic'), '--issuer', `${server.issuer}/elsewhere`);
    assert.equal(result.code, 1);
    assert.equal(server.log.filter(isToken).length, 0);
  });
});
