// What applications write: compiled by `tsc --strict`.

import { KeyboundError, ProofKey, Session, type TokenResponse } from 'keybound';

export async function accounts(): Promise<unknown> {
  const session: Session = await Session.open({ issuer: 'https://as.example', clientId: 'app', scope: 'accounts', algorithm: 'Ed25519' });
  if (!(await session.callback()) && !session.isOpen) await session.login({ popup: true });
  try {
    const response: Response = await session.fetch(new Request('https://rs.example/accounts'), { signal: AbortSignal.timeout(5000) });
    return await response.json();
  } catch (error) {
    if (error instanceof KeyboundError && error.retry === 'reauthenticate') return session.login();
    throw error;
  }
}

export async function relayed(): Promise<Session> {
  return Session.open({
    token: async (key: ProofKey): Promise<TokenResponse> => {
      const proof: string = await key.proof({ method: 'POST', url: new URL('https://as.example/token'), nonce: 'n' });
      const answer = await fetch('/uxt', { method: 'POST', body: proof });
      return answer.json();
    },
  });
}

export function handed(session: Session): typeof fetch {
  const { fetch } = session;
  return fetch;
}

export async function mistakes(): Promise<void> {
  // @ts-expect-error there is no such option
  await Session.open({ clientID: 'app' });
  // @ts-expect-error browsers have no such keys
  await ProofKey.open('name', { algorithm: 'RS256' });
  // @ts-expect-error a session is opened, not made
  new Session();
  const key = await ProofKey.open('name');
  // @ts-expect-error a proof is for a URL
  await key.proof({ method: 'GET' });
  // @ts-expect-error it can't be set
  key.thumbprint = '';
}
