// An authorization server (oidc-provider) and a small protected resource, in this process, on loopback.
//
// The two share an origin but not their nonces: a client must keep what it learned from each apart.

import { createHash, randomBytes, randomInt } from 'node:crypto';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import * as jose from 'jose';
import { errors, Provider } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';
import { applyDpopBinding } from 'oidc-provider/lib/helpers/grant_common.js';
import validateDpop from 'oidc-provider/lib/helpers/validate_dpop.js';

export const RESOURCE_INDICATOR = 'urn:example:api';
export const REDIRECT_URI = 'https://app.example/callback';

export const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';

const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

const secret = () => randomBytes(24).toString('base64url');

export const CLIENTS = {
  basic: { client_id: 'basic', client_secret: secret(), token_endpoint_auth_method: 'client_secret_basic' },
  post: { client_id: 'post', client_secret: secret(), token_endpoint_auth_method: 'client_secret_post' },
  odd: { client_id: 'odd:client+1', client_secret: `:+%/=&~${secret()}~&=/%+:`, token_endpoint_auth_method: 'client_secret_basic' },
  native: {
    client_id: 'native',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token', DEVICE_CODE],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/callback'],
    scope: 'openid offline_access',
  },
  app: {
    client_id: 'app',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: [REDIRECT_URI],
    scope: 'openid offline_access',
  },
};
const CLIENT_ALGS = ['HS256', 'ES256', 'ES384', 'EdDSA', 'RS256', 'PS256'];
const PEOPLE = [CLIENTS.app, CLIENTS.native];
const MACHINE = { grant_types: ['client_credentials', TOKEN_EXCHANGE, JWT_BEARER], response_types: [], redirect_uris: [], scope: 'read write' };

export const sha256 = (data) => createHash('sha256').update(data).digest('base64url');

// requireNonce  both servers refuse a proof without their nonce
// offerNonce    the authorization server hands out nonces, also where it does not require them
// authMethods   how clients may authenticate themselves
// proofAlgs     the algorithms by which proofs are taken
// clients       further ones, beside CLIENTS
// requirePar    authorization requests must be pushed
// otherKeys     the keys that are shown are not those by which id tokens are signed
// port          where to listen: a restart on the port of a closed server makes all its old nonces stale
export async function startProvider({ requireNonce = false, offerNonce = requireNonce, authMethods, proofAlgs, clients = [], requirePar = false, otherKeys = false, port = 0 } = {}) {
  const server = createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const log = [];

  const provider = new Provider(issuer, {
    adapter: createMemoryAdapter(), // what it takes by itself, without the warning that it forgets
    clients: [...Object.values(CLIENTS), ...clients].map((client) => (PEOPLE.includes(client) ? client : { ...MACHINE, ...client })),
    enabledJWA: { clientAuthSigningAlgValues: CLIENT_ALGS, ...(proofAlgs && { dPoPSigningAlgValues: proofAlgs }) },
    ...(authMethods && { clientAuthMethods: authMethods }),
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    scopes: ['openid', 'offline_access', 'read', 'write'],
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      devInteractions: { enabled: false },
      dPoP: { enabled: true, requireNonce: () => requireNonce, nonceSecret: offerNonce ? randomBytes(32) : undefined },
      introspection: { enabled: true },
      pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: requirePar },
      revocation: { enabled: true },
      userinfo: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({ scope: 'read write', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
      },
    },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    rotateRefreshToken: true,
    ttl: { AccessToken: 3600, ClientCredentials: 600, DeviceCode: 600, Grant: 3600, IdToken: 3600, Interaction: 600, RefreshToken: 7200, Session: 600 },
    cookies: { keys: [secret()] },
    jwks: { keys: [await signingKey()] },
  });

  furtherGrants(provider, issuer);
  const resource = protectedResource(provider, issuer, requireNonce);
  provider.use(async (ctx, next) => {
    const entry = request(ctx);
    log.push(entry);
    if (otherKeys && ctx.path === '/jwks') ctx.body = await publicKeys();
    else if (ctx.path === '/resource') await resource(ctx, entry);
    else if (ctx.path.startsWith('/interaction/')) await loginAndConsent(provider, ctx);
    else await next();
    entry.status = ctx.status;
    entry.error = ctx.body?.error;
    if (ctx.path === '/token') entry.answer = ctx.body;
  });
  server.on('request', provider.callback());

  const close = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
  return { issuer, port: server.address().port, log, close };
}

