// Shows the requests and responses between this page and the sandbox that serves it. The replaced `fetch` records them; the
// flows below are written as in an application.

import { ProofKey, Session } from '../dist/index.js';

const AUTHORIZATION = `${location.origin}/oauth/token`;
const RESOURCE = `${location.origin}/oauth/resource`;
const CARDS = { proof: `${location.origin}/marqeta/oauth/token`, resource: `${location.origin}/marqeta/api/v1/auth/program-short-code` };
const BACKEND = `${location.origin}/treasury-prime/person/psn_1/uxt_access_token`;

// Credentials of the sandbox. A real page has no client secret.
const MACHINE = { tokenEndpoint: AUTHORIZATION, clientId: 'sandbox-client', clientSecret: 'sandbox-secret', grant: 'client_credentials', scope: 'demo' };

const element = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------------- the flows

const flows = {
  async call() {
    const session = await open();
    return report(await session.fetch(RESOURCE), 'The resource was read.');
  },

  async calls() {
    const session = await open();
    const responses = await Promise.all(Array.from({ length: 10 }, () => session.fetch(RESOURCE)));
    const read = responses.filter(({ ok }) => ok).length;
    return [read === 10, `${read} of 10 calls succeeded; one of them fetched the nonce for all.`];
  },

  async relay() {
    const session = await Session.open({ name: 'cards', token: relayed });
    return report(await session.fetch(CARDS.resource), 'The card processor accepted the token, which is useless to the backend.');
  },

  async stolen() {
    const { accessToken } = await (await open()).token();
    return refused(await fetch(RESOURCE, { headers: { Authorization: `DPoP ${accessToken}` } }), 'A token is useless without its key.');
  },

  async replay() {
    const make = await proofs();
    const proof = await make();
    await make.send(proof);
    return refused(await make.send(proof), 'A proof can be used once.');
  },

  async elsewhere() {
    const make = await proofs();
    return refused(await make.send(await make({ url: 'https://evil.example/' })), 'A proof is valid for one URL.');
  },

  async clock() {
    const make = await proofs();
    const now = Date.now;
    Date.now = () => now() - 600_000;
    const proof = await make().finally(() => (Date.now = now));
    return refused(await make.send(proof), 'A proof is valid for about a minute. (session.fetch would have corrected the clock offset.)');
  },

  async thief() {
    const make = await proofs();
    const thief = await ProofKey.open('thief');
    return refused(await make.send(await make({ key: thief })), 'The token is bound to another key.');
  },

  async logout() {
    await (await open()).logout();
    await showKey();
    return [true, 'Token and key are deleted, in all tabs. The key above is a new one.'];
  },
};

const open = () => Session.open(MACHINE);

