// What `session.fetch` costs beside a bare `fetch` and a bare signature, in one run, by turns; and how long a start takes.
// To run: npm run speed, on a machine that does nothing else.

import { browser, servePages } from './harness.mjs';

const answer = (_, response) => response.end('{}'); // at once, whatever the proof: it is the page's side that is measured
const [chromium, pages] = await Promise.all([browser(), servePages({ '/resource': answer })]);
const page = await chromium.newPage();
await page.goto(pages.url);

const figures = await page.evaluate(async () => {
  const url = '/resource';
  const from = performance.now();
  const { Session } = await import('/keybound/index.js');
  const session = await Session.open({ token: async () => ({ access_token: 'a'.repeat(43), token_type: 'DPoP' }) });
  const start = performance.now() - from;
  await session.fetch(url);

  const message = new Uint8Array(400);
  const { privateKey } = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
  const headers = { Authorization: `DPoP ${'a'.repeat(43)}`, DPoP: 'b'.repeat(500) };
  const bare = async () => {
    await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, privateKey, message);
    await (await fetch(url, { headers })).text();
  };
  const ours = async () => (await session.fetch(url)).text();

  const time = async (act) => {
    const before = performance.now();
    for (let i = 0; i < 10; i += 1) await act();
    return (performance.now() - before) / 10;
  };
  const rounds = [];
  for (let round = 0; round < 60; round += 1) {
    const order = round % 2 ? [bare, ours] : [ours, bare];
    const [first, second] = [await time(order[0]), await time(order[1])];
    rounds.push(round % 2 ? [first, second] : [second, first]);
  }
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return {
    start_ms: start,
    bare_ms: median(rounds.map(([bare]) => bare)),
    ours_ms: median(rounds.map(([, ours]) => ours)),
    ratio: median(rounds.map(([bare, ours]) => ours / bare)),
  };
});

console.log(JSON.stringify(figures));
await chromium.close();
await pages.close();
