// Stays on while the gateway is restarted under it, then goes on with the same session.
import { Client, say } from './client.mjs';

const key = 'agent:main:portal';
const client = await Client.connect();
say('before', await client.chat(key, 'before the restart'));
// The test restarts the gateway when it reads the line above.
await client.until(() => (client.hellos.length > 1 ? true : undefined));
say('reconnected', { closes: client.closes, shutdown: client.events.find((e) => e.event === 'shutdown')?.payload });
say('history', { answer: await client.request('chat.history', { sessionKey: key }) });
say('after', await client.chat(key, 'after the restart'));
say('end', { schemaProblems: client.schemaProblems, gaps: client.gaps });
await client.stop();
