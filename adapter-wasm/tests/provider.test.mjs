// Logins, refreshes and logouts in Chromium, against npm's oidc-provider, which wants nonces. To run: as package.test.mjs.

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

async function setUp(t, provider, change) {
  const redirectUri = `${pages.url}/app`;
  const server = await startProvider({ redirectUris: [redirectUri, `${pages.url}/`], ...provider });
  t.after(() => server.close());
  const context = await chromium.newContext();
  t.after(() => context.close());
  const options = { issuer: server.issuer, clientId: 'page', scope: 'openid offline_access', redirectUri, ...change };
  await become(context, options);
  return { server, context, options };
}

/** The page at /app is an application with these options from now on. */
const become = (context, options) =>
  context.addCookies([{ name: 'options', value: encodeURIComponent(JSON.stringify(options)), url: pages.url }]);

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

  test('whose pop-up is blocked ends in an error that says so', async (t) => {
    const { context } = await setUp(t);
    const page = await open(context);
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

  test('during a refresh replaces the session: the token of the refresh is neither used nor saved', { timeout: 60_000 }, async (t) => {
    const { context } = await setUp(t, { accessTokenSeconds: 1 });
    const page = await open(context);
    await login(page);
    await page.waitForTimeout(1500);
    let arrived, release, refreshed;
    const [isHeld, isReleased] = [new Promise((resolve) => (arrived = resolve)), new Promise((resolve) => (release = resolve))];
    await page.route('**/token', async (route) => {
      const response = await route.fetch();
      if (response.ok() && route.request().postData().includes('grant_type=refresh_token')) {
        refreshed = (await response.json()).access_token;
        arrived();
        await isReleased;
      }
      return route.fulfill({ response });
    });
    await page.evaluate(() => {
      globalThis.saved = '';
      const { put } = IDBObjectStore.prototype;
      IDBObjectStore.prototype.put = function recorded(value, name) {
        globalThis.saved += value;
        return put.call(this, value, name);
      };
      globalThis.call = session.token().then(({ accessToken }) => accessToken);
    });
    await isHeld;
    const popup = context.waitForEvent('page');
    await page.evaluate(() => void (globalThis.ended = session.login({ popup: true })));
    await (await popup).waitForEvent('close');
    await page.waitForTimeout(300);
    release();
    await page.evaluate(() => globalThis.ended);
    const [called, saved] = await page.evaluate(async () => [await globalThis.call, globalThis.saved]);
    assert.notEqual(called, refreshed);
    assert.ok(saved.includes(called));
    assert.ok(!saved.includes(refreshed));
    assert.equal((await stored(page))[0][1].token.access_token, called);
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

const LATER = { timeout: 60_000 };

describe('the redirect of a login', () => {
  /** A page that a login has come back to, and that has done nothing yet. */
  async function landed(t) {
    const { server, context, options } = await setUp(t, {}, { redirectUri: `${pages.url}/` });
    const page = await context.newPage();
    await page.goto(pages.url);
    await page.evaluate(async (options) => {
      const { Session } = await import('/keybound/index.js');
      void (await Session.open(options)).login();
    }, options);
    await page.waitForURL(/code=/);
    return { server, page, options };
  }

  const meanwhile = {
    'a second callback of the same session': async (Session, options) => {
      const session = await Session.open(options);
      return [...(await Promise.all([session.callback(), session.callback()])), session.isOpen];
    },
    'a callback of another session': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      return [...(await Promise.all([one.callback(), other.callback()])), one.isOpen, other.isOpen];
    },
    'a callback by its URL': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      const url = location.href;
      const both = await Promise.all([one.callback(), other.callback(url)]);
      return [...both, await other.callback(url), other.isOpen];
    },
    'a session that is opened': async (Session, options) => {
      const one = await Session.open(options);
      const first = one.callback();
      return [(await Session.open(options)).isOpen, await first];
    },
    'a session that only looks': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      const first = one.callback();
      return [one.isOpen, other.isOpen, await first, one.isOpen];
    },
    'a session that logs in just after it': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      const done = await one.callback();
      await other.login();
      return [done, other.isOpen];
    },
    'a login': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      const first = one.callback();
      await Promise.all([one.login(), other.login()]);
      return [await first, one.isOpen, other.isOpen];
    },
    'a call': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      const first = one.callback();
      const calls = [one, other].map(async (session) => (await session.fetch(`${options.issuer}/me`)).ok);
      const tokens = [one, other].map(async (session) => Boolean(await session.token()));
      return [await first, ...(await Promise.all([...calls, ...tokens]))];
    },
    'a session that was opened before it and asks after it': async (Session, options) => {
      const [one, other] = [await Session.open(options), await Session.open(options)];
      await one.callback();
      return [await other.callback(), other.isOpen];
    },
  };
  for (const [name, act] of Object.entries(meanwhile)) {
    test(`is one for ${name} meanwhile`, LATER, async (t) => {
      const { server, page, options } = await landed(t);
      const said = await page.evaluate(
        `import('/keybound/index.js').then(({ Session }) => (${act})(Session, ${JSON.stringify(options)}))`,
      );
      assert.ok(said.every((value) => value === true), said.join());
      assert.equal(page.url(), `${pages.url}/`);
      assert.equal(server.logins(), 1);
      assert.deepEqual(
        server.log.filter(({ path }) => path === '/token').map(({ status }) => status),
        [400, 200], // the nonce, the token
      );
    });
  }

  test("isn't for a session of another server or client in the same page", LATER, async (t) => {
    const { server, page, options } = await landed(t);
    const said = await page.evaluate(async (options) => {
      const { Session } = await import('/keybound/index.js');
      const other = await Session.open({ ...options, clientId: 'other' });
      const one = await Session.open(options);
      return [await other.callback(), await one.callback(), other.isOpen, one.isOpen];
    }, options);
    assert.deepEqual(said, [false, true, false, true]);
    assert.equal(server.tokens('authorization_code'), 1);
  });

  test('that is stale keeps nobody waiting: not two callers, not two sessions, not two tabs', LATER, async (t) => {
    const { server, context, options } = await setUp(t);
    const tabs = [await context.newPage(), await context.newPage()];
    await Promise.all(tabs.map((tab) => tab.goto(`${pages.url}/?code=old&state=of-before`)));
    const kinds = await Promise.all(tabs.map((tab) => tab.evaluate(async (options) => {
      const { Session } = await import('/keybound/index.js');
      const sessions = [await Session.open(options), await Session.open(options)];
      const outcomes = [...sessions, ...sessions].map((session) => session.callback().catch(({ kind }) => kind));
      return [...(await Promise.all(outcomes)), sessions[0].isOpen];
    }, options)));
    assert.deepEqual(kinds, Array(2).fill([...Array(4).fill('redirect'), false]));
    assert.equal(server.log.filter(({ path }) => path === '/token').length, 0);
  });

  test('is asked for once, however many log in at once', LATER, async (t) => {
    const { server, context, options } = await setUp(t, { thinks: 200 });
    const page = await context.newPage();
    await page.goto(pages.url);
    await page.evaluate(async (options) => {
      const { Session } = await import('/keybound/index.js');
      const sessions = [await Session.open(options), await Session.open(options)];
      for (const session of [...sessions, ...sessions]) void session.login();
      setTimeout(() => sessions[1].login());
    }, options);
    await page.waitForURL(/\/app$/);
    await ended(page);
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
    assert.equal(server.logins(), 1);
  });

  test('can be asked for again where the page was not left, or has been come back to', LATER, async (t) => {
    const { server, context, options } = await setUp(t);
    const page = await context.newPage();
    let asked = 0;
    await page.route(`${server.issuer}/auth?*`, (route) => {
      asked += 1;
      return route.fulfill({ status: 204 }); // the browser stays where it is
    });
    await page.goto(pages.url);
    await page.clock.install();
    const logIn = async (act) => {
      await page.evaluate(async ([options, act]) => {
        const { Session } = await import('/keybound/index.js');
        globalThis.session ??= await Session.open(options);
        if (act) dispatchEvent(new Event(act));
        void session.login();
      }, [options, act]);
      await page.waitForTimeout(300);
      return asked;
    };
    assert.deepEqual([await logIn(), await logIn()], [1, 1]);
    assert.equal(await logIn('pagehide'), 2); // as when the page enters the back/forward cache
    await page.clock.runFor(11_000);
    assert.equal(await logIn(), 3);
  });
});

