// A browser, a server for its pages, and the servers that the pages call. All on loopback, on free ports.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html', '.css': 'text/css' };

/** Listens on a free port of this machine; `answer` is a handler of node's. */
export async function serve(answer, host = '127.0.0.1') {
  const server = createServer((request, response) => {
    Promise.resolve(answer(request, response)).catch((error) => response.writeHead(500).end(String(error)));
  });
  await new Promise((resolve) => server.listen(0, host, resolve));
  const close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${server.address().port}`, port: server.address().port, close };
}

/** The package under /keybound/, what `pages` names, and an empty page everywhere else. */
export const servePages = (pages = {}) => serve(async (request, response) => {
  const { pathname } = new URL(request.url, 'http://x');
  const send = (type, body, headers) => response.writeHead(200, { 'content-type': type, ...headers }).end(body);
  if (pathname.startsWith('/keybound/')) {
    const file = join(ROOT, 'dist', pathname.slice('/keybound/'.length));
    return send(TYPES[extname(file)], await readFile(file));
  }
  const page = pages[pathname];
  if (typeof page === 'function') return page(request, response);
  if (page) return send(TYPES[extname(pathname)] ?? 'text/html', page);
  return send('text/html', '<!doctype html><title>keybound</title>');
});

/** A program that prints a line of JSON and serves then: what it printed, and `close`. */
async function started(program, ...options) {
  const child = spawn(program, options, { stdio: ['ignore', 'pipe', 'inherit'] });
  const line = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', resolve);
    child.once('error', reject).once('exit', (code) => reject(new Error(`${program} ended: ${code}`)));
  });
  return { ...JSON.parse(line), close: () => child.kill() };
}

/** `keybound sandbox`. */
export const sandbox = (...options) => started(process.env.KEYBOUND, 'sandbox', ...options);

/** adapter-ureq's example `relay`, for pages of this origin. */
export const relay = (origin) => started(process.env.KEYBOUND_RELAY, origin);

export const browser = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-quic', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update'],
});
