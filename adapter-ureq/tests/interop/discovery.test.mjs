// `--issuer` instead of `--token-url`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { session } from './session.mjs';

const isMetadata = ({ path }) => path.includes('/.well-known/');
const isToken = ({ path }) => path === '/token';

describe('--issuer', () => {
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

  test('posts the secret where that is all that the issuer takes', async (t) => {
    const { server, run, machine } = await session(t, { authMethods: ['client_secret_post', 'none'] });
    const result = await run('token', machine('post'), '--issuer', server.issuer);
    assert.equal(result.code, 0, result.stderr);
    assert.ok(server.log.filter(isToken).every(({ scheme }) => !scheme));
  });

  test('names an Ed25519 key as the issuer does', async (t) => {
    const { server, run, machine, key } = await session(t);
    const { file, thumbprint } = await key('ed', '--alg', 'EdDSA');
    const result = await run('token', { ...machine('basic'), key: file }, '--issuer', server.issuer);
    assert.equal(result.code, 0, result.stderr);
    assert.equal(result.json().jkt, thumbprint);
    assert.equal(server.log.filter(isToken).length, 1);
  });

  test('refuses a key that the issuer has no algorithm for, and asks for no token', async (t) => {
    const { server, run, machine, key } = await session(t, { proofAlgs: ['ES256'] });
    const { file } = await key('ed', '--alg', 'EdDSA');
    const result = await run('token', { ...machine('basic'), key: file }, '--issuer', server.issuer);
    assert.equal(result.code, 2);
    assert.match(result.stderr, /key must be for an algorithm that the server supports/);
    assert.equal(server.log.filter(isToken).length, 0);
  });

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
