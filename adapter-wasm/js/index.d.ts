/**
 * A DPoP key pair (RFC 9449): created by WebCrypto and stored in IndexedDB. The private key is not extractable: no
 * script can read it.
 */
export class ProofKey {
  private constructor();

  /**
   * Returns the key stored under `name`. Creates and stores one if there is none. Without `algorithm`, an existing key of
   * any algorithm is returned, and a new key is an ES256 key.
   *
   * Rejects with kind `misuse` if `algorithm` is not supported or differs from the stored key's, and with `browser` if
   * WebCrypto or IndexedDB is not available.
   */
  static open(name: string, options?: { algorithm?: Algorithm }): Promise<ProofKey>;

  /** Deletes the key stored under `name`. Tokens that are bound to it become unusable. */
  static delete(name: string): Promise<void>;

  /**
   * The key's `alg`: `ES256`, or `EdDSA` for an Ed25519 key. Proofs for a server that uses the name `Ed25519` have that
   * `alg`.
   */
  readonly algorithm: 'ES256' | 'EdDSA';

  /** The public key. */
  readonly publicJwk: JsonWebKey;

  /** The SHA-256 thumbprint of the public key (RFC 7638): the `jkt` of tokens that are bound to it. */
  readonly thumbprint: string;

  /** Creates a proof for one request (RFC 9449 §4.2), and returns it as a JWT. A proof can be used once. */
  proof(this: void, request: ProofRequest): Promise<string>;
}

/** The algorithm of a new key. */
export type Algorithm = 'ES256' | 'Ed25519';

/** The request that a proof is for. */
export interface ProofRequest {
  /** The HTTP method (`htm`). */
  method: string;
  /** The URL (`htu`), without its query and fragment. A relative URL is resolved against the page's. */
  url: string | URL;
  /** The last nonce from this server's `DPoP-Nonce` header. Omit it if the server has sent none. */
  nonce?: string;
  /** The access token of the request (`ath`). Only for requests to resource servers. */
  accessToken?: string;
}

/**
 * A session: fetches a token on first use, refreshes it before it expires, stores it in IndexedDB, and shares it between
 * all tabs and workers of the origin. Concurrent callers cause a single token request. The methods are bound to the
 * session, so `session.fetch` can be passed to a library.
 *
 * Failures reject with a `KeyboundError`, except for the reason of an aborted signal and errors thrown by
 * `SessionOptions.token`.
 */
export class Session {
  private constructor();

  /** Opens a session, and resumes its stored state. */
  static open(options: SessionOptions): Promise<Session>;

  /** The key that the session's tokens are bound to. */
  readonly key: ProofKey;

  /**
   * Whether there is a valid token, or a way to get one without a login. `false` after the token has expired or was
   * rejected, if there is no valid refresh token. `true` while the redirect of a login is being processed.
   */
  readonly isOpen: boolean;

  /**
   * Sends a request like the global `fetch`, with the token and a new proof, and returns the response, of any status.
   * If the server rejects a token that the session had before the call, the token is refreshed and the request is retried
   * once. If it rejects a token that was fetched during the call, the response is returned. After two such rejections in a
   * row from one origin, its rejections cause no token request for 30 s. Redirects are not followed: a proof is valid for
   * one URL.
   */
  fetch(this: void, input: RequestInfo | URL, init?: RequestInit): Promise<Response>;

  /**
   * Returns a valid token, for requests that `fetch` can't send. Such a request also needs a proof, from `key.proof`.
   * `expiresAt` is `undefined` if the server did not send a lifetime.
   */
  token(this: void): Promise<{ accessToken: string; expiresAt: Date | undefined }>;

  /**
   * Starts a login of the user (authorization code with PKCE, RFC 7636).
   *
   * By redirect, the default, this page is left, and `callback` completes the login in the page at `redirectUri`.
   * Concurrent calls share one redirect.
   *
   * By pop-up, call it from a click handler. The promise resolves when the login is complete. If the pop-up is closed,
   * the promise rejects after five minutes, or earlier when `signal` is aborted or another pop-up login starts. It does not
   * reject at once, because servers that isolate their pages (Cross-Origin-Opener-Policy) make an open pop-up appear closed.
   */
  login(this: void, options?: { popup?: boolean; signal?: AbortSignal }): Promise<void>;

