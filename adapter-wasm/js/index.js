import start, { JsProofKey, JsSession } from './keybound.js';
import { KeyboundError, unable } from './platform.js';

export { KeyboundError };

let started;

/** Loads the WebAssembly module once. A failed load is retried by the next call. */
const ready = () =>
  (started ??= start().catch((cause) => {
    started = undefined;
    throw unable("keybound_bg.wasm could not be loaded: it must be served beside keybound's scripts", cause);
  }));

const misuse = (message) => new KeyboundError(message, { kind: 'misuse', retry: 'no' });

/** Throws if `object` has a member that `types` does not list, or one of another type. */
function check(object, types) {
  for (const [member, value] of Object.entries(object)) {
    if (!Object.hasOwn(types, member)) throw misuse(`${member} is not known here: use ${Object.keys(types).join(', ')}`);
    if (value !== undefined && typeof value !== types[member]) throw misuse(`${member} must be a ${types[member]}`);
  }
}

/** Binds methods to their object, so that they can be passed as functions. */
function bind(object, methods) {
  for (const method of methods) object[method] = object[method].bind(object);
}

const absolute = (url) => new URL(url, globalThis.location?.href).href;

export class ProofKey {
  #key;

  constructor(key) {
    this.#key = key;
    bind(this, ['proof']);
  }

  static async open(name, { algorithm } = {}) {
    check({ name, algorithm }, { name: 'string', algorithm: 'string' });
    await ready();
    return new ProofKey(await JsProofKey.open(name, algorithm));
  }

