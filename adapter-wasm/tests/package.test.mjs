// The package in Chromium, against the sandbox. To run: npm run build && KEYBOUND=/path/to/keybound npm test

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import * as jose from 'jose';
import { browser, relay, sandbox, serve, servePages } from './harness.mjs';

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
  grant: 'client_credentials',
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
      assert.match(other.message, /algorithm must match the key that is stored/);
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
        database.transaction('records').objectStore('records').get('key k').onsuccess = ({ target }) => resolve(target.result);
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

describe('session.fetch, like fetch,', () => {
  /** A resource that takes any token, and a session whose tokens come from the page. */
  async function resource(t, answer) {
    const log = [];
    const server = await serve(async (request, response) => {
      response.setHeader('access-control-allow-origin', '*');
      if (request.method === 'OPTIONS') {
        response.setHeader('access-control-allow-headers', request.headers['access-control-request-headers'] ?? '');
        return response.writeHead(204, { 'access-control-allow-methods': '*' }).end();
      }
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const entry = { url: request.url, method: request.method, headers: request.headers, body: Buffer.concat(chunks) };
      log.push(entry);
      return answer(entry, response);
    });
    t.after(() => server.close());
    const { page, context } = await profile(t);
    await page.evaluate(async () => {
      const { Session, KeyboundError } = await import('/keybound/index.js');
      globalThis.session = await Session.open({
        token: async () => ({ access_token: 'at', token_type: 'DPoP', expires_in: 3600 }),
      });
      globalThis.failure = (promise) => promise.then(
        () => undefined,
        (error) => ({ ...error, name: error.name, message: error.message, known: error instanceof KeyboundError }),
      );
    });
    return { page, context, log, url: server.url };
  }

  test('sends bodies of all kinds, headers and options, and streams the answer', async (t) => {
    const { page, log, url } = await resource(t, (_, response) => {
      response.writeHead(201, { 'x-more': 'a', 'access-control-expose-headers': 'x-more', 'content-type': 'text/plain' });
      response.write('one ');
      setTimeout(() => response.end('two'), 50);
    });
    const seen = await page.evaluate(async (url) => {
      const form = new FormData();
      form.append('file', new Blob(['content']), 'name');
      const bodies = ['text', new Uint8Array([1, 2, 3]), new Blob(['blob']), form, new URLSearchParams('a=b')];
      const answers = [];
      for (const body of bodies) {
        const response = await session.fetch(new URL('/x', url), { method: 'PUT', body, headers: { 'X-Mine': 'm' } });
        const chunks = [];
        const decoder = new TextDecoder();
        for await (const chunk of response.body) chunks.push(decoder.decode(chunk));
        answers.push([response.status, response.headers.get('x-more'), chunks.join(''), response instanceof Response]);
      }
      return answers;
    }, url);
    assert.deepEqual(seen, Array(5).fill([201, 'a', 'one two', true]));
    assert.deepEqual(log.slice(0, 3).map(({ body }) => body.toString('latin1')), ['text', '\x01\x02\x03', 'blob']);
    assert.match(log[3].headers['content-type'], /^multipart\/form-data/);
    assert.match(log[3].body.toString(), /content/);
    assert.equal(log[4].body.toString(), 'a=b');
    for (const { headers } of log) {
      assert.equal(headers['x-mine'], 'm');
      assert.equal(headers.authorization, 'DPoP at');
    }
    const ids = log.map(({ headers }) => jose.decodeJwt(headers.dpop).jti);
    assert.equal(new Set(ids).size, ids.length);
  });

  test('sends a body again where the server wants its nonce', async (t) => {
    const { page, log, url } = await resource(t, ({ headers }, response) => {
      response.setHeader('access-control-expose-headers', 'dpop-nonce, www-authenticate');
      if (jose.decodeJwt(headers.dpop).nonce) return response.end('done');
      return response.writeHead(401, { 'dpop-nonce': 'n', 'www-authenticate': 'DPoP error="use_dpop_nonce"' }).end();
    });
    const said = await page.evaluate(async (url) => (await session.fetch(url, { method: 'POST', body: 'a body' })).text(), url);
    assert.equal(said, 'done');
    assert.deepEqual(log.map(({ body }) => body.toString()), ['a body', 'a body']);
  });

  const refusals = {
    'a challenge': { 'access-control-expose-headers': 'www-authenticate', 'www-authenticate': 'DPoP error="invalid_token"' },
    'a challenge that CORS hides': { 'www-authenticate': 'DPoP error="invalid_token"' },
    'a bare 401': {},
  };
  for (const [name, headers] of Object.entries(refusals)) {
    test(`costs two tokens in 30 s at most where an origin refuses every token, by ${name}`, async (t) => {
      const { page, log, url } = await resource(t, (_, response) => response.writeHead(401, headers).end('no'));
      const other = await resource(t, (_, response) => response.end('yes'));
      const said = await page.evaluate(async ([url, other]) => {
        const { Session } = await import('/keybound/index.js');
        const { now } = Date;
        let [minted, ahead] = [0, 0];
        Date.now = () => now() + ahead;
        const session = await Session.open({
          name: 'refused',
          token: async () => ({ access_token: `at-${(minted += 1)}`, token_type: 'DPoP', expires_in: 3600 }),
        });
        const calls = async (count) => {
          const answers = [];
          for (let at = 0; at < count; at += 1) {
            ahead += 1500; // the retry interval after each refresh is over
            const response = await session.fetch(url);
            answers.push(`${response.status} ${await response.text()}`);
          }
          return answers;
        };
        const first = [...(await calls(1)), minted];
        const rest = [await calls(9), minted];
        const elsewhere = [await (await session.fetch(other)).text(), minted];
        const after = [await calls(1), minted];
        ahead += 60_000;
        return [first, rest, elsewhere, after, (await calls(4)).length, minted];
      }, [url, other.url]);
      assert.deepEqual(said.slice(0, 4), [['401 no', 1], [Array(9).fill('401 no'), 2], ['yes', 2], [['401 no'], 2]]);
      assert.ok(said[5] > 2 && said[5] <= 4, said[5]);
      assert.ok(log.length <= 15 + 4, log.length);
      assert.equal(log[10].headers.authorization, 'DPoP at-2');
    });
  }

  test('gets another token for one that is refused, once it is no longer new', async (t) => {
    const { page, log, url } = await resource(t, ({ headers }, response) => {
      const isGood = !headers.authorization.endsWith('at-1') || log.length < 2;
      response.writeHead(isGood ? 200 : 401).end();
    });
    const said = await page.evaluate(async (url) => {
      const { Session } = await import('/keybound/index.js');
      let minted = 0;
      const session = await Session.open({
        name: 'refused',
        token: async () => ({ access_token: `at-${(minted += 1)}`, token_type: 'DPoP', expires_in: 3600 }),
      });
      const said = [];
      for (let at = 0; at < 3; at += 1) said.push((await session.fetch(url)).status);
      return said;
    }, url);
    assert.deepEqual(said, [200, 200, 200]);
    assert.deepEqual(log.map(({ headers }) => headers.authorization), [1, 1, 2, 2].map((n) => `DPoP at-${n}`));
  });

  test('is aborted by its signal, with its reason, before and while it waits', async (t) => {
    const { page, url } = await resource(t, () => {});
    const failures = await page.evaluate(async (url) => [
      await failure(session.fetch(url, { signal: AbortSignal.abort() })),
      await failure(session.fetch(url, { signal: AbortSignal.timeout(100) })),
      await session.fetch(url, { signal: AbortSignal.abort('my reason') }).catch((reason) => reason),
    ], url);
    assert.deepEqual([failures[0].name, failures[1].name, failures[2]], ['AbortError', 'TimeoutError', 'my reason']);
  });

  test('that is aborted holds up no call that waits for its nonce', async (t) => {
    const { page, url } = await resource(t, ({ headers }, response) => !headers['x-hangs'] && response.end('here'));
    const [reason, text, waited] = await page.evaluate(async (url) => {
      const stop = new AbortController();
      const first = session.fetch(url, { headers: { 'X-Hangs': 'yes' }, signal: stop.signal }).catch((reason) => reason);
      const second = session.fetch(url);
      const started = performance.now();
      setTimeout(() => stop.abort('enough'), 300);
      return [await first, await (await second).text(), performance.now() - started];
    }, url);
    assert.deepEqual([reason, text], ['enough', 'here']);
    assert.ok(waited < 1500, waited);
  });

  test('leaves the referrer and the signal to the application', async (t) => {
    const { page, log, url } = await resource(t, (_, response) => response.end());
    const reason = await page.evaluate(async (url) => {
      await session.fetch(url);
      await session.fetch(url, { referrerPolicy: 'no-referrer' });
      await session.fetch(new Request(url, { referrerPolicy: 'unsafe-url' }));
      await session.fetch(url, { referrer: '/elsewhere', referrerPolicy: 'unsafe-url' });
      const aborted = new Request(url, { signal: AbortSignal.abort('as before') });
      await session.fetch(aborted, { signal: null });
      return session.fetch(aborted).catch((reason) => reason);
    }, url);
    const own = new URL(page.url());
    assert.deepEqual(
      log.map(({ headers }) => headers.referer),
      [`${own.origin}/`, undefined, own.href, `${own.origin}/elsewhere`, `${own.origin}/`],
    );
    assert.equal(reason, 'as before');
  });

  test('follows no redirection with a token', async (t) => {
    const { page, log, url } = await resource(t, ({ url }, response) => response.writeHead(307, { location: `${url}x` }).end());
    const error = await page.evaluate((url) => failure(session.fetch(url)), url);
    assert.equal(error.kind, 'response');
    assert.match(error.message, /redirect/);
    const type = await page.evaluate(async (url) => (await session.fetch(url, { redirect: 'manual' })).type, url);
    assert.equal(type, 'opaqueredirect');
    assert.deepEqual(log.map(({ url }) => url), ['/', '/']);
  });

  test('refuses no-cors, and plain http beyond this machine', async (t) => {
    const { page, url } = await resource(t, (_, response) => response.end());
    const [opaque, plain] = await page.evaluate(async (url) => [
      await failure(session.fetch(url, { mode: 'no-cors' })),
      await failure(session.fetch('http://rs.example/')),
    ], url);
    assert.match(opaque.message, /^mode must not be no-cors/);
    assert.match(plain.message, /^url must begin with https/);
    for (const error of [opaque, plain]) assert.deepEqual([error.kind, error.known], ['misuse', true]);
  });

  test("tells by the console that a 401's headers are hidden", async (t) => {
    const { page, url } = await resource(t, (_, response) => {
      response.writeHead(401, { 'www-authenticate': 'DPoP error="use_dpop_nonce"', 'dpop-nonce': 'n' }).end();
    });
    assert.equal(await page.evaluate(async (url) => (await session.fetch(url)).status, url), 401);
    assert.ok(page.warnings.some((text) => text.includes('Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate')), page.warnings);
  });

  test('fails offline, with what to do, and works again online', async (t) => {
    const { page, context, url } = await resource(t, (_, response) => response.end('here'));
    await context.setOffline(true);
    const error = await page.evaluate((url) => failure(session.fetch(url)), url);
    assert.deepEqual([error.kind, error.retry, error.known], ['lost', 'later', true]);
    assert.match(error.message, /nothing was sent/);
    await context.setOffline(false);
    assert.equal(await page.evaluate(async (url) => (await session.fetch(url)).text(), url), 'here');
  });
});

