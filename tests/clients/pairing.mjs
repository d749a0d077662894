// A device without a secret: asks to be paired, waits, comes in with its token, comes back with it, and is thrown out.
import crypto from 'node:crypto';
import { GatewayClient } from '@openclaw/gateway-client';
import { say } from './client.mjs';

const { publicKey, privateKey } = crypto.generateKeyPairSync('ed25519');
const raw = (pem) => crypto.createPublicKey(pem).export({ type: 'spki', format: 'der' }).subarray(-32);
const publicKeyPem = publicKey.export({ type: 'spki', format: 'pem' });
const identity = {
  deviceId: crypto.createHash('sha256').update(raw(publicKeyPem)).digest('hex'),
  publicKeyPem,
  privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }),
};
let stored = null;
const hostDeps = {
  signDevicePayload: (pem, payload) => crypto.sign(null, Buffer.from(payload), pem).toString('base64url'),
  publicKeyRawBase64UrlFromPem: (pem) => raw(pem).toString('base64url'),
  loadDeviceAuthToken: () => stored,
  storeDeviceAuthToken: ({ token, scopes }) => { stored = { token, scopes }; },
  clearDeviceAuthToken: () => { stored = null; },
};

/** Connects, again and again if need be; `seen` hears of everything. */
function start(seen) {
  const client = new GatewayClient({
    url: process.env.GATEWAY_URL,
    deviceIdentity: identity,
    hostDeps,
    scopes: ['operator.read', 'operator.write'],
    onHelloOk: (hello) => seen('hello', { hello }),
    onConnectError: (error) => seen('refused', { message: error.message, details: error.details }),
    onClose: (code, reason) => seen('closed', { code, reason }),
  });
  client.start();
  return client;
}

/** Resolves with what `name` says first. */
function first(name, others = () => {}) {
  let client;
  const told = new Promise((resolve) => {
    client = start((what, value) => (what === name ? resolve(value) : others(what, value)));
  });
  return { client, told };
}

let asked = false;
const pairing = first('hello', (what, value) => {
  if (what === 'refused' && !asked) {
    asked = true;
    say('asked', { deviceId: identity.deviceId, ...value });
  }
});
const { hello } = await pairing.told;
say('paired', { auth: hello.auth, stored: stored?.token === hello.auth.deviceToken });
await pairing.client.stopAndWait({ timeoutMs: 2000 });

let closed;
const gone = new Promise((resolve) => { closed = resolve; });
const back = first('hello', (what, value) => what === 'closed' && closed(value));
const again = await back.told;
say('back', { auth: again.hello.auth, sessions: await back.client.request('sessions.list', {}) });
say('closed', await gone);
await back.client.stopAndWait({ timeoutMs: 2000 });