describe('a pop-up', () => {
  for (const policy of ['same-origin', 'same-origin-allow-popups', 'noopener-allow-popups']) {
    test(`whose server isolates its pages (COOP ${policy}) brings a session`, LATER, async (t) => {
      const { server, context } = await setUp(t, { thinks: 1500, headers: { 'cross-origin-opener-policy': policy } });
      const page = await open(context);
      await page.evaluate(() => session.login({ popup: true }));
      assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
      await page.waitForTimeout(500);
      assert.equal(context.pages().length, 1);
    });
  }

  test('that was closed ends the login after minutes, or when its signal says so, or the next login begins', LATER, async (t) => {
    const { context } = await setUp(t, { thinks: 600_000 });
    const page = await open(context);
    await page.clock.install();
    const closed = async (options = {}) => {
      const popup = context.waitForEvent('page');
      await page.evaluate((options) => {
        globalThis.stop = new AbortController();
        globalThis.outcome = undefined;
        session.login({ popup: true, signal: stop.signal }).catch((error) => (globalThis.outcome = error.message ?? error));
      }, options);
      await (await popup).close();
      await page.clock.runFor(30_000);
      assert.equal(await page.evaluate(() => globalThis.outcome), undefined);
    };
    const outcome = () => page.waitForFunction(() => globalThis.outcome).then((outcome) => outcome.jsonValue());
    await closed();
    await page.clock.runFor(600_000);
    assert.match(await outcome(), /pop-up was closed/);

    await closed();
    await page.evaluate(() => stop.abort('enough'));
    assert.equal(await outcome(), 'enough');

    await closed();
    const next = context.waitForEvent('page');
    await page.evaluate(() => void session.login({ popup: true }).catch(() => {}));
    assert.match(await outcome(), /pop-up was closed/);
    assert.equal((await next).isClosed(), false);
  });

  test('does not open if the signal is already aborted', async (t) => {
    const { context } = await setUp(t);
    const page = await open(context);
    const opened = [];
    context.on('page', (popup) => opened.push(popup));
    const login = () => session.login({ popup: true, signal: AbortSignal.abort('enough') }).catch((reason) => reason);
    assert.equal(await page.evaluate(login), 'enough');
    await page.waitForTimeout(300);
    assert.equal(opened.length, 0);
  });

  test("gives the server no way to the application's page", LATER, async (t) => {
    const script = "new Image().src = '/opener-' + Boolean(opener); if (opener) opener.location = 'about:blank';";
    const { server, context } = await setUp(t, { thinks: 300, script });
    const page = await open(context);
    await page.evaluate(() => session.login({ popup: true }));
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
    assert.deepEqual(server.log.map(({ path }) => path).filter((path) => path.includes('opener')), ['/opener-false']);
  });
});

