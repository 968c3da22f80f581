/** A key that proves (RFC 9449): WebCrypto's, kept in IndexedDB. No script can export it, yours included. */
export class ProofKey {
  private constructor();

  /** The key of this name; a new one, if there is none. Without an algorithm: whatever is there, or a new ES256 key. */
  static open(name: string, options?: { algorithm?: Algorithm }): Promise<ProofKey>;

  /** Forgets the key of this name for ever: tokens that are bound to it are good for nothing then. */
  static delete(name: string): Promise<void>;

  /** `alg` of its proofs. `EdDSA` is the name by which most servers know Ed25519. */
  readonly algorithm: 'ES256' | 'EdDSA';

  /** The public half. */
  readonly publicJwk: JsonWebKey;

  /** Its SHA-256 thumbprint (RFC 7638): the `jkt` of tokens that are bound to it. */
  readonly thumbprint: string;

  /** A proof for one request, good for once. */
  proof(this: void, request: ProofRequest): Promise<string>;
}

export type Algorithm = 'ES256' | 'Ed25519';

export interface ProofRequest {
  method: string;
  /** Query and fragment don't matter. A relative URL is the page's. */
  url: string | URL;
  /** What this server last gave. Leave it out towards a server that never asked for one. */
  nonce?: string;
  /** The access token that goes along; for resource servers only. */
  accessToken?: string;
}

/** A token that is simply there: got when it is first needed, renewed in time, shared by all tabs and workers. */
/** Its methods are bound to it, and can be handed to a library. */
export class Session {
  private constructor();

  /** Opens the session, with what is kept of it. */
  static open(options: SessionOptions): Promise<Session>;

  /** What its tokens are bound to. */
  readonly key: ProofKey;

  /**
   * Whether there is a token, or a way to get one without a login. `false` once a token has expired, or was refused, and no
   * refresh token is good any longer. While a login's redirect is being dealt with, it is `true`.
   */
  readonly isOpen: boolean;

  /**
   * `fetch`, with the token and a fresh proof. The response is delivered whatever its status. Redirections are not
   * followed: a proof is for one URL.
   */
  fetch(this: void, input: RequestInfo | URL, init?: RequestInit): Promise<Response>;

  /** A token that is good now, for requests that `fetch` can't make. They need a proof, too. */
  token(this: void): Promise<{ accessToken: string; expiresAt: Date | undefined }>;

  /**
   * Lets the person log in (authorization code with PKCE). By redirect, the page ends here, and `callback` goes on in the
   * page at `redirectUri`; further calls join the first. By pop-up, call it from a click; it is done when the promise is.
   * A pop-up that is closed ends the login after five minutes, or when `signal` is aborted or another login begins:
   * servers that isolate their pages (Cross-Origin-Opener-Policy) make an open one look closed.
   */
  login(this: void, options?: { popup?: boolean; signal?: AbortSignal }): Promise<void>;

  /**
   * Call it in the page at `redirectUri`: ends the login, if the page's URL is a login's redirect, and says whether it
   * was. In a pop-up it hands the redirect over to the page that waits for it. All sessions of a page share one outcome of
   * one redirect, so it may be called twice, as React's StrictMode does. A redirect of another session's login is left
   * alone.
   */
  callback(this: void, url?: string): Promise<boolean>;

  /**
   * Ends the session in all tabs: revokes its tokens if it can, and forgets them and the key, unless another session of the
   * same name has it. Open it anew to go on.
   */
  logout(this: void): Promise<void>;
}

export interface SessionOptions {
  /**
   * Under which its key and its tokens are kept. `keybound` unless given. Tokens are kept for one server, client and scope
   * each: an app needs two names for two sessions only where these are the same.
   */
  name?: string;
  /** The authorization server, which says itself where its endpoints are (RFC 8414, OpenID Connect Discovery). */
  issuer?: string;
  /** Where tokens are issued; instead of `issuer`. */
  tokenEndpoint?: string;
  /** Where people log in; instead of `issuer`'s. */
  authorizationEndpoint?: string;
  /** Where tokens are revoked; instead of `issuer`'s. */
  revocationEndpoint?: string;
  /** Needed but where `token` is given. */
  clientId?: string;
  /** A page can't keep one. For tests, and for pages that nobody else can load. */
  clientSecret?: string;
  /** Where logins come back to, as it is registered. The page's own URL, unless given. */
  redirectUri?: string;
  /** What is asked for, separated by spaces. */
  scope?: string;
  /** Whether a person logs in, which is what is meant if it isn't given, or the client asks for itself. */
  grant?: 'authorization_code' | 'client_credentials';
  /** The key's. */
  algorithm?: Algorithm;
  /** Gets a token in the page's own way, such as by its backend, with a proof by this key; instead of a grant. */
  token?: (key: ProofKey) => Promise<TokenResponse>;
}

/** A token response (RFC 6749 §5.1), as the server wrote it. */
export interface TokenResponse {
  access_token: string;
  token_type: string;
  expires_in?: number | string;
  scope?: string;
  [member: string]: unknown;
}

/** Why something didn't work, and what to do about it. */
export class KeyboundError extends Error {
  private constructor();

  /**
   * Whose fault it is: `misuse` the caller's; `server` it refused; `response` its answer can't be used; `hidden` its CORS
   * headers hide what is needed; `redirect` a login came to nothing; `lost` no answer came; `browser` something is
   * missing in it; `session` it is over.
   */
  readonly kind: 'misuse' | 'server' | 'response' | 'hidden' | 'redirect' | 'lost' | 'browser' | 'session';
  /** What to do next: nothing, the same again later, or a new login. */
  readonly retry: 'no' | 'later' | 'reauthenticate';
  /** How many milliseconds later, where the server says so. */
  readonly retryAfter?: number;
  /** The HTTP status of a refusal. */
  readonly status?: number;
  /** `error` (RFC 6749 §5.2, §4.1.2.1). */
  readonly code?: string;
  /** `error_description`, or what a server has in its place. */
  readonly description?: string;
  /** The nonce that a new proof must carry. */
  readonly nonce?: string;
  /** `x-request-id`, for the provider's support. */
  readonly requestId?: string;
}
