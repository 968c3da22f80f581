import start, { Key, Page } from './keybound.js';
import { KeyboundError, unable } from './platform.js';

export { KeyboundError };

let started;

/** Loads the wasm: once, and again only if that failed. */
const ready = () =>
  (started ??= start().catch((cause) => {
    started = undefined;
    throw unable("keybound_bg.wasm could not be loaded, which belongs beside keybound's scripts", cause);
  }));

const misuse = (message) => new KeyboundError(message, { kind: 'misuse', retry: 'no' });

/** Sees to it that `object` has these members at most, each of its type. */
function check(object, types) {
  for (const [member, value] of Object.entries(object)) {
    if (!Object.hasOwn(types, member)) throw misuse(`${member} is not known here: use ${Object.keys(types).join(', ')}`);
    if (value !== undefined && typeof value !== types[member]) throw misuse(`${member} must be a ${types[member]}`);
  }
}

const absolute = (url) => new URL(url, globalThis.location?.href).href;

export class ProofKey {
  #key;

  constructor(key) {
    this.#key = key;
  }

  static async open(name, { algorithm } = {}) {
    check({ name, algorithm }, { name: 'string', algorithm: 'string' });
    await ready();
    return new ProofKey(await Key.open(name, algorithm));
  }

  static async delete(name) {
    await ready();
    await Key.delete(name);
  }

  get algorithm() {
    return this.#key.algorithm;
  }

  get publicJwk() {
    return JSON.parse(this.#key.jwk);
  }

  get thumbprint() {
    return this.#key.thumbprint;
  }

  async proof({ method, url, nonce, accessToken }) {
    check({ method, nonce, accessToken }, { method: 'string', nonce: 'string', accessToken: 'string' });
    return this.#key.proof(method, absolute(url), nonce, accessToken);
  }
}

const OPTIONS = {
  name: 'string',
  issuer: 'string',
  tokenEndpoint: 'string',
  authorizationEndpoint: 'string',
  revocationEndpoint: 'string',
  clientId: 'string',
  clientSecret: 'string',
  redirectUri: 'string',
  scope: 'string',
  grant: 'string',
  algorithm: 'string',
  token: 'function',
};

export class Session {
  #page;
  #key;
  #redirectUri;
  #scope;

  constructor(page, key, { redirectUri, scope }) {
    this.#page = page;
    this.#key = key;
    this.#redirectUri = redirectUri;
    this.#scope = scope;
  }

  static async open(options) {
    check(options, OPTIONS);
    const { name = 'keybound', token, clientId, tokenEndpoint, algorithm } = options;
    if (clientId === undefined && !token) throw misuse('clientId must be given');
    const key = await ProofKey.open(name, { algorithm });
    const page = await Page.open({
      ...options,
      name,
      // A page that gets its tokens itself has neither of these; they are never sent then.
      clientId: clientId ?? 'page',
      tokenEndpoint: tokenEndpoint ?? (token && 'https://page.invalid/'),
      token: token && (async () => JSON.stringify(await token(key))),
    });
    return new Session(page, key, options);
  }

  get key() {
    return this.#key;
  }

  get isOpen() {
    return this.#page.isOpen;
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    const signal = init?.signal === undefined ? input?.signal : init.signal;
    signal?.throwIfAborted();
    const response = this.#page.fetch(request);
    return signal ? until(signal, response) : response;
  }

  async token() {
    const [expires, ...token] = (await this.#page.token()).split(' ');
    return { accessToken: token.join(' '), expiresAt: expires ? new Date(Number(expires)) : undefined };
  }

  async login({ popup = false, signal } = {}) {
    check({ popup }, { popup: 'boolean' });
    // At once, or the browser takes it for one that nobody asked for.
    const other = popup ? open('', '', 'popup,width=480,height=640') : undefined;
    if (other === null) throw unable('The browser has blocked the pop-up: call login from a click');
    let state, url, pending;
    try {
      const redirectUri = this.#redirectUri ?? location.origin + location.pathname;
      [state, url, pending] = this.#page.startLogin(redirectUri, this.#scope).split('\n');
    } catch (error) {
      other?.close();
      throw error;
    }
    if (other) return this.#page.endLogin(pending, await redirectOf(other, url, state, signal));
    storage().setItem(kept(state), pending);
    location.assign(url);
    return new Promise(() => {}); // this page is about to end
  }

  async callback(url = location.href) {
    const answer = new URL(url);
    const state = answer.searchParams.get('state');
    if (!state || !['code', 'error'].some((name) => answer.searchParams.has(name))) return false;
    const pending = storage().getItem(kept(state));
    if (!pending) return handOver(state, url);
    if (url === location.href) {
      ANSWER.forEach((name) => answer.searchParams.delete(name));
      history.replaceState(history.state, '', answer);
    }
    await this.#page.endLogin(pending, url);
    storage().removeItem(kept(state));
    return true;
  }

  async logout() {
    await this.#page.close();
  }
}

/** What an authorization server adds to a redirect URI (RFC 6749 §4.1.2, RFC 9207, OpenID Connect). */
const ANSWER = ['code', 'state', 'iss', 'session_state', 'error', 'error_description', 'error_uri'];

const kept = (state) => `keybound ${state}`;

/** What waits for a redirect to come back to this very tab. */
function storage() {
  try {
    return sessionStorage;
  } catch (cause) {
    throw unable("sessionStorage can't be used, and it is where a login waits for its redirect", cause);
  }
}

/** Sends a pop-up to `url`, and waits until the page at its end hands the redirect over. */
function redirectOf(popup, url, state, signal) {
  const channel = new BroadcastChannel(kept(state));
  let watch;
  const redirect = new Promise((resolve, reject) => {
    channel.onmessage = ({ data }) => {
      channel.postMessage('taken');
      resolve(data);
    };
    const gone = () => reject(new KeyboundError('the pop-up was closed before the login was done', { kind: 'lost', retry: 'later' }));
    watch = setInterval(() => popup.closed && gone(), 500);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    popup.location = url;
  });
  return redirect.finally(() => {
    clearInterval(watch);
    // Once what it has to say is on its way.
    setTimeout(() => channel.close());
    popup.close();
  });
}

/** In a pop-up: hands the redirect over to the page that waits for it, which closes this one. */
function handOver(state, url) {
  const channel = new BroadcastChannel(kept(state));
  return new Promise((resolve, reject) => {
    const nobody = () => reject(new KeyboundError('the redirect answers no login of this tab', { kind: 'redirect', retry: 'no' }));
    const timer = setTimeout(nobody, 3000);
    channel.onmessage = () => {
      clearTimeout(timer);
      close();
    };
    channel.postMessage(url);
  }).finally(() => channel.close());
}

/** What `promise` brings, unless `signal` is aborted before. */
function until(signal, promise) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
