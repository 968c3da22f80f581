// The README's own lines in an effect of React's, which StrictMode runs twice, against npm's oidc-provider.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { build } from 'esbuild';
import { browser, ROOT, servePages } from './harness.mjs';
import { startProvider } from './provider.mjs';

let chromium;

before(async () => {
  chromium = await browser();
});

after(() => chromium?.close());

/** The README's lines: what they import, and what they do. */
async function readme(names) {
  const text = await readFile(join(ROOT, '../README.md'), 'utf8');
  const [, lines] = /```js\n(.*?)```/s.exec(text.split('\n## In the browser\n')[1]);
  const code = Object.entries(names).reduce((code, [name, value]) => code.replaceAll(name, value), lines);
  const isImport = (line) => line.startsWith('import ');
  return [true, false].map((which) => code.split('\n').filter((line) => isImport(line) === which).join('\n'));
}

/** An app whose effect runs `lines`. */
async function bundle([imports, lines], strict) {
  const contents = `
    ${imports}
    import { createElement, Fragment, StrictMode, useEffect } from 'react';
    import { createRoot } from 'react-dom/client';
    function App() {
      useEffect(() => {
        console.info('effect');
        (async () => { ${lines} })().catch((error) => console.error('failed: ' + error.message));
      }, []);
      return 'an app';
    }
    createRoot(document.body).render(createElement(${strict ? 'StrictMode' : 'Fragment'}, undefined, createElement(App)));`;
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: ROOT },
    bundle: true,
    format: 'esm',
    write: false,
    define: { 'process.env.NODE_ENV': '"development"' },
    alias: { keybound: '/keybound/index.js' },
    external: ['/keybound/*'],
  });
  return outputFiles[0].text;
}

describe("the README's lines in React 19", () => {
  for (const [mode, strict, effects] of [['StrictMode', true, 2], ['no StrictMode', false, 1]]) {
    test(`under ${mode} end logged in, with one authorization request`, { timeout: 60_000 }, async (t) => {
      let script;
      const pages = await servePages({
        '/': '<!doctype html><body></body><script type="module" src="/app.js"></script>',
        '/app.js': (_, response) => response.writeHead(200, { 'content-type': 'text/javascript' }).end(script),
      });
      t.after(() => pages.close());
      const server = await startProvider({ redirectUris: [`${pages.url}/`], thinks: 100 });
      t.after(() => server.close());
      const lines = await readme({
        'https://as.example': server.issuer, 'https://rs.example/accounts': `${server.issuer}/me`,
        'my-app': 'page', 'accounts:read': 'openid offline_access',
      });
      script = await bundle(lines, strict);

      const context = await chromium.newContext();
      t.after(() => context.close());
      const page = await context.newPage();
      const said = { log: [], info: [], error: [] };
      page.on('console', async (message) => said[message.type()]?.push(await message.args()[0]?.jsonValue().catch(() => message.text())));
      await page.goto(pages.url);
      const until = Date.now() + 15_000;
      while (said.log.length < effects && Date.now() < until) await page.waitForTimeout(50).catch(() => {});
      await page.waitForTimeout(500);
      assert.deepEqual(said.log, Array(effects).fill({ sub: 'alice' }), said.error.join('\n'));
      assert.equal(said.info.filter((text) => text === 'effect').length, 2 * effects); // before the login, and after it
      assert.equal(server.logins(), 1);
      assert.equal(server.tokens('authorization_code'), 1);

      // The next visit needs no login.
      await page.reload();
      while (said.log.length < 2 * effects && Date.now() < until) await page.waitForTimeout(50);
      assert.equal(said.log.length, 2 * effects);
      assert.equal(server.logins(), 1);
    });
  }
});