describe('errors', () => {
  const opening = (page, options) => page.evaluate(async (options) => {
    const { Session } = await import('/keybound/index.js');
    return Session.open(options).then((session) => session.token()).then(
      () => undefined,
      (error) => ({ ...error, message: error.message }),
    );
  }, options);

  for (const [code, header] of [['use_dpop_nonce', 'DPoP-Nonce'], ['invalid_dpop_proof', 'Date']]) {
    test(`name the header that CORS hides at the token endpoint: ${header}`, async (t) => {
      const { page } = await profile(t);
      const hiding = (exposed) => serve((request, response) => {
        response.setHeader('access-control-allow-origin', '*');
        response.setHeader('access-control-allow-headers', 'dpop, authorization');
        response.setHeader('access-control-expose-headers', exposed);
        response.setHeader('dpop-nonce', 'n');
        response.writeHead(request.method === 'OPTIONS' ? 204 : 400).end(JSON.stringify({ error: code }));
      });
      const servers = [await hiding(''), await hiding(header)];
      t.after(() => Promise.all(servers.map((server) => server.close())));
      const [error, other] = await Promise.all(servers.map(({ url }) => opening(page, machine({ tokenEndpoint: `${url}/token` }))));
      assert.deepEqual([error.kind, error.code, error.status], ['hidden', code, 400]);
      assert.match(error.message, new RegExp(`hides this server's \`${header}\` header`));
      assert.match(error.message, /Access-Control-Expose-Headers: DPoP-Nonce/);
      assert.deepEqual([other.kind, other.code], ['server', code]);
    });
  }

  test('show no secret, and say whose fault it is', async (t) => {
    const { page } = await profile(t);
    const error = await opening(page, machine({ clientSecret: 'not-the-secret' }));
    assert.deepEqual([error.kind, error.retry, error.status, error.code], ['server', 'no', 401, 'invalid_client']);
    assert.doesNotMatch(JSON.stringify(error), /not-the-secret/);
  });

  for (const [name, change, message] of [
    ['an option that there is none of', { clientID: 'x' }, /^clientID is not known here: use name, issuer/],
    ['an option of another type', { scope: ['a'] }, /^scope must be a string/],
    ['a token endpoint over http', { tokenEndpoint: 'http://as.example/' }, /^url must/],
    ['no token endpoint', { tokenEndpoint: undefined }, /^tokenEndpoint must be given/],
    ['another grant', { grant: 'password' }, /^grant must be/],
    ['another algorithm', { algorithm: 'RS256' }, /^algorithm must be ES256 or Ed25519/],
  ]) {
    test(`point out ${name}`, async (t) => {
      const { page } = await profile(t);
      const error = await opening(page, machine(change));
      assert.equal(error.kind, 'misuse');
      assert.match(error.message, message);
    });
  }

  test('say that IndexedDB or WebCrypto is missing', async (t) => {
    const { page } = await profile(t);
    await page.addInitScript(() => Object.defineProperty(globalThis, 'indexedDB', { value: { open() { throw new DOMException('', 'SecurityError'); } } }));
    await page.reload();
    const blocked = await opening(page, machine());
    assert.equal(blocked.kind, 'browser');
    assert.match(blocked.message, /IndexedDB/);

    // A page over http that isn't this machine's.
    const elsewhere = await chromium.newContext();
    t.after(() => elsewhere.close());
    const insecure = await elsewhere.newPage();
    await insecure.route('http://plain.example/**', async (route) => {
      const url = new URL(route.request().url());
      await route.fulfill({ response: await route.fetch({ url: pages.url + url.pathname }) });
    });
    await insecure.goto('http://plain.example/');
    const plain = await opening(insecure, machine());
    assert.equal(plain.kind, 'browser');
    assert.match(plain.message, /WebCrypto is missing.*https/);
  });
});