describe('a session of which nothing is left', () => {
  const FORGOTTEN = {
    'an expired token without a refresh token': [{ refreshes: false, accessTokenSeconds: 1 }, () => {}],
    'a refresh token that is refused': [{ accessTokenSeconds: 1 }, async (page, server) => {
      const token = await stored(page).then(([[, { token }]]) => token.refresh_token);
      const form = new URLSearchParams({ token, client_id: 'page' });
      assert.equal((await fetch(`${server.issuer}/token/revocation`, { method: 'POST', body: form })).status, 200);
    }],
  };
  for (const [name, [provider, spoil]] of Object.entries(FORGOTTEN)) {
    test(`is not open, also after a reload, and a login is possible: ${name}`, LATER, async (t) => {
      const { server, context } = await setUp(t, provider);
      const page = await open(context);
      await login(page);
      assert.equal(await page.evaluate(() => session.isOpen), true);
      await spoil(page, server);
      await page.waitForTimeout(1500);
      const error = await page.evaluate((url) => session.fetch(url).catch((error) => ({ ...error })), `${server.issuer}/me`);
      assert.equal(error.retry, 'reauthenticate');
      assert.equal(await page.evaluate(() => session.isOpen), false);
      await page.reload();
      await ended(page);
      assert.equal(await page.evaluate(() => session.isOpen), false);
      await login(page);
      assert.equal(await page.evaluate(() => session.isOpen), true);
    });
  }

  test('is not open where the code of a login is refused', LATER, async (t) => {
    const { context } = await setUp(t);
    const page = await open(context);
    await page.route('**/token', (route) => route.fulfill({
      status: 400, json: { error: 'invalid_request' }, headers: { 'access-control-allow-origin': '*' },
    }));
    const { kind } = await login(page);
    assert.equal(kind, 'server');
    assert.equal(await page.evaluate(() => session.isOpen), false);
    await page.unroute('**/token');
    await page.evaluate(() => (globalThis.result = undefined));
    await login(page);
    assert.equal(await page.evaluate(() => session.isOpen), true);
  });
});

