// Logins, renewals and log-outs in Chromium, against npm's oidc-provider, which wants nonces. To run: as package.test.mjs.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { browser, servePages } from './harness.mjs';
import { startProvider } from './provider.mjs';

let chromium, pages;

before(async () => {
  [chromium, pages] = await Promise.all([browser(), servePages({ '/app': app })]);
});

after(async () => {
  await chromium?.close();
  await pages?.close();
});

/** A page of an app, which opens its session with the options in its own cookie, and ends logins. */
function app(request, response) {
  response.writeHead(200, { 'content-type': 'text/html' }).end(`<!doctype html><title>app</title><script type="module">
    import { Session } from '/keybound/index.js';
    const options = JSON.parse(decodeURIComponent(document.cookie.replace('options=', '')));
    globalThis.session = await Session.open(options);
    globalThis.result = await session.callback().then((done) => ({ done }), (error) => ({ error: error.message, ...error }));
  </script>`);
}

async function setUp(t, provider, options) {
  const redirectUri = `${pages.url}/app`;
  const server = await startProvider({ redirectUris: [redirectUri], ...provider });
  t.after(() => server.close());
  const context = await chromium.newContext();
  t.after(() => context.close());
  const value = encodeURIComponent(JSON.stringify({
    issuer: server.issuer, clientId: 'page', scope: 'openid offline_access', redirectUri, ...options,
  }));
  await context.addCookies([{ name: 'options', value, url: pages.url }]);
  return { server, context };
}

async function open(context) {
  const page = await context.newPage();
  await page.goto(`${pages.url}/app`);
  await ended(page);
  return page;
}

/** What became of the callback of the page that is open, or about to be. */
async function ended(page) {
  await page.waitForFunction(() => globalThis.result);
  return page.evaluate(() => globalThis.result);
}

async function login(page) {
  await page.evaluate(() => void session.login());
  await page.waitForFunction(() => globalThis.result?.done || globalThis.result?.error);
  return ended(page);
}

const whoami = (page, issuer) => page.evaluate(async (url) => {
  const response = await session.fetch(url);
  return [response.status, (await response.json()).sub];
}, `${issuer}/me`);

describe('a login', () => {
  test('by redirect brings a session, whose page URL has no trace of it, and which outlives a reload', async (t) => {
    const { server, context } = await setUp(t);
    const page = await open(context);
    assert.deepEqual(await page.evaluate(() => [session.isOpen, globalThis.result.done]), [false, false]);
    assert.deepEqual(await login(page), { done: true });
    assert.equal(page.url(), `${pages.url}/app`);
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);

    const thumbprint = await page.evaluate(() => session.key.thumbprint);
    await page.reload();
    await ended(page);
    assert.equal(await page.evaluate(() => session.key.thumbprint), thumbprint);
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
    assert.equal(server.tokens('authorization_code'), 1);
    assert.equal(server.tokens('refresh_token'), 0);
  });

  test('by pop-up brings a session, and the pop-up is gone', async (t) => {
    const { server, context } = await setUp(t);
    const page = await open(context);
    await page.evaluate(() => session.login({ popup: true }));
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
    await page.waitForTimeout(100);
    assert.equal(context.pages().length, 1);
  });

  test('whose pop-up is closed or blocked ends in an error that says so', async (t) => {
    const { server, context } = await setUp(t);
    const page = await open(context);
    await context.route(`${server.issuer}/interaction/**`, () => {}); // the person is thinking
    const [popup, login] = [context.waitForEvent('page'), page.evaluate(() => session.login({ popup: true }).catch((error) => error.message))];
    await (await popup).close();
    assert.match(await login, /pop-up was closed/);
    const blocked = await page.evaluate(() => {
      globalThis.open = () => null;
      return session.login({ popup: true }).catch((error) => ({ ...error, message: error.message }));
    });
    assert.equal(blocked.kind, 'browser');
    assert.match(blocked.message, /blocked the pop-up/);
  });

  test("that the server denies ends in the server's own words", async (t) => {
    const { context } = await setUp(t, { denies: true });
    const result = await login(await open(context));
    assert.equal(result.kind, 'redirect');
    assert.deepEqual([result.code, result.description], ['access_denied', 'not today']);
  });

  test('is not ended by a redirect of anybody else', async (t) => {
    const { server, context } = await setUp(t);
    const page = await open(context);
    await page.goto(`${pages.url}/app?code=stolen&state=forged`);
    const result = await ended(page);
    assert.equal(result.kind, 'redirect');
    assert.equal(server.log.filter(({ path }) => path === '/token').length, 0);
  });
});

describe('two tabs', () => {
  test('that need a new token at once make one request for it, and both have it', async (t) => {
    const { server, context } = await setUp(t, { accessTokenSeconds: 2 });
    const first = await open(context);
    await login(first);
    const second = await open(context);
    await first.waitForTimeout(2500);
    const who = await Promise.all([first, second].flatMap((tab) => [whoami(tab, server.issuer), whoami(tab, server.issuer)]));
    assert.deepEqual(who, Array(4).fill([200, 'alice']));
    const tokens = await Promise.all([first, second].map((tab) => tab.evaluate(async () => (await session.token()).accessToken)));
    assert.equal(tokens[0], tokens[1]);
    assert.equal(server.tokens('refresh_token'), 1);
  });

  test('are logged in together and out together: tokens and key are gone, and the refresh token is revoked', async (t) => {
    const { server, context } = await setUp(t);
    const [first, second] = [await open(context), await open(context)];
    await login(first);
    await second.waitForFunction(() => session.isOpen);
    assert.deepEqual(await whoami(second, server.issuer), [200, 'alice']);

    const before = await first.evaluate(() => session.key.thumbprint);
    await first.evaluate(() => session.logout());
    await second.waitForFunction(() => !session.isOpen);
    for (const tab of [first, second]) {
      const error = await tab.evaluate((url) => session.fetch(url).catch((error) => ({ ...error })), `${server.issuer}/me`);
      assert.deepEqual([error.kind, error.retry], ['session', 'reauthenticate']);
    }
    const again = await second.evaluate(() => session.login().catch((error) => ({ ...error, message: error.message })));
    assert.equal(again.kind, 'misuse');
    assert.match(again.message, /opened anew/);
    assert.deepEqual(server.log.filter(({ path }) => path.endsWith('revocation')).map(({ status }) => status), [200]);
    const left = await first.evaluate(async () => {
      const database = await new Promise((resolve) => (indexedDB.open('keybound').onsuccess = ({ target }) => resolve(target.result)));
      return new Promise((resolve) => (database.transaction('kept').objectStore('kept').getAllKeys().onsuccess = ({ target }) => resolve(target.result)));
    });
    assert.deepEqual(left, []);
    await second.reload();
    await ended(second);
    assert.notEqual(await second.evaluate(() => session.key.thumbprint), before);
    assert.deepEqual(await login(second), { done: true });
    assert.deepEqual(await whoami(second, server.issuer), [200, 'alice']);
  });
});