describe('a wrong clock', () => {
  for (const [name, offset] of [['an hour behind', -3600], ['a day ahead', 86400]]) {
    test(`that is ${name} is corrected by what servers say`, async (t) => {
      const { page } = await profile(t);
      await page.addInitScript((offset) => {
        const now = Date.now;
        Date.now = () => now() + offset * 1000;
      }, offset);
      await page.reload();
      const statuses = await page.evaluate(async ([options, url]) => {
        const { Session } = await import('/keybound/index.js');
        const session = await Session.open(options);
        return [(await session.fetch(url)).status, (await session.fetch(url)).status];
      }, [machine(), `${server.oauth}/resource`]);
      assert.deepEqual(statuses, [200, 200]);
    });
  }
});

describe('workers', () => {
  const source = (options, url) => `
    import { Session } from '/keybound/index.js';
    const run = async () => {
      const session = await Session.open(${JSON.stringify(options)});
      const response = await session.fetch(${JSON.stringify(url)});
      return [response.status, session.key.thumbprint];
    };`;

  test('work, with the key of the page, in a Web Worker and in a Service Worker', async (t) => {
    const url = `${server.oauth}/resource`;
    const own = await servePages({
      '/worker.js': `${source(machine(), url)} run().then(postMessage, (error) => postMessage(String(error)));`,
      '/service.js': `${source(machine(), url)}
        addEventListener('install', () => skipWaiting());
        addEventListener('activate', (event) => event.waitUntil(clients.claim()));
        addEventListener('message', ({ source }) => run().then(
          (answer) => source.postMessage(answer), (error) => source.postMessage(String(error))));`,
    });
    t.after(() => own.close());
    const { page } = await profile(t, own.url);
    const answers = await page.evaluate(async (options) => {
      const { ProofKey } = await import('/keybound/index.js');
      const { thumbprint } = await ProofKey.open('keybound');
      const worker = new Worker('/worker.js', { type: 'module' });
      const first = await new Promise((resolve) => (worker.onmessage = ({ data }) => resolve(data)));
      await navigator.serviceWorker.register('/service.js', { type: 'module' });
      const { active } = await navigator.serviceWorker.ready;
      const second = await new Promise((resolve) => {
        navigator.serviceWorker.onmessage = ({ data }) => resolve(data);
        active.postMessage('go');
      });
      return [first, second, thumbprint];
    });
    assert.deepEqual(answers.slice(0, 2), Array(2).fill([200, answers[2]]));
  });
});