async function signingKey() {
  const { privateKey } = await jose.generateKeyPair('ES256', { extractable: true });
  return { ...(await jose.exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'es256' };
}

// A key of the same name that nobody signs by.
async function publicKeys() {
  const { d, ...jwk } = await signingKey();
  return { keys: [jwk] };
}

// The grants that oidc-provider leaves to applications: for a token of its own, and for a JWT by the client's secret.
function furtherGrants(provider, issuer) {
  const issue = async (ctx) => {
    const proof = await validateDpop(provider, ctx);
    const token = new provider.ClientCredentials({ client: ctx.oidc.client, scope: 'read' });
    await applyDpopBinding(provider, ctx, proof, token);
    ctx.oidc.entity('ClientCredentials', token);
    ctx.body = { access_token: await token.save(), issued_token_type: ACCESS_TOKEN, token_type: token.tokenType, expires_in: token.expiration };
  };
  provider.registerGrantType(TOKEN_EXCHANGE, async (ctx) => {
    const { subject_token: subject, subject_token_type: type, audience } = ctx.oidc.params;
    if (type !== ACCESS_TOKEN || !await provider.ClientCredentials.find(subject)) throw new errors.InvalidGrant('subject_token');
    if ([audience].flat().join() !== 'a,b') throw new errors.InvalidTarget('audience');
    await issue(ctx);
  }, ['subject_token', 'subject_token_type', 'audience'], ['audience']);
  provider.registerGrantType(JWT_BEARER, async (ctx) => {
    const key = new TextEncoder().encode(ctx.oidc.client.clientSecret);
    const sound = await jose.jwtVerify(ctx.oidc.params.assertion, key, { audience: issuer }).catch(() => undefined);
    if (!sound) throw new errors.InvalidGrant('assertion');
    await issue(ctx);
  }, ['assertion']);
}

// What the log keeps of a request; status, error and answer are filled in when it has been answered.
function request(ctx) {
  const proof = ctx.get('dpop') || undefined;
  const [scheme, credentials] = ctx.get('authorization').split(' ');
  let header;
  let claims;
  try {
    header = jose.decodeProtectedHeader(proof);
    claims = jose.decodeJwt(proof);
  } catch { /* no proof, or not a JWT: the servers have their say about it */ }
  return {
    method: ctx.method,
    path: ctx.path,
    query: ctx.querystring,
    time: Math.floor(Date.now() / 1000),
    scheme: scheme || undefined,
    credentials,
    hadProof: proof !== undefined,
    hadNonceClaim: claims?.nonce !== undefined,
    proof,
    header,
    claims,
  };
}

// The person at the browser: signs in as alice and agrees to everything, at once.
async function loginAndConsent(provider, ctx) {
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const grant = new provider.Grant({ accountId: 'alice', clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = { login: { accountId: 'alice' }, consent: { grantId: await grant.save() } };
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result));
}

// Walks the redirects of the authorization code flow as a browser would, and returns the code.
export async function authorizationCode({ issuer, clientId, redirectUri, codeVerifier, dpopJkt }) {
  const cookies = new Map();
  const start = new URL('/auth', issuer);
  start.search = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'openid offline_access',
    prompt: 'consent',
    code_challenge: sha256(codeVerifier),
    code_challenge_method: 'S256',
    ...(dpopJkt && { dpop_jkt: dpopJkt }),
  });

  const back = await browse(start.href, (url) => url.startsWith(redirectUri));
  const code = new URL(back).searchParams.get('code');
  if (!code) throw new Error(`no code in ${back}`);
  return code;
}

// Follows redirects as a browser would, until one leads to where `isThere`, and returns that URL. Without `isThere` it
// stays at the first page, and returns { url, page, submit }: submit(values) sends the page's only form with these values.
export async function browse(start, isThere, cookies = new Map(), form = undefined) {
  let url = start;
  let body = form;
  for (let step = 0; step < 10; step += 1) {
    if (isThere?.(url)) return url;
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, { method: body ? 'POST' : 'GET', body, redirect: 'manual', headers: { cookie } });
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      cookies.set(name, value);
    }
    const location = response.headers.get('location');
    if (!location) {
      const page = await response.text();
      if (isThere) throw new Error(`no redirect from ${url}: ${response.status} ${page}`);
      return { url, page, submit: (values) => submit(url, page, values, cookies) };
    }
    url = new URL(location, url).href;
    body = undefined;
  }
  throw new Error(`no end to the redirects from ${start}`);
}

function submit(url, page, values, cookies) {
  const action = /<form[^>]* action="([^"]+)"/.exec(page)?.[1] ?? url;
  const hidden = [...page.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)].map(([, name, value]) => [name, value]);
  const form = new URLSearchParams({ ...Object.fromEntries(hidden), ...values });
  return browse(new URL(action, url).href, undefined, cookies, form);
}

// GET and POST /resource: for client_credentials tokens that are bound to a key. Echoes the request.
// It is strict (htu compared byte for byte) and challenges in one line, behind a scheme without parameters.
function protectedResource(provider, issuer, requireNonce) {
  const nonce = randomNonce();
  const seen = new Set();

  return async (ctx, { scheme, credentials, proof }) => {
    const refuse = (error) => {
      ctx.status = 401;
      ctx.set('WWW-Authenticate', `Bearer, DPoP algs="ES256 EdDSA", error="${error}"`);
      if (error === 'use_dpop_nonce') ctx.set('DPoP-Nonce', nonce);
      ctx.body = { error };
    };

    if (scheme?.toLowerCase() !== 'dpop') return refuse('invalid_token');
    const token = await provider.ClientCredentials.find(credentials);
    if (!token?.jkt) return refuse('invalid_token');

    let verified;
    try {
      verified = await jose.jwtVerify(proof, jose.EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256', 'EdDSA'] });
    } catch {
      return refuse('invalid_dpop_proof');
    }
    const { payload, protectedHeader } = verified;
    if (requireNonce && payload.nonce !== nonce) return refuse('use_dpop_nonce');
    const sound = payload.htm === ctx.method
      && payload.htu === `${issuer}${ctx.path}`
      && payload.ath === sha256(credentials)
      && Math.abs(Date.now() / 1000 - payload.iat) < 60
      && !seen.has(payload.jti);
    if (!sound) return refuse('invalid_dpop_proof');
    seen.add(payload.jti);
    if (await jose.calculateJwkThumbprint(protectedHeader.jwk) !== token.jkt) return refuse('invalid_token');

    ctx.body = {
      method: ctx.method,
      query: ctx.querystring,
      client: token.clientId,
      type: ctx.get('content-type'),
      note: ctx.get('x-note'),
      body: await text(ctx.req),
    };
  };
}

// 50 characters of RFC 9449's NQCHAR, punctuation included.
function randomNonce() {
  const alphabet = [...Array(0x7f).keys()].slice(0x21).filter((c) => c !== 0x22 && c !== 0x5c);
  return String.fromCharCode(...Array.from({ length: 50 }, () => alphabet[randomInt(alphabet.length)]));
}