  /**
   * Completes a login, to be called in the page at `redirectUri`. Returns whether the page's URL, or `url`, is the
   * redirect of a login of this session; redirects of other sessions are ignored. In a pop-up it forwards the redirect to
   * the page that opened the pop-up. It may be called twice, as React's StrictMode does: all sessions of a page share one
   * outcome per redirect.
   */
  callback(this: void, url?: string): Promise<boolean>;

  /**
   * Ends the session in all tabs. Deletes its tokens, and revokes the refresh token if the server has a revocation
   * endpoint. Deletes the key, unless another session of the same name has tokens bound to it. A mark without a token stays
   * in IndexedDB. To log in again, open the session again.
   *
   * Waits until a refresh in flight in any tab completes. Rejects with kind `browser` if that exceeds the timeout; the
   * tokens are deleted and revoked all the same.
   */
  logout(this: void): Promise<void>;
}

/** The options of `Session.open`. One of `issuer`, `tokenEndpoint` and `token` is required. */
export interface SessionOptions {
  /**
   * The name under which the key and the tokens are stored. Default: `keybound`. Tokens are stored per name and
   * fingerprint, which covers the server, client, scope, resources and, for public clients, the key. An application needs
   * two names only for two sessions that have these in common.
   */
  name?: string;
  /** The issuer URL of the authorization server, for discovery of its endpoints (RFC 8414, OpenID Connect Discovery). */
  issuer?: string;
  /** The token endpoint; instead of `issuer`. */
  tokenEndpoint?: string;
  /** The authorization endpoint; instead of the one that `issuer` publishes. */
  authorizationEndpoint?: string;
  /** The revocation endpoint (RFC 7009); instead of the one that `issuer` publishes. */
  revocationEndpoint?: string;
  /** The client id. Required unless `token` is given. */
  clientId?: string;
  /** A client secret. A page can't keep it confidential: only for tests, and for pages that are not public. */
  clientSecret?: string;
  /** The redirect URI of logins, as registered. Default: the page's URL without its query and fragment. */
  redirectUri?: string;
  /** The requested scopes, separated by spaces. */
  scope?: string;
  /** The grant: `authorization_code`, the default, for a login of the user, or `client_credentials`. */
  grant?: 'authorization_code' | 'client_credentials';
  /** The algorithm of a new key. Default: `ES256`. */
  algorithm?: Algorithm;
  /** Fetches a token within 30 s, for example from the page's backend, with a proof created by `key`; instead of a grant. */
  token?: (key: ProofKey) => Promise<TokenResponse>;
}

/** A token response (RFC 6749 §5.1), as sent by the server. */
export interface TokenResponse {
  access_token: string;
  token_type: string;
  expires_in?: number | string;
  scope?: string;
  [member: string]: unknown;
}

/** An error of this package: its cause, and whether a retry can help. */
export class KeyboundError extends Error {
  private constructor();

  /**
   * The cause:
   * - `misuse`: an argument is invalid;
   * - `server`: the server returned an error response;
   * - `response`: the server's response is invalid;
   * - `hidden`: the server's CORS headers hide a response header that is needed for a retry;
   * - `redirect`: the redirect of a login contains an error, or is invalid;
   * - `lost`: no response was received;
   * - `browser`: a browser feature is missing or failed;
   * - `session`: the session has ended, or a refresh did not complete.
   */
  readonly kind: 'misuse' | 'server' | 'response' | 'hidden' | 'redirect' | 'lost' | 'browser' | 'session';
  /** Whether to retry: `no`, `later` with the same call, or `reauthenticate` with a new login. */
  readonly retry: 'no' | 'later' | 'reauthenticate';
  /** The delay before a retry in milliseconds, if the server sent one. */
  readonly retryAfter?: number;
  /** The HTTP status of an error response. */
  readonly status?: number;
  /** The error code: `error` (RFC 6749 §5.2, §4.1.2.1). */
  readonly code?: string;
  /** The error description: `error_description`, or the server's equivalent member. */
  readonly description?: string;
  /** The nonce for the next proof (RFC 9449 §8). */
  readonly nonce?: string;
  /** The response's `x-request-id`, for the provider's support. */
  readonly requestId?: string;
}
