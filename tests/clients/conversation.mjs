// One connection that does what a portal does: looks around, holds a conversation two ways, reads it back.
import { Client, say } from './client.mjs';

const key = 'agent:main:portal';
const client = await Client.connect();
say('hello', { hello: client.hellos[0] });
say('health', { answer: await client.request('health') });
say('sessions.list', { answer: await client.request('sessions.list', {}) });
say('sessions.messages.subscribe', { answer: await client.request('sessions.messages.subscribe', { key }) });

say('chat', await client.chat(key, 'first message'));

const runId = crypto.randomUUID();
const final = await client.request(
  'agent',
  { message: 'second message', sessionKey: key, deliver: false, idempotencyKey: runId },
  { expectFinal: true },
);
say('agent', { runId, final });
say('agent.wait', { answer: await client.request('agent.wait', { runId, timeoutMs: 10000 }) });
say('chat.history', { answer: await client.request('chat.history', { sessionKey: key, limit: 50 }) });
say('sessions.list', { answer: await client.request('sessions.list', {}) });

const refused = await client.request('no.such.method', {}).catch((error) => error);
say('refused', { message: refused.message, code: refused.gatewayCode ?? refused.code });

say('end', { schemaProblems: client.schemaProblems, gaps: client.gaps });
await client.stop();