test('the methods of a session and of a key can be handed on', LATER, async (t) => {
  const { server, context } = await setUp(t);
  const page = await open(context);
  await login(page);
  const said = await page.evaluate(async (issuer) => {
    const { ProofKey, Session } = await import('/keybound/index.js');
    const { fetch, token, callback, logout, login } = session;
    const { proof } = session.key;
    const [{ open }, { open: openKey, delete: deleteKey }] = [Session, ProofKey];
    const said = [
      (await fetch(`${issuer}/me`)).status,
      (await fetch.call(globalThis, `${issuer}/me`)).status,
      typeof (await [null].map(token)[0]).accessToken,
      typeof (await proof({ method: 'GET', url: issuer })),
      await callback(),
      (await openKey('other')).thumbprint.length,
      await deleteKey('other'),
      typeof (await open({ token: async () => ({}) })).fetch,
    ];
    await logout();
    return [...said, await login().catch(({ kind }) => kind)];
  }, server.issuer);
  assert.deepEqual(said, [200, 200, 'string', 'string', false, 43, undefined, 'function', 'misuse']);
});

/** The stored sessions: their storage keys and states. */
const stored = async (page) => (await records(page)).filter(([name]) => name.startsWith('session')).map(([name, value]) => [name, JSON.parse(value)]);

/** Checks that nothing is stored but the mark of one logout: no token and no key. */
async function isMarked(page) {
  assert.equal((await records(page)).length, 1);
  const [[, { logged_out, token }]] = await stored(page);
  assert.deepEqual([logged_out, token], [true, undefined]);
}

/** All that is stored: names and values. */
const records = (page) => page.evaluate(async () => {
  const database = await new Promise((resolve) => (indexedDB.open('keybound').onsuccess = ({ target }) => resolve(target.result)));
  const all = (what) => new Promise((resolve) => (database.transaction('records').objectStore('records')[what]().onsuccess = ({ target }) => resolve(target.result)));
  const [names, values] = [await all('getAllKeys'), await all('getAll')];
  return names.map((name, at) => [name, values[at]]);
});