/** Fetches a token through the backend. The sandbox's Treasury Prime acts as the backend. */
async function relayed(key, nonce) {
  const proof = await key.proof({ method: 'POST', url: CARDS.proof, nonce });
  const answer = await fetch(BACKEND, {
    method: 'POST',
    headers: { Authorization: 'Bearer sandbox-api-key', 'Content-Type': 'application/json' },
    body: JSON.stringify({ dpop: proof }),
  });
  const wanted = answer.headers.get('dpop-nonce');
  if (wanted && !nonce) return relayed(key, wanted);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** Creates proofs manually, as an attacker would, with a valid token and nonce. */
async function proofs() {
  const session = await open();
  const { accessToken } = await session.token();
  const nonce = (await session.fetch(RESOURCE)).headers.get('dpop-nonce') ?? undefined;
  const make = ({ key = session.key, url = RESOURCE } = {}) => key.proof({ method: 'GET', url, accessToken, nonce });
  make.send = (proof) => fetch(RESOURCE, { headers: { Authorization: `DPoP ${accessToken}`, DPoP: proof } });
  return make;
}

const report = (response, text) => [response.ok, response.ok ? text : `The server responded with ${response.status}.`];

const refused = (response, text) =>
  response.ok ? [false, 'The server accepted the request, and should not have.'] : [true, `Refused with ${response.status}. ${text}`];

// --------------------------------------------------------------------------------------------------- the diagram

const send = globalThis.fetch;

globalThis.fetch = async function recorded(input, init) {
  const request = new Request(input, init);
  if (!/^\/(oauth|marqeta|treasury-prime)\//.test(new URL(request.url).pathname)) return send(input, init);
  await show(request, 'request');
  const response = await send(input, init);
  await show(response, 'answer', request);
  return response;
};

async function show(message, kind, { url } = message) {
  const path = new URL(url).pathname;
  const isResource = /resource|program-short-code/.test(path);
  const proof = kind === 'request' ? proofOf(message, await message.clone().text()) : undefined;
  const item = document.createElement('li');
  item.className = `${kind} ${isResource ? 'to-rs' : 'to-as'} ${kind === 'answer' ? (message.ok ? 'good' : 'bad') : ''}`;
  const server = isResource ? 'resource server' : 'authorization server';
  const [from, to] = kind === 'request' ? ['Page', server] : [server, 'page'];
  const label = kind === 'request' ? `${message.method} ${path}` : `${message.status} ${await outcome(message)}`;
  item.innerHTML = `<details><summary><span class="direction"></span><b></b></summary><div class="more"></div></details>`;
  item.querySelector('b').textContent = label;
  item.querySelector('.direction').setAttribute('aria-label', `${from} to ${to}: `);
  if (proof) item.querySelector('summary').insertAdjacentHTML('beforeend', '<span class="tag">proof</span>');
  item.querySelector('summary').insertAdjacentHTML('beforeend', '<div class="arrow" aria-hidden="true"></div>');
  const more = item.querySelector('.more');
  proof?.forEach((part, at) => add(more, at === 0 ? 'Header of the proof' : 'Claims of the proof', JSON.stringify(part, null, 2)));
  add(more, 'Headers', Array.from(message.headers, ([name, value]) => `${name}: ${short(value)}`).join('\n'));
  add(more, 'Body', short(await message.clone().text(), 400));
  element('steps').append(item);
  item.scrollIntoView({ block: 'nearest' });
}

function add(more, title, text) {
  if (!text) return;
  const [heading, block] = [document.createElement('h3'), document.createElement('pre')];
  heading.textContent = title;
  block.textContent = text;
  more.append(heading, block);
}

/** Returns the header and the claims of a request's proof, which is in its `DPoP` header or in its body. */
function proofOf(request, body) {
  const proof = request.headers.get('dpop') ?? /"dpop":"([^"]+)"/.exec(body)?.[1];
  const part = (text) => JSON.parse(atob(text.replaceAll('-', '+').replaceAll('_', '/')));
  return proof?.split('.').slice(0, 2).map(part);
}

async function outcome(response) {
  const body = await response.clone().json().catch(() => ({}));
  return body.error ?? (body.access_token ? 'a token' : 'OK');
}

const short = (text, length = 120) => (text.length > length ? `${text.slice(0, length)}…` : text);

// ------------------------------------------------------------------------------------------------------ the page

function say(good, text) {
  const status = element('status');
  status.className = good === undefined ? '' : good ? 'good' : 'bad';
  status.textContent = text;
}

async function showKey() {
  const key = await ProofKey.open('keybound');
  element('thumbprint').textContent = `${key.algorithm} ${key.thumbprint}`;
}

const buttons = document.querySelectorAll('[data-run]');

for (const button of buttons) {
  button.addEventListener('click', async () => {
    buttons.forEach((each) => (each.disabled = true));
    element('steps').replaceChildren();
    say(undefined, `${button.textContent}…`);
    try {
      say(...(await flows[button.dataset.run]()));
    } catch (error) {
      say(false, error.message);
    }
    buttons.forEach((each) => (each.disabled = false));
    button.focus();
  });
}

await showKey().catch((error) => say(false, error.message));
