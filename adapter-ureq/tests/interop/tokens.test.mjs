// Tokens for tokens and for assertions, and what becomes of a token that is there.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as jose from 'jose';
import { session } from './session.mjs';
import { CLIENTS } from './server.mjs';

const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

describe('a token by way of another', () => {
  for (const requireNonce of [true, false]) {
    test(`token-exchange, nonces ${requireNonce}`, async (t) => {
      const { server, run, machine, thumbprint } = await session(t, { requireNonce });
      const who = machine('basic');
      const { access_token: subject } = (await run('token', who, '--issuer', server.issuer)).json();
      const exchange = (token) => run('token', { ...who, env: { ...who.env, SUBJECT: token } }, '--issuer', server.issuer,
        '--grant', 'token-exchange', '--param-env', 'subject_token=SUBJECT', '--param', `subject_token_type=${ACCESS_TOKEN}`,
        '--param', 'audience=a', '--param', 'audience=b');
      const result = await exchange(subject);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.json().jkt, thumbprint);
      assert.notEqual(result.json().access_token, subject);
      const refused = await exchange('another-token-altogether');
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /invalid_grant/);
    });

    test(`jwt-bearer, nonces ${requireNonce}`, async (t) => {
      const { server, run, machine, thumbprint } = await session(t, { requireNonce });
      const who = machine('basic');
      const assertion = (audience) => new jose.SignJWT().setProtectedHeader({ alg: 'HS256' }).setAudience(audience)
        .setExpirationTime('1 minute').sign(new TextEncoder().encode(CLIENTS.basic.client_secret));
      const token = async (audience) => run('token', { ...who, env: { ...who.env, ASSERTION: await assertion(audience) } },
        '--issuer', server.issuer, '--grant', 'jwt-bearer', '--param-env', 'assertion=ASSERTION');
      const result = await token(server.issuer);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.json().jkt, thumbprint);
      assert.equal((await token('https://elsewhere.example')).code, 1);
    });
  }
});

describe('a token that is there', () => {
  for (const requireNonce of [true, false]) {
    test(`is introspected, revoked, and no longer active, nonces ${requireNonce}`, async (t) => {
      const { server, run, machine, thumbprint } = await session(t, { requireNonce });
      const who = machine('basic');
      const { access_token: token } = (await run('token', who, '--issuer', server.issuer, '--scope', 'read')).json();
      const about = (verb, ...args) => run(verb, { ...who, env: { ...who.env, TOKEN: token } }, '--issuer', server.issuer, '--token-env', 'TOKEN', ...args);

      const before = await about('introspect', '--hint', 'access_token');
      assert.equal(before.code, 0, before.stderr);
      const { active, scope, jkt, client_id: client } = before.json();
      assert.deepEqual({ active, scope, jkt, client }, { active: true, scope: 'read', jkt: thumbprint, client: 'basic' });

      const revoked = await about('revoke');
      assert.deepEqual([revoked.code, revoked.stdout], [0, ''], revoked.stderr);
      const after = await about('introspect');
      assert.equal(after.code, 1);
      assert.equal(after.json().active, false);
    });
  }
});
