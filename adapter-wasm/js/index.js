import start, { Key, Page } from './keybound.js';
import { KeyboundError } from './platform.js';

export { KeyboundError };

let started;

/** Loads the wasm: once, and again only if that failed. */
const ready = () => (started ??= start().catch((cause) => {
  started = undefined;
  throw new KeyboundError("keybound's wasm could not be loaded", { kind: 'browser', retry: 'later' }, { cause });
}));

const absolute = (url) => new URL(url, globalThis.location?.href).href;

/** `object` has these members at most, and each is of its type. */
function check(object, types) {
  for (const [member, value] of Object.entries(object)) {
    if (!(member in types)) throw misuse(`${member} is not known here`);
    if (value !== undefined && typeof value !== types[member]) throw misuse(`${member} must be a ${types[member]}`);
  }
}

const misuse = (message) => new KeyboundError(message, { kind: 'misuse', retry: 'no' });

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
  algorithm: 'string',
  tokenEndpoint: 'string',
  clientId: 'string',
  clientSecret: 'string',
  scope: 'string',
};

export class Session {
  #page;

  constructor(page) {
    this.#page = page;
  }

  static async open(options) {
    check(options, OPTIONS);
    await ready();
    return new Session(await Page.open({ name: 'keybound', ...options }));
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    return until(request.signal, this.#page.fetch(request));
  }
}

/** What `promise` brings, unless `signal` is aborted before. */
function until(signal, promise) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
