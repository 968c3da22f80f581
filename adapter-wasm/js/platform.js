// The browser functions that the Rust side calls. They contain no protocol logic.

/** An error, with its cause (`kind`) and whether to retry (`retry`). */
export class KeyboundError extends Error {
  constructor(message, details, options) {
    super(message, options);
    Object.assign(this, details);
  }
}
KeyboundError.prototype.name = 'KeyboundError';

export const fail = (message, details, cause) =>
  new KeyboundError(message, JSON.parse(details, (_, value) => value ?? undefined), cause === undefined ? undefined : { cause });

export const unable = (message, cause) => fail(message, '{"kind":"browser","retry":"no"}', cause);

// ---------------------------------------------------------------------------------------- time and randomness

export const now = () => BigInt(Date.now());

export const fill = (entropy) => void crypto.getRandomValues(entropy);

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// --------------------------------------------------------------------------------------------------- requests

const lines = (headers) => headers.split('\n').filter(Boolean).map((line) => line.split(/: (.*)/s, 2));

const headOf = (first, headers) => {
  let head = `${first}\n`;
  headers.forEach((value, name) => (head += `${name}: ${value}\n`));
  return head;
};

/** Returns the head of a response: its status, and a line for each header. */
export const head = ({ status, headers }) => headOf(status, headers);

/** Returns the head of a request: its mode, its method, its URL, and a line for each header. */
export const requestHead = ({ mode, method, url, headers }) => headOf(`${mode}\n${method}\n${url}`, headers);

/** Sends a request to an authorization server. Returns the response: its head, an empty line, and its body as text. */
export async function send(method, url, headers, body, timeout, limit) {
  const response = await fetch(url, {
    method,
    headers: lines(headers),
    body: body.length ? body : undefined,
    cache: method === 'GET' ? 'default' : 'no-store',
    credentials: 'omit',
    redirect: 'error',
    signal: AbortSignal.timeout(timeout),
  });
  return `${head(response)}\n${await text(response, limit)}`;
}

/** Returns the body of a response, which is read until it exceeds `limit` bytes. */
async function text(response, limit) {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (let length = 0; reader && length <= limit; ) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    text += decoder.decode(value, { stream: true });
  }
  reader?.cancel();
  return text;
}

/** Sends the application's request with these headers, and follows no redirects. The request can be sent again afterwards. */
export function call(request, authorization) {
  // All names are in lower case. Passing a record to `fetch` is faster than passing `Headers`.
  const headers = Object.fromEntries([...request.headers, ...lines(authorization)]);
  const hasBody = request.method !== 'GET' && request.method !== 'HEAD';
  const redirect = request.redirect === 'follow' ? 'manual' : request.redirect;
  // Any `init` argument resets these two to their defaults.
  const { referrer, referrerPolicy } = request;
  return fetch(hasBody ? request.clone() : request, { headers, redirect, referrer, referrerPolicy });
}

/** Warns the page's developer on the console that a response header needed for a retry is hidden. */
export const warnHidden = ({ url }) =>
  console.warn(
    `keybound: ${new URL(url).origin} responded with 401, without a visible WWW-Authenticate header. If it sends one, or DPoP-Nonce, ` +
      'it must also send `Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate, Date`',
  );

/** Returns whether it is certain that no request was sent. */
export const isOffline = () => navigator.onLine === false;

// ------------------------------------------------------------------------------------------------------- keys

/**
 * Returns the key pair stored under `name`: its private key, the algorithm's name, and the public key, which is an
 * uncompressed P-256 point or the 32 bytes of an Ed25519 key. Creates and stores a non-extractable one if there is none.
 */
export async function openKey(name, algorithm) {
  if (!globalThis.crypto?.subtle) {
    throw unable('WebCrypto is missing: browsers provide it to secure pages only. Open this one by https, or at http://localhost');
  }
  const { privateKey, publicKey } = (await load(name)) ?? (await createKey(name, algorithm));
  const raw = new Uint8Array(await crypto.subtle.exportKey('raw', publicKey));
  // Browsers create a new `algorithm` object on each access.
  return { privateKey, algorithm: privateKey.algorithm.name, raw };
}

