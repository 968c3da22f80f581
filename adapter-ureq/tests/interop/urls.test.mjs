// Node's WHATWG URL on the table that the core's tests hold keybound against (core/tests/it/urls.rs).

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

const TABLE = new URL('../../../core/tests/vectors/urls.json', import.meta.url);

test('what the table calls WHATWG is what Node makes of each URL', async () => {
  const rows = JSON.parse(await readFile(TABLE, 'utf8'));
  assert.ok(rows.length > 100);
  const made = rows.map(({ url }) => [url, URL.canParse(url) ? new URL(url).href : null]);
  assert.deepEqual(made, rows.map(({ url, whatwg }) => [url, whatwg]));
});
