// npm's oidc-provider with required nonces, over CORS, and a person who logs in and agrees to everything at once.

import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import * as jose from 'jose';
import { Provider } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

/**
 * `thinks`: the person looks at a page of the provider's for so many milliseconds, which has these `headers` and runs this
 * `script`.
 */
export async function startProvider({
  redirectUris, accessTokenSeconds = 3600, denies = false, refreshes = true, thinks = 0, headers = {}, script = '',
}) {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const { privateKey } = await jose.generateKeyPair('ES256', { extractable: true });

  const provider = new Provider(issuer, {
    adapter: createMemoryAdapter(),
    clients: ['page', 'other'].map((client_id) => ({
      client_id,
      token_endpoint_auth_method: 'none',
      application_type: 'native', // the web's may not come back to http, not even on this machine
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: redirectUris,
      scope: 'openid offline_access',
      dpop_bound_access_tokens: true,
    })),
    clientBasedCORS: () => true,
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: true, requireNonce: () => true, nonceSecret: randomBytes(32) },
      revocation: { enabled: true },
      userinfo: { enabled: true },
    },
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    interactions: { url: (_, { uid }) => `/interaction/${uid}` },
    issueRefreshToken: () => refreshes,
    rotateRefreshToken: true,
    ttl: { AccessToken: accessTokenSeconds, Grant: 3600, IdToken: 3600, Interaction: 600, RefreshToken: 7200, Session: 600 },
    cookies: { keys: [randomBytes(24).toString('base64url')] },
    jwks: { keys: [{ ...(await jose.exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'es256' }] },
  });

  const log = [];
  provider.use(async (ctx, next) => {
    if (ctx.path.startsWith('/interaction/')) {
      if (!thinks || ctx.query.decided !== undefined) return person(provider, ctx, denies);
      ctx.set(headers);
      ctx.type = 'html';
      ctx.body = `<!doctype html><script>setTimeout(() => location.replace('?decided'), ${thinks}); ${script}</script>`;
      return;
    }
    await next();
    if (ctx.method !== 'OPTIONS') log.push({ path: ctx.path, status: ctx.status, grant: ctx.oidc?.params?.grant_type });
  });
  server.on('request', provider.callback());
  return {
    issuer,
    log,
    /** How often a person was sent here. */
    logins: () => log.filter(({ path }) => path === '/auth').length,
    tokens: (grant) => log.filter(({ path, status, ...entry }) => path === '/token' && status === 200 && entry.grant === grant).length,
    close: () => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve))),
  };
}

async function person(provider, ctx, denies) {
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const grant = new provider.Grant({ accountId: 'alice', clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = denies
    ? { error: 'access_denied', error_description: 'not today' }
    : { login: { accountId: 'alice' }, consent: { grantId: await grant.save() } };
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result));
}