async function createKey(name, algorithm) {
  const parameters = algorithm === 'ES256' ? { name: 'ECDSA', namedCurve: 'P-256' } : { name: algorithm };
  let made;
  try {
    made = await crypto.subtle.generateKey(parameters, false, ['sign']);
  } catch (cause) {
    throw unable(`This browser does not support ${algorithm} keys`, cause);
  }
  // Another tab may have stored a key since.
  return transact('readwrite', (store, done) => {
    store.get(name).onsuccess = ({ target }) => {
      if (!target.result) store.put(made, name);
      done(target.result ?? made);
    };
  });
}

export const sign = async ({ privateKey, algorithm }, message) =>
  new Uint8Array(await crypto.subtle.sign({ name: algorithm, hash: 'SHA-256' }, privateKey, message));

// ---------------------------------------------------------------------------------------------------- storage

let database;

const open = () =>
  (database ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open('keybound', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('records');
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      opening.result.onclose = () => (database = undefined);
      resolve(opening.result);
    };
  }));

/**
 * Runs `act` in one transaction, and returns the value passed to `done` after the transaction is committed. A failed
 * transaction is retried once, since the browser may have closed the database.
 */
async function transact(mode, act, isLast) {
  try {
    const transaction = (await open()).transaction('records', mode, { durability: 'strict' });
    return await new Promise((resolve, reject) => {
      let result;
      transaction.oncomplete = () => resolve(result);
      transaction.onabort = () => reject(transaction.error);
      act(transaction.objectStore('records'), (value) => (result = value));
    });
  } catch (cause) {
    database = undefined;
    if (!isLast) return transact(mode, act, true);
    throw unable('IndexedDB is not available, which stores the keys: storage may be blocked, full, or disabled in a private window', cause);
  }
}

export const load = (name) =>
  transact('readonly', (store, done) => {
    store.get(name).onsuccess = ({ target }) => done(target.result);
  });

export const save = (name, value) => transact('readwrite', (store) => store.put(value, name));

export const erase = (name) => transact('readwrite', (store) => store.delete(name));

/**
 * Deletes a session, unless it is marked as logged out, and its key, unless another session of the same name has a token.
 * With the key, the marks of earlier logouts are deleted. Storage keys of sessions with the same name differ only in their
 * fingerprint, the last 16 characters.
 */
export const eraseSession = (name, key) =>
  transact('readwrite', (store) => {
    const unused = [key];
    store.openCursor().onsuccess = ({ target: { result } }) => {
      if (!result) return unused.forEach((name) => store.delete(name));
      const { key: other, value } = result;
      if (other.length === name.length && other.startsWith(name.slice(0, -16))) {
        const hasToken = value.includes('"token"');
        if (other === name) hasToken && store.delete(name);
        else if (hasToken) return;
        else unused.push(other);
      }
      result.continue();
    };
  });

// ------------------------------------------------------------------------------------------------------- tabs

/**
 * Acquires the lock of this name, exclusive among all tabs and workers. Returns the function that releases it, or nothing
 * if another holder keeps it for a second.
 */
export const lock = (name) => {
  const signal = AbortSignal.timeout(1000);
  return new Promise((resolve, reject) => {
    navigator.locks.request(`keybound ${name}`, { signal }, () => new Promise(resolve)).catch(reject);
  }).catch((cause) => {
    if (!signal.aborted) throw unable('Web Locks are not available, which synchronize tabs', cause);
  });
};

/** Returns the channel for messages between tabs. It queues messages for `nextMessage`. */
export function channel(name) {
  const channel = new BroadcastChannel(`keybound ${name}`);
  channel.reader = new ReadableStream({ start: (queue) => (channel.onmessage = ({ data }) => queue.enqueue(data)) }).getReader();
  return channel;
}

export const post = (channel, message) => channel.postMessage(message);

/** Returns the next message from another tab, after waiting for it if the queue is empty. */
export const nextMessage = async ({ reader }) => (await reader.read()).value;
