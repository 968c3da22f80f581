// The package in Chromium, against the sandbox. To run: npm run build && KEYBOUND=/path/to/keybound npm test

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import * as jose from 'jose';
import { browser, sandbox, serve, servePages } from './harness.mjs';

let chromium, pages, server;

before(async () => {
  [chromium, pages, server] = await Promise.all([browser(), servePages(), sandbox('--nonce')]);
});

after(async () => {
  await chromium?.close();
  await pages?.close();
  server?.close();
});

/** A new profile with one open page, whose `requests` are those that went to other servers. */
async function profile(t, url = pages.url) {
  const context = await chromium.newContext();
  t.after(() => context.close());
  return { context, page: await open(context, url) };
}

async function open(context, url = pages.url) {
  const page = await context.newPage();
  page.requests = [];
  page.warnings = [];
  page.on('request', (request) => request.method() !== 'OPTIONS' && page.requests.push(request));
  page.on('console', (message) => page.warnings.push(message.text()));
  await page.goto(url);
  return page;
}

const machine = (more) => ({
  tokenEndpoint: `${server.oauth}/token`,
  clientId: server.client_id,
  clientSecret: server.client_secret,
  ...more,
});

const to = (page, path) => page.requests.filter((request) => new URL(request.url()).pathname.endsWith(path));

describe('a key', () => {
  for (const algorithm of ['ES256', 'Ed25519']) {
    test(`of ${algorithm} makes proofs that jose verifies, and is the same after a reload`, async (t) => {
      const { page } = await profile(t);
      const make = (algorithm) => page.evaluate(async (algorithm) => {
        const { ProofKey } = await import('/keybound/index.js');
        const key = await ProofKey.open('k', { algorithm });
        const proof = await key.proof({
          method: 'POST', url: 'https://as.example/token?a=b#c', nonce: 'n', accessToken: 'a token',
        });
        return { proof, thumbprint: key.thumbprint, jwk: key.publicJwk, algorithm: key.algorithm };
      }, algorithm);

      const { proof, thumbprint, jwk } = await make(algorithm);
      const options = { typ: 'dpop+jwt', algorithms: ['ES256', 'EdDSA', 'Ed25519'] };
      const { payload, protectedHeader } = await jose.jwtVerify(proof, jose.EmbeddedJWK, options);
      assert.deepEqual(protectedHeader.jwk, jwk);
      assert.equal(await jose.calculateJwkThumbprint(jwk), thumbprint);
      assert.equal(payload.htm, 'POST');
      assert.equal(payload.htu, 'https://as.example/token');
      assert.equal(payload.nonce, 'n');
      assert.equal(payload.ath, createHash('sha256').update('a token').digest('base64url'));
      assert.ok(Math.abs(payload.iat - Date.now() / 1000) < 5);

      await page.reload();
      assert.equal((await make()).thumbprint, thumbprint);
      const other = await make(algorithm === 'ES256' ? 'Ed25519' : 'ES256').catch((error) => error);
      assert.match(other.message, /algorithm must be that of the key that is kept/);
    });
  }

  test("can't be exported, by any door", async (t) => {
    const { page } = await profile(t);
    const seen = await page.evaluate(async () => {
      const { ProofKey } = await import('/keybound/index.js');
      await ProofKey.open('k');
      const database = await new Promise((resolve) => {
        indexedDB.open('keybound').onsuccess = ({ target }) => resolve(target.result);
      });
      const pair = await new Promise((resolve) => {
        database.transaction('kept').objectStore('kept').get('key k').onsuccess = ({ target }) => resolve(target.result);
      });
      const attempts = ['pkcs8', 'jwk', 'raw'].map((format) => crypto.subtle.exportKey(format, pair.privateKey));
      const outcomes = await Promise.allSettled(attempts);
      return { extractable: pair.privateKey.extractable, usages: pair.privateKey.usages, outcomes: outcomes.map(({ status }) => status) };
    });
    assert.deepEqual(seen, { extractable: false, usages: ['sign'], outcomes: ['rejected', 'rejected', 'rejected'] });
  });

  test('is one key for two tabs that open it at once', async (t) => {
    const { context, page } = await profile(t);
    const other = await open(context);
    const thumbprints = await Promise.all([page, other, page, other].map((tab) => tab.evaluate(async () => {
      const { ProofKey } = await import('/keybound/index.js');
      return (await ProofKey.open('k')).thumbprint;
    })));
    assert.equal(new Set(thumbprints).size, 1);
  });

  test('is another one after it was deleted', async (t) => {
    const { page } = await profile(t);
    const thumbprints = await page.evaluate(async () => {
      const { ProofKey } = await import('/keybound/index.js');
      const before = (await ProofKey.open('k')).thumbprint;
      await ProofKey.delete('k');
      return [before, (await ProofKey.open('k')).thumbprint];
    });
    assert.notEqual(...thumbprints);
  });
});

describe('session.fetch', () => {
  test('gets a token and calls with it, and pays one request for each nonce', async (t) => {
    const { page } = await profile(t);
    const answers = await page.evaluate(async ([options, url]) => {
      const { Session } = await import('/keybound/index.js');
      const session = await Session.open(options);
      const answers = [];
      for (const init of [undefined, { method: 'POST', body: 'text' }, new Request(url, { method: 'DELETE' })]) {
        const response = init instanceof Request ? await session.fetch(init) : await session.fetch(url, init);
        answers.push([response.status, (await response.json()).method]);
      }
      return answers;
    }, [machine(), `${server.oauth}/resource?q=1`]);
    assert.deepEqual(answers, [[200, 'GET'], [200, 'POST'], [200, 'DELETE']]);
    assert.equal(to(page, '/token').length, 2);
    assert.equal(to(page, '/resource').length, 4);
  });

  test('of twenty calls at once costs one token and one nonce', async (t) => {
    const { page } = await profile(t);
    const statuses = await page.evaluate(async ([options, url]) => {
      const { Session } = await import('/keybound/index.js');
      const session = await Session.open(options);
      const responses = await Promise.all(Array.from({ length: 20 }, () => session.fetch(url)));
      return responses.map(({ status }) => status);
    }, [machine(), `${server.oauth}/resource`]);
    assert.deepEqual(statuses, Array(20).fill(200));
    assert.equal(to(page, '/token').length, 2);
    assert.equal(to(page, '/resource').length, 21);
  });
});