  static async delete(name) {
    await ready();
    await JsProofKey.delete(name);
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
  #session;
  #key;
  #redirectUri;
  #scope;
  /** The redirects whose outcome this session has already reported. */
  #handled;
  /** Ends the previous pop-up login, if its pop-up appears closed. */
  #cancel;

  constructor(session, key, { redirectUri, scope }, handled) {
    this.#session = session;
    this.#key = key;
    this.#redirectUri = redirectUri;
    this.#scope = scope;
    this.#handled = handled;
    bind(this, ['fetch', 'token', 'login', 'callback', 'logout']);
  }

  static async open(options) {
    check(options, OPTIONS);
    const { name = 'keybound', token, clientId, tokenEndpoint, algorithm } = options;
    if (clientId === undefined && !token) throw misuse('clientId must be given');
    const handled = new WeakSet([...redirects.values()].filter(({ isDone }) => isDone));
    const key = await ProofKey.open(name, { algorithm });
    const jsSession = await JsSession.open({
      ...options,
      name,
      // With a `token` callback, these two are placeholders, which are never sent.
      clientId: clientId ?? 'page',
      tokenEndpoint: tokenEndpoint ?? (token && 'https://page.invalid/'),
      token: token && (async () => JSON.stringify(await token(key))),
    });
    const session = new Session(jsSession, key, options, handled);
    if (await session.#redirect(handled)?.outcome.catch(() => false)) await jsSession.resume();
    return session;
  }

  get key() {
    return this.#key;
  }

  get isOpen() {
    return this.#session.isOpen || Boolean(this.#redirect());
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    const signal = init?.signal === undefined ? input?.signal : init.signal;
    signal?.throwIfAborted();
    const response = this.#session.fetch(request);
    return signal ? abortable(signal, response) : response;
  }

  async token() {
    const [expires, ...token] = (await this.#session.token()).split(' ');
    return { accessToken: token.join(' '), expiresAt: expires ? new Date(Number(expires)) : undefined };
  }

  async login({ popup = false, signal } = {}) {
    check({ popup }, { popup: 'boolean' });
    signal?.throwIfAborted();
    if (await this.#redirect()?.outcome.catch(() => false)) return this.#session.resume();
    const { id, isOpen } = this.#session;
    if (!popup) {
      // Another session or tab may have logged in since this one was opened.
      await this.#session.resume();
      if (!isOpen && this.#session.isOpen) return undefined;
      if (leaving.has(id)) return leaving.get(id);
    }
    // Opened before any `await`, or the browser blocks it as a pop-up without a click.
    const other = popup ? open('', '', 'popup,width=480,height=640') : undefined;
    if (other === null) throw unable('The browser has blocked the pop-up: call login from a click handler');
    let state, url, pending;
    try {
      const redirectUri = this.#redirectUri ?? location.origin + location.pathname;
      [state, url, pending] = this.#session.startLogin(redirectUri, this.#scope).split('\n');
    } catch (error) {
      other?.close();
      throw error;
    }
    if (!other) {
      storage().setItem(storageKey(state), JSON.stringify([id, pending]));
      return leave(id, url);
    }
    this.#cancel?.();
    const { redirect, cancel, end } = send(other, url, state, signal);
    this.#cancel = cancel;
    return redirect.then((redirect) => this.#session.endLogin(pending, redirect)).finally(end);
  }

  async callback(url = location.href) {
    const redirect = stateOf(url) ? this.#process(url) : this.#redirect(this.#handled);
    if (redirect) {
      this.#handled.add(redirect);
      await redirect.outcome;
    }
    await this.#session.resume();
    return Boolean(redirect);
  }

  async logout() {
    await this.#session.logOut();
  }

  /** Returns this session's redirect that is being processed, or was processed and is not in `handled`. */
  #redirect(handled) {
    const { id } = this.#session;
    const isNew = (redirect) => !redirect.isDone || (handled && !handled.has(redirect));
    return [...redirects.values()].findLast((redirect) => (redirect.owner ?? id) === id && isNew(redirect));
  }

  /** Processes a redirect once, and returns it to all callers. Ignores redirects of other sessions' logins. */
  #process(url) {
    const { id } = this.#session;
    const state = stateOf(url);
    let redirect = redirects.get(state);
    if (!redirect || redirect.hasFailed) {
      const [owner, pending] = JSON.parse(storage().getItem(storageKey(state)) ?? '[]');
      redirect = { owner };
      if ((owner ?? id) === id) {
        redirects.set(state, redirect);
        redirect.outcome = (pending ? this.#end(state, pending, url) : forwardRedirect(state, url))
          .then(() => true, (error) => {
            redirect.hasFailed = true;
            throw error;
          })
          .finally(() => (redirect.isDone = true));
      }
    }
    return (redirect.owner ?? id) === id ? redirect : undefined;
  }

  /** Completes a login that was started in this tab. */
  async #end(state, pending, url) {
    if (url === location.href) {
      const clean = new URL(url);
      ANSWER.forEach((name) => clean.searchParams.delete(name));
      history.replaceState(history.state, '', clean);
    }
    await this.#session.endLogin(pending, url);
    storage().removeItem(storageKey(state));
  }
}

/** The parameters that an authorization server adds to a redirect URI (RFC 6749 §4.1.2, RFC 9207, OpenID Connect). */
const ANSWER = ['code', 'state', 'iss', 'session_state', 'error', 'error_description', 'error_uri'];

/** Returns the `state` of a URL that is the redirect of a login. */
function stateOf(url) {
  const { searchParams } = new URL(url);
  return (searchParams.has('code') || searchParams.has('error')) && searchParams.get('state');
}

/** The redirects that this page has received, by `state`: the session that owns each, and the promise of its outcome. */
const redirects = new Map();

const storageKey = (state) => `keybound ${state}`;

/** Returns the storage for pending logins. It belongs to one tab, as a redirect does. */
function storage() {
  try {
    return sessionStorage;
  } catch (cause) {
    throw unable("sessionStorage is not available, which a login by redirect requires", cause);
  }
}

/** The promises of logins that are leaving this page, by session id. */
const leaving = new Map();

/** Navigates to `url`. Returns a promise that never settles; concurrent logins of this session share it. */
function leave(id, url) {
  const left = new Promise(() => {});
  const forget = () => leaving.delete(id);
  leaving.set(id, left);
  // The user may return to this page with the back button, or the navigation may not happen.
  addEventListener('pagehide', forget, { once: true });
  setTimeout(forget, 10_000);
  location.assign(url);
  return left;
}

/** The messages to a pop-up: its redirect was received, and its login is complete. */
const [RECEIVED, FINISHED] = ['received', 'finished'];

/**
 * How long a login may take after its pop-up appears closed, in milliseconds. A server that isolates its pages (COOP)
 * makes an open pop-up appear closed.
 */
const GRACE = 300_000;

/** Navigates a pop-up to `url`. Returns the promise of the redirect that the pop-up forwards. */
function send(popup, url, state, signal) {
  const channel = new BroadcastChannel(storageKey(state));
  let cancel, watch;
  const redirect = new Promise((resolve, reject) => {
    const gone = () => reject(new KeyboundError('the pop-up was closed before the login was complete', { kind: 'lost', retry: 'later' }));
    cancel = () => popup.closed && gone();
    channel.onmessage = ({ data }) => {
      channel.postMessage(RECEIVED);
      resolve(data);
    };
    watch = setInterval(() => {
      if (!popup.closed) return;
      clearInterval(watch);
      watch = setTimeout(gone, GRACE);
    }, 500);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    // Otherwise the server's page could navigate this page.
    popup.opener = null;
    popup.location = url;
  });
  const end = () => {
    clearTimeout(watch);
    channel.postMessage(FINISHED);
    // After the message has been posted.
    setTimeout(() => channel.close());
    popup.close();
  };
  return { redirect, cancel, end };
}

/**
 * In a pop-up: forwards the redirect to the page that waits for it. Closes the pop-up; if the browser doesn't allow that,
 * resolves after the login.
 */
function forwardRedirect(state, url) {
  const channel = new BroadcastChannel(storageKey(state));
  return new Promise((resolve, reject) => {
    const unclaimed = () => reject(new KeyboundError('the redirect belongs to no login of this tab', { kind: 'redirect', retry: 'no' }));
    const timer = setTimeout(unclaimed, 3000);
    channel.onmessage = ({ data }) => {
      if (data === FINISHED) resolve();
      if (data !== RECEIVED) return;
      clearTimeout(timer);
      close();
    };
    channel.postMessage(url);
  }).finally(() => channel.close());
}

/** Settles as `promise` does, or rejects with the signal's reason if `signal` is aborted before. */
function abortable(signal, promise) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