describe('sessions under one name', () => {
  const others = {
    'of another server': (options, more) => ({ ...options, issuer: more.issuer }),
    'of another client': (options) => ({ ...options, clientId: 'other' }),
    'of another scope': (options) => ({ ...options, scope: 'openid' }),
    "of another server's token endpoint": ({ issuer, ...options }, more) => ({
      ...options, tokenEndpoint: `${more.issuer}/token`, authorizationEndpoint: `${more.issuer}/auth`,
    }),
  };
  for (const [name, change] of Object.entries(others)) {
    test(`have no part of each other's logins: ${name}`, LATER, async (t) => {
      const { context, options } = await setUp(t);
      const more = await startProvider({ redirectUris: [`${pages.url}/app`] });
      t.after(() => more.close());
      const other = change(options, more);
      const page = await open(context);
      await login(page);
      const token = () => page.evaluate(async () => (await session.token()).accessToken);
      const first = await token();
      const thumbprint = await page.evaluate(() => session.key.thumbprint);

      await become(context, other);
      await page.reload();
      await ended(page);
      assert.equal(await page.evaluate(() => session.isOpen), false);
      await login(page);
      const second = await token();
      assert.notEqual(second, first);

      for (const [which, expected] of [[options, first], [other, second]]) {
        await become(context, which);
        await page.reload();
        await ended(page);
        assert.equal(await token(), expected);
      }

      // The end of one isn't the end of the other, which has the key still.
      await page.evaluate(() => session.logout());
      await become(context, options);
      await page.reload();
      await ended(page);
      assert.equal(await token(), first);
      assert.equal(await page.evaluate(() => session.key.thumbprint), thumbprint);
    });
  }

  test("tell each other's tabs nothing", LATER, async (t) => {
    const { server, context, options } = await setUp(t);
    const first = await open(context);
    await login(first);
    await become(context, { ...options, clientId: 'other' });
    const second = await open(context);
    await login(second);
    await second.evaluate(() => session.logout());
    await first.waitForTimeout(300);
    assert.deepEqual(await whoami(first, server.issuer), [200, 'alice']);
  });

  test('are not found with another key than the one that their tokens are bound to', LATER, async (t) => {
    const { server, context } = await setUp(t, { accessTokenSeconds: 2 });
    const page = await open(context);
    await login(page);
    await page.evaluate(async () => {
      const { ProofKey } = await import('/keybound/index.js');
      await ProofKey.delete('keybound');
    });
    await page.reload();
    await ended(page);
    assert.equal(await page.evaluate(() => session.isOpen), false);
    const error = await page.evaluate(() => session.token().catch((error) => ({ ...error })));
    assert.equal(error.retry, 'reauthenticate');
    assert.equal(server.log.filter(({ grant }) => grant === 'refresh_token').length, 0);
    assert.deepEqual(await login(page), { done: true });
    assert.deepEqual(await whoami(page, server.issuer), [200, 'alice']);
  });
});

describe('a logout', () => {
  /** Delays the results of the page's IndexedDB transactions until `globalThis.release()`. */
  const delayStorage = (page) => page.evaluate(() => {
    const released = new Promise((resolve) => (globalThis.release = resolve));
    Object.defineProperty(IDBTransaction.prototype, 'oncomplete', {
      set(handler) {
        this.addEventListener('complete', async () => {
          globalThis.isDelayed = true;
          await released;
          handler();
        });
      },
    });
  });

  /** Holds the lock of the stored session in the page until `globalThis.unlock()`. */
  async function holdLock(page) {
    const [[name]] = await stored(page);
    await page.evaluate((id) => new Promise((held) => {
      void navigator.locks.request(`keybound ${id}`, () => new Promise((unlock) => {
        globalThis.unlock = unlock;
        held();
      }));
    }), name.slice('session '.length));
  }

  /** Waits until another request waits for a lock that `page` can see. */
  const waiting = (page) => page.waitForFunction(async () => (await navigator.locks.query()).pending.length > 0);

  const token = (page) => page.evaluate(() => session.token().then(() => 'a token', ({ retry }) => retry));

  for (const [name, loggedOut] of Object.entries({ 'this tab': 1, 'another tab': 0 })) {
    test(`in ${name} while a tab loads the stored state ends the session`, LATER, async (t) => {
      const { context } = await setUp(t);
      const tabs = [await open(context), await open(context)];
      await delayStorage(tabs[1]);
      await login(tabs[0]);
      await tabs[1].waitForFunction(() => globalThis.isDelayed);
      await tabs[loggedOut].evaluate(() => void (globalThis.ended = session.logout()));
      await tabs[0].waitForTimeout(300);
      await tabs[1].evaluate(() => release());
      await tabs[loggedOut].evaluate(() => globalThis.ended);
      await tabs[1].waitForTimeout(300);
      assert.equal(await tabs[1].evaluate(() => session.isOpen), false);
      assert.equal(await token(tabs[1]), 'reauthenticate');
    });
  }

  test('in another tab is the end of a refresh that waits for the lock: it sends and stores nothing', LATER, async (t) => {
    const { server, context } = await setUp(t, { accessTokenSeconds: 1 });
    const [first, second] = [await open(context), await open(context)];
    await login(first);
    await second.waitForFunction(() => session.isOpen);
    await first.waitForTimeout(1500);
    await holdLock(first);
    const outcome = token(second);
    await waiting(first);
    await first.evaluate(() => void (globalThis.ended = session.logout()));
    await second.waitForFunction(() => !session.isOpen);
    await second.evaluate(() => {
      globalThis.saved = 0;
      const { put } = IDBObjectStore.prototype;
      IDBObjectStore.prototype.put = function counted(...record) {
        globalThis.saved += 1;
        return put.apply(this, record);
      };
    });
    await first.evaluate(() => unlock());
    assert.equal(await outcome, 'reauthenticate');
    await first.evaluate(() => globalThis.ended);
    assert.equal(server.log.filter(({ grant }) => grant === 'refresh_token').length, 0);
    assert.equal(await second.evaluate(() => globalThis.saved), 0);
    await isMarked(first);
  });

  test('that gets no lock in time deletes and revokes the tokens all the same, and reports it', LATER, async (t) => {
    const { server, context } = await setUp(t);
    const [first, second] = [await open(context), await open(context)];
    await login(first);
    await holdLock(second);
    const error = await first.evaluate(() => {
      const { now } = Date;
      const start = now();
      Date.now = () => start + (now() - start) * 20;
      return session.logout().catch((error) => ({ ...error, message: error.message }));
    });
    assert.equal(error?.kind, 'browser');
    assert.match(error.message, /timed out waiting for another process that is refreshing the token/);
    assert.deepEqual(await stored(first), []);
    assert.deepEqual(server.log.filter(({ path }) => path.endsWith('revocation')).map(({ status }) => status), [200]);
  });

  test('leaves one mark, however many logins there were before', LATER, async (t) => {
    const { context } = await setUp(t);
    const page = await open(context);
    for (let times = 0; times < 3; times += 1) {
      await page.evaluate(() => (globalThis.result = undefined));
      await login(page);
      await page.evaluate(() => session.logout());
      await isMarked(page);
      await page.reload();
      await ended(page);
    }
  });

  test("isn't a login: a call that waits for the lock during a login uses the login's token", LATER, async (t) => {
    const { server, context } = await setUp(t, { accessTokenSeconds: 1 });
    const [first, second] = [await open(context), await open(context)];
    await login(first);
    await first.waitForTimeout(1500);
    await holdLock(second);
    const call = token(first);
    await waiting(second);
    const popup = context.waitForEvent('page');
    await first.evaluate(() => void (globalThis.ended = session.login({ popup: true })));
    await (await popup).waitForEvent('close');
    await first.waitForTimeout(300);
    await second.evaluate(() => unlock());
    await first.evaluate(() => globalThis.ended);
    assert.equal(await call, 'a token');
    assert.equal(server.log.filter(({ grant }) => grant === 'refresh_token').length, 0);
    assert.equal(server.tokens('authorization_code'), 2);
  });
});