describe("a page's own way to a token", () => {
  for (const place of ['header', 'body']) {
    test(`relays a proof, sent as the ${place}, by the app's backend to Treasury Prime, and calls Marqeta`, async (t) => {
      const { close, ...backend } = await relay(pages.url);
      t.after(close);
      const { page } = await profile(t);
      const [status, body, again] = await page.evaluate(async ([{ url, marqeta, proof_url }, place]) => {
        const { Session } = await import('/keybound/index.js');
        let last;
        // Marqeta's SDK sends headers of its own as well.
        const send = () => fetch(`${url}/uxt`, {
          method: 'POST',
          ...(place === 'header' ? { headers: { DPoP: last, 'X-Source-Client': 'a page' } } : { body: last }),
        });
        const relayed = async (key, nonce) => {
          last = await key.proof({ method: 'POST', url: proof_url, nonce });
          const answer = await send();
          const wanted = answer.headers.get('dpop-nonce');
          if (wanted && !nonce) return relayed(key, wanted);
          if (!answer.ok) throw new Error(await answer.text());
          return answer.json();
        };
        const session = await Session.open({ name: 'cards', token: (key) => relayed(key) });
        const response = await session.fetch(`${marqeta}/api/v1/auth/program-short-code`);
        const again = await send();
        return [response.status, await response.json(), [again.status, (await again.json()).error_description]];
      }, [backend, place]);
      assert.deepEqual([status, body], [200, { program_short_code: 'sandbox' }]);
      assert.deepEqual(again, [400, 'the proof was used before (`jti`)']);
      assert.equal(to(page, '/uxt').length, 3);
    });
  }

  test('that fails, fails with what the page has thrown', async (t) => {
    const { page } = await profile(t);
    const message = await page.evaluate(async () => {
      const { Session } = await import('/keybound/index.js');
      const session = await Session.open({ token: async () => { throw new RangeError('mine'); } });
      return session.fetch('https://rs.example/').catch((error) => `${error.name} ${error.message}`);
    });
    assert.equal(message, 'RangeError mine');
  });

  test('that hangs ends after 30 s, and is tried again', async (t) => {
    const { page } = await profile(t);
    await page.clock.install();
    await page.evaluate(async () => {
      const { Session } = await import('/keybound/index.js');
      globalThis.asked = 0;
      globalThis.session = await Session.open({
        token: async () => {
          globalThis.asked += 1;
          return asked === 1 ? new Promise(() => {}) : { access_token: 'at', token_type: 'DPoP' };
        },
      });
      session.token().catch((error) => (globalThis.error = { ...error, message: error.message }));
    });
    await page.waitForFunction(() => asked === 1);
    await page.clock.runFor(31_000);
    await page.waitForFunction(() => globalThis.error);
    const error = await page.evaluate(() => globalThis.error);
    assert.deepEqual([error.kind, error.retry], ['session', 'later']);
    assert.match(error.message, /timed out waiting for the token callback/);
    await page.clock.runFor(2000);
    assert.equal(await page.evaluate(async () => (await session.token()).accessToken), 'at');
  });

  test("isn't taken for one where the token is bound to nothing", async (t) => {
    const { page } = await profile(t);
    const error = await page.evaluate(async () => {
      const { Session } = await import('/keybound/index.js');
      const session = await Session.open({ token: async () => ({ access_token: 'at', token_type: 'Bearer' }) });
      return session.token().catch((error) => ({ ...error, message: error.message }));
    });
    assert.equal(error.kind, 'response');
    assert.match(error.message, /not bound to a key/);
  });
});
