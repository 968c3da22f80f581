// What the browser does for the Rust side, a function for each thing. Nothing is decided here.

/** Why something didn't work, whose fault it is (`kind`), and what to do next (`retry`). */
export class KeyboundError extends Error {
  constructor(message, details, options) {
    super(message, options);
    Object.assign(this, details);
  }
}
KeyboundError.prototype.name = 'KeyboundError';

export const fail = (message, details, cause) =>
  new KeyboundError(message, JSON.parse(details), cause === undefined ? undefined : { cause });

export const unable = (message, cause) => fail(message, '{"kind":"browser","retry":"no"}', cause);

// ------------------------------------------------------------------------------------------- time and chance

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

/** The head of a response: its status, and a line for each header. */
export const head = ({ status, headers }) => headOf(status, headers);

/** The head of a request: its mode, its method, its URL, and a line for each header. */
export const requestHead = ({ mode, method, url, headers }) => headOf(`${mode}\n${method}\n${url}`, headers);

/** Sends a request to an authorization server. The answer is its head, an empty line, and its body as text. */
export async function send(method, url, headers, body, within, limit) {
  const response = await fetch(url, {
    method,
    headers: lines(headers),
    body: body.length ? body : undefined,
    cache: method === 'GET' ? 'default' : 'no-store',
    credentials: 'omit',
    redirect: 'error',
    signal: AbortSignal.timeout(within),
  });
  return `${head(response)}\n${await text(response, limit)}`;
}

/** A response's body, as far as `limit` bytes. */
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

/** Sends the application's request with these headers, and follows no redirection with them. It may be sent again. */
export function call(request, authorization) {
  // All names are in lower case. A record is read faster than `Headers`.
  const headers = Object.fromEntries([...request.headers, ...lines(authorization)]);
  const hasBody = request.method !== 'GET' && request.method !== 'HEAD';
  const redirect = request.redirect === 'follow' ? 'manual' : request.redirect;
  // Whatever is given besides a request resets these two.
  const { referrer, referrerPolicy } = request;
  return fetch(hasBody ? request.clone() : request, { headers, redirect, referrer, referrerPolicy });
}

/** Says why a refusal can't be answered, to whoever develops the page. */
export const warnHidden = (url) =>
  console.warn(
    `keybound: ${new URL(url).origin} answered 401, and no WWW-Authenticate header can be seen. If it sends one, and DPoP-Nonce, ` +
      'it must also send `Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate, Date`',
  );

/** Whether it is certain that nothing was sent. */
export const isOffline = () => navigator.onLine === false;

// ------------------------------------------------------------------------------------------------------- keys

/** The key pair that is kept under `name`; a new one that can't be exported, if there is none. */
export async function openKey(name, algorithm) {
  if (!globalThis.crypto?.subtle) {
    throw unable('WebCrypto is missing: browsers have it for secure pages alone. Open this one by https, or at http://localhost');
  }
  const kept = await load(name);
  if (kept) return withAlgorithm(kept);
  const parameters = algorithm === 'ES256' ? { name: 'ECDSA', namedCurve: 'P-256' } : { name: algorithm };
  let made;
  try {
    made = await crypto.subtle.generateKey(parameters, false, ['sign']);
  } catch (cause) {
    throw unable(`This browser makes no ${algorithm} keys`, cause);
  }
  // Another tab may have been quicker.
  const pair = await transact('readwrite', (store, done) => {
    store.get(name).onsuccess = ({ target }) => {
      if (!target.result) store.put(made, name);
      done(target.result ?? made);
    };
  });
  return withAlgorithm(pair);
}

/** Browsers make it anew whenever a key is asked for it. */
const withAlgorithm = ({ privateKey, publicKey }) => ({ privateKey, publicKey, algorithm: privateKey.algorithm.name });

/** The public half: an uncompressed point, or the 32 bytes of Ed25519. */
export const publicBytes = async (pair) => new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey));

export const keyAlgorithm = (pair) => pair.algorithm;

export const sign = async ({ privateKey, algorithm }, message) =>
  new Uint8Array(await crypto.subtle.sign({ name: algorithm, hash: 'SHA-256' }, privateKey, message));

// ---------------------------------------------------------------------------------------------------- storage

let database;

const open = () =>
  (database ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open('keybound', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('kept');
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      opening.result.onclose = () => (database = undefined);
      resolve(opening.result);
    };
  }));

/**
 * Does `act` in one transaction, and returns what it hands to `done`, once that is written down. What fails is done again,
 * once: the browser may have closed the database.
 */
async function transact(mode, act, isLast) {
  try {
    const transaction = (await open()).transaction('kept', mode, { durability: 'strict' });
    return await new Promise((resolve, reject) => {
      let result;
      transaction.oncomplete = () => resolve(result);
      transaction.onabort = () => reject(transaction.error);
      act(transaction.objectStore('kept'), (value) => (result = value));
    });
  } catch (cause) {
    database = undefined;
    if (!isLast) return transact(mode, act, true);
    throw unable("IndexedDB can't be used, and it is where keys are kept: storage may be blocked, full, or switched off in a private window", cause);
  }
}

export const load = (name) =>
  transact('readonly', (store, done) => {
    store.get(name).onsuccess = ({ target }) => done(target.result);
  });

export const save = (name, value) => transact('readwrite', (store) => store.put(value, name));

export const erase = (name) => transact('readwrite', (store) => store.delete(name));

/** Erases a session; and its key, unless there are tokens of others with its name, which differ in their fingerprints alone. */
export const eraseSession = (name, key) =>
  transact('readwrite', (store) => {
    const isOther = (other) => other.length === name.length && other.startsWith(name.slice(0, -16));
    store.delete(name);
    store.openCursor().onsuccess = ({ target: { result } }) => {
      if (!result) store.delete(key);
      else if (!isOther(result.key) || !result.value.includes('"token"')) result.continue();
    };
  });

// ------------------------------------------------------------------------------------------------------- tabs

/** Waits for the lock of this name, which one holder has among all tabs and workers, and returns what gives it back. */
export const lock = (name, within) =>
  new Promise((resolve, reject) => {
    if (!navigator.locks) throw unable('Web Locks are missing, by which tabs take turns: this browser is too old');
    const options = { signal: AbortSignal.timeout(within) };
    navigator.locks.request(`keybound ${name}`, options, () => new Promise((release) => resolve(release))).catch(reject);
  });

/** Where the tabs tell each other what has changed. */
export const channel = (name) => new BroadcastChannel(`keybound ${name}`);

export const post = (channel, message) => channel.postMessage(message);

/** What another tab tells next. */
export const nextMessage = (channel) => new Promise((resolve) => (channel.onmessage = ({ data }) => resolve(data)));