describe('a refresh token that IndexedDB fails to take', () => {
  for (const [name, times] of [['once', 1], ['for a while', 5]]) {
    test(`${name} is saved later, and no other tab sends the old one meanwhile`, LATER, async (t) => {
      const { server, context } = await setUp(t, { accessTokenSeconds: 3 });
      const page = await open(context);
      await login(page);
      const second = await open(context);
      const before = (await stored(page))[0][1].token.refresh_token;
      await page.waitForTimeout(3500);
      const status = await page.evaluate(async ([url, times, before]) => {
        const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function failing(value, name) {
          // The count of tries goes through, the new token doesn't.
          const isNew = !value.includes?.(before);
          if (isNew && name.startsWith('session') && times-- > 0) throw new DOMException('full', 'QuotaExceededError');
          return put.call(this, value, name);
        };
        return (await session.fetch(url)).status;
      }, [`${server.issuer}/me`, times, before]);
      assert.equal(status, 200);
      assert.deepEqual(await whoami(second, server.issuer), [200, 'alice']);
      const after = (await stored(page))[0][1].token.refresh_token;
      assert.notEqual(after, before);
      assert.equal(server.log.filter(({ path, status, grant }) => path === '/token' && grant === 'refresh_token' && status === 200).length, 1);
    });
  }
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
    assert.match(again.message, /opened again/);
    assert.deepEqual(server.log.filter(({ path }) => path.endsWith('revocation')).map(({ status }) => status), [200]);
    await isMarked(first);
    await second.reload();
    await ended(second);
    assert.notEqual(await second.evaluate(() => session.key.thumbprint), before);
    assert.deepEqual(await login(second), { done: true });
    assert.deepEqual(await whoami(second, server.issuer), [200, 'alice']);
  });
});
