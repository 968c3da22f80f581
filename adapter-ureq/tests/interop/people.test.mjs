// Grants that a person decides about: `keybound login`, and `--grant device_code`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { session } from './session.mjs';
import { browse, CLIENTS, DEVICE_CODE } from './server.mjs';

const paths = (server) => server.log.map(({ path }) => path);
const tokens = (server) => server.log.filter(({ path }) => path === '/token');

// A client of a person's. `see` is given, once, what it finds on stderr; it is the person.
function person(key, pattern, see) {
  let seen;
  const onStderr = (text) => {
    const match = pattern.exec(text);
    if (match && !seen) seen = see(...match.slice(1));
  };
  return { args: ['--client-id', CLIENTS.native.client_id], env: {}, key, onStderr, seen: () => seen };
}

const SIGN_IN = /sign in at (\S+)\n/;

// Signs in, and comes back to the command as a browser does.
async function signIn(url) {
  const back = await browse(url, (to) => new URL(to).pathname === '/callback');
  return { back, response: await fetch(back) };
}

describe('login', () => {
  for (const [requireNonce, requirePar, ...args] of [[false, false], [true, false], [true, true], [false, false, '--par']]) {
    const pushed = requirePar || args.includes('--par');
    test(`brings a bound token, nonces ${requireNonce}, pushed ${pushed}`, async (t) => {
      const { server, run, mine, thumbprint } = await session(t, { requireNonce, requirePar });
      const who = person(mine.file, SIGN_IN, signIn);
      const result = await run('login', who, '--issuer', server.issuer, '--no-browser', '--scope', 'openid offline_access',
        '--param', 'prompt=consent', ...args);
      assert.equal(result.code, 0, result.stderr);
      const token = result.json();
      assert.equal(token.jkt, thumbprint);
      assert.ok(token.refresh_token);
      assert.equal(token.sub, 'alice'); // by the id token, verified
      const { response } = await who.seen();
      assert.equal(response.status, 200);
      assert.match(await response.text(), /You can close this window/);
      assert.equal(paths(server).includes('/request'), pushed);
      // What goes through the browser.
      const { query } = server.log.find(({ path }) => path === '/auth');
      const asked = new URLSearchParams(query);
      if (pushed) assert.deepEqual([...asked.keys()].sort(), ['client_id', 'request_uri']);
      else assert.equal(asked.get('dpop_jkt'), thumbprint);
    });
  }

  test('without openid nobody tells who it was', async (t) => {
    const { server, run, mine } = await session(t);
    const result = await run('login', person(mine.file, SIGN_IN, signIn), '--issuer', server.issuer, '--no-browser',
      '--scope', 'offline_access', '--param', 'prompt=consent');
    assert.equal(result.code, 0, result.stderr);
    assert.ok(!('sub' in result.json()));
  });

  test('an id token by another key names nobody, and the tokens are printed', async (t) => {
    const { server, run, mine } = await session(t, { otherKeys: true });
    const result = await run('login', person(mine.file, SIGN_IN, signIn), '--issuer', server.issuer, '--no-browser', '--scope', 'openid');
    assert.equal(result.code, 1);
    assert.match(result.stderr, /none of the issuer's keys matches its signature/);
    assert.ok(result.json().access_token);
    assert.ok(!('sub' in result.json()));
  });

  test('a redirect of somebody else changes nothing', async (t) => {
    const { server, run, mine } = await session(t);
    const person_ = person(mine.file, SIGN_IN, async (url) => {
      const place = new URL(url).searchParams.get('redirect_uri');
      const statuses = [];
      for (const query of ['?code=x&state=y', '?error=access_denied', '?code=x&code=x', '']) {
        statuses.push((await fetch(place + query)).status);
      }
      statuses.push((await fetch(new URL('/favicon.ico', place))).status);
      statuses.push((await fetch(place, { method: 'POST' })).status);
      await signIn(url);
      return statuses;
    });
    const result = await run('login', person_, '--issuer', server.issuer, '--no-browser', '--scope', 'openid');
    assert.equal(result.code, 0, result.stderr);
    assert.deepEqual(await person_.seen(), [400, 400, 400, 400, 404, 400]);
    assert.equal(tokens(server).length, 1);
  });

  test('a person who refuses is a refusal', async (t) => {
    const { server, run, mine } = await session(t);
    const refuse = async (url) => {
      const { searchParams } = new URL(url);
      const answer = new URLSearchParams({ error: 'access_denied', error_description: 'No thanks', state: searchParams.get('state'), iss: server.issuer });
      return fetch(`${searchParams.get('redirect_uri')}?${answer}`);
    };
    const result = await run('login', person(mine.file, SIGN_IN, refuse), '--issuer', server.issuer, '--no-browser');
    assert.equal(result.code, 1);
    assert.match(result.stderr, /access_denied: No thanks/);
    assert.equal(tokens(server).length, 0);
  });

  test('a redirect that names another issuer, or none, is refused', async (t) => {
    for (const iss of [{ iss: 'https://evil.example' }, {}]) {
      const { server, run, mine } = await session(t);
      const mixUp = async (url) => {
        const { searchParams } = new URL(url);
        return fetch(`${searchParams.get('redirect_uri')}?${new URLSearchParams({ code: 'x', state: searchParams.get('state'), ...iss })}`);
      };
      const result = await run('login', person(mine.file, SIGN_IN, mixUp), '--issuer', server.issuer, '--no-browser');
      assert.equal(result.code, 1);
      assert.match(result.stderr, /doesn't come from the authorization server of this request/);
      assert.equal(tokens(server).length, 0);
    }
  });

  test('nobody comes', async (t) => {
    const { server, run, mine } = await session(t);
    const result = await run('login', person(mine.file, SIGN_IN, () => {}), '--issuer', server.issuer, '--no-browser', '--timeout', '1');
    assert.equal(result.code, 1);
    assert.match(result.stderr, /timed out/);
  });
});

// Each waits for the five seconds between two questions.
describe('--grant device_code', { concurrency: true }, () => {
  const TYPE = /go to (\S+) and type (\S+)\n/;

  // Types the code into the page, and says yes or no.
  const decide = (answer) => async (uri, code) => {
    const typed = await (await browse(uri)).submit({ user_code: code });
    await typed.submit(answer);
  };

  for (const [grant, requireNonce] of [['device_code', true], [DEVICE_CODE, false]]) {
    test(`${grant} brings a bound token, nonces ${requireNonce}`, async (t) => {
      const { server, run, mine, thumbprint } = await session(t, { requireNonce });
      const who = person(mine.file, TYPE, decide({}));
      const result = await run('token', who, '--issuer', server.issuer, '--grant', grant, '--scope', 'openid');
      await who.seen();
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.json().jkt, thumbprint);
    });
  }

  test('a person who refuses is a refusal', async (t) => {
    const { server, run, mine } = await session(t);
    const who = person(mine.file, TYPE, decide({ abort: 'yes' }));
    const result = await run('token', who, '--issuer', server.issuer, '--grant', 'device_code', '--scope', 'openid');
    await who.seen();
    assert.equal(result.code, 1);
    assert.match(result.stderr, /access_denied/);
  });
});
