// The demonstration, as `keybound sandbox --nonce --pages adapter-wasm` serves it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { browser, ROOT, sandbox } from './harness.mjs';

let chromium, server;

before(async () => {
  [chromium, server] = await Promise.all([browser(), sandbox('--nonce', '--pages', ROOT)]);
});

after(async () => {
  await chromium?.close();
  server?.close();
});

async function open(t, options) {
  const context = await chromium.newContext(options);
  t.after(() => context.close());
  const page = await context.newPage();
  page.on('pageerror', (error) => assert.fail(error));
  await page.goto(server.demo);
  await page.waitForFunction(() => document.getElementById('thumbprint').textContent.startsWith('ES256'));
  return page;
}

/** Runs a flow, and returns what the page says at its end. */
async function run(page, flow) {
  await page.click(`[data-run=${flow}]`);
  await page.waitForFunction(() => document.getElementById('status').className);
  const text = (selector) => page.locator(selector).allInnerTexts();
  return {
    outcome: await page.getAttribute('#status', 'class'),
    said: await page.innerText('#status'),
    steps: (await text('#steps b')).map((step) => step.trim()),
  };
}

describe('the demonstration', () => {
  test('shows each request and each answer of a call, the proofs decoded', async (t) => {
    const page = await open(t);
    const { outcome, steps } = await run(page, 'call');
    assert.equal(outcome, 'good');
    assert.deepEqual(steps, [
      'POST /oauth/token', '400 use_dpop_nonce', 'POST /oauth/token', '200 a token',
      'GET /oauth/resource', '401 use_dpop_nonce', 'GET /oauth/resource', '200 OK',
    ]);
    await page.locator('summary').last().press('Shift+Tab'); // by keyboard
    await page.locator('summary').nth(6).press('Enter');
    assert.match(await page.locator('.more').nth(6).innerText(), /"htu": "http:.*\/oauth\/resource"[^]*"nonce"/);
  });

  test('relays a proof, and makes ten calls', async (t) => {
    const page = await open(t);
    for (const flow of ['relay', 'calls']) assert.equal((await run(page, flow)).outcome, 'good', flow);
  });

  for (const [flow, why] of [['stolen', /401/], ['replay', /401/], ['elsewhere', /401/], ['clock', /401/], ['thief', /401/]]) {
    test(`has the server refuse what is broken on purpose: ${flow}`, async (t) => {
      const { outcome, said, steps } = await run(await open(t), flow);
      assert.equal(outcome, 'good', said);
      assert.match(said, why);
      assert.match(steps.at(-1), /^401 (invalid_dpop_proof|invalid_token)/);
    });
  }

  test('logs out: the key is another one then', async (t) => {
    const page = await open(t);
    const key = () => page.innerText('#thumbprint');
    const before = await key();
    assert.equal((await run(page, 'logout')).outcome, 'good');
    assert.notEqual(await key(), before);
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`can be read in ${colorScheme}, and in a narrow window`, async (t) => {
      const page = await open(t, { colorScheme, viewport: { width: 1100, height: 900 } });
      await run(page, 'call');
      await page.locator('summary').nth(6).click();
      if (process.env.KEYBOUND_SCREENSHOTS) await page.screenshot({ path: `${process.env.KEYBOUND_SCREENSHOTS}/${colorScheme}.png`, fullPage: true });
      for (const selector of ['body', 'header p', '#status', 'button.primary', 'summary b']) {
        assert.ok(await contrast(page, selector) >= 4.5, selector);
      }
      await page.setViewportSize({ width: 380, height: 800 });
      if (process.env.KEYBOUND_SCREENSHOTS) await page.screenshot({ path: `${process.env.KEYBOUND_SCREENSHOTS}/${colorScheme}-narrow.png`, fullPage: true });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'it scrolls sideways');
    });
  }
});

/** The contrast of a text with what is behind it (WCAG 2.2). */
const contrast = (page, selector) => page.locator(selector).first().evaluate((element) => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  let behind = element;
  while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map((color) => luminance(channels(color)));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});
