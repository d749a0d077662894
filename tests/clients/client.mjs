// A connected `@openclaw/gateway-client`, with every event kept and checked against the published schemas.
import { GatewayClient } from '@openclaw/gateway-client';
import * as protocol from '@openclaw/gateway-protocol';
import { Value } from 'typebox/value';

const EVENT_SCHEMAS = {
  chat: protocol.ChatEventSchema,
  agent: protocol.AgentEventSchema,
  tick: protocol.TickEventSchema,
  shutdown: protocol.ShutdownEventSchema,
};

/** Prints one line for the test that drives this script. */
export function say(what, value = {}) {
  process.stdout.write(`${JSON.stringify({ what, ...value })}\n`);
}

/** What a value lacks of a published schema. Keys that the schema does not know are fine: the real gateway sends some. */
export function problems(name, schema, value) {
  if (!schema) return [`${name}: no such schema`];
  return [...Value.Errors(schema, value)]
    .filter((error) => !/additionalProperties/.test(`${error.schemaPath}/${error.keyword}`))
    .map((error) => `${name}${error.instancePath}: ${error.message}`);
}

export class Client {
  /** Connects with `options` over the defaults; resolves once the gateway said hello. */
  static async connect(options = {}) {
    const client = new Client();
    await new Promise((resolve, reject) => {
      client.inner = new GatewayClient({
        url: process.env.GATEWAY_URL,
        token: process.env.GATEWAY_TOKEN,
        ...options,
        onHelloOk: (hello) => {
          client.hellos.push(hello);
          client.schemaProblems.push(...problems('hello-ok', protocol.HelloOkSchema, hello));
          client.wake();
          resolve();
        },
        onConnectError: (error) => (client.hellos.length === 0 ? reject(error) : undefined),
        onEvent: (frame) => client.keep(frame),
        onGap: (gap) => client.gaps.push(gap),
        onClose: (code, reason) => {
          client.closes.push({ code, reason });
          client.wake();
        },
      });
      client.inner.start();
    });
    return client;
  }

  hellos = [];
  events = [];
  closes = [];
  gaps = [];
  schemaProblems = [];
  waiting = [];

  keep(frame) {
    this.schemaProblems.push(...problems('event', protocol.EventFrameSchema, frame));
    const schema = EVENT_SCHEMAS[frame.event];
    if (schema) this.schemaProblems.push(...problems(frame.event, schema, frame.payload));
    this.events.push(frame);
    this.wake();
  }

  wake() {
    for (const check of this.waiting.splice(0)) check();
  }

  /** Waits until `found()` gives something other than undefined; looks again whenever anything arrives. */
  async until(found) {
    for (;;) {
      const value = found();
      if (value !== undefined) return value;
      await new Promise((resolve) => this.waiting.push(resolve));
    }
  }

  request(method, params, options) {
    return this.inner.request(method, params, options);
  }

  chatEvents(runId) {
    return this.events.filter((e) => e.event === 'chat' && e.payload.runId === runId).map((e) => e.payload);
  }

  /** Sends one chat message and waits for the end of its run. */
  async chat(sessionKey, message) {
    const runId = crypto.randomUUID();
    const ack = await this.request('chat.send', { sessionKey, message, idempotencyKey: runId });
    await this.until(() =>
      this.chatEvents(runId).find((p) => ['final', 'error', 'aborted'].includes(p.state)));
    return { runId, ack, events: this.chatEvents(runId) };
  }

  async stop() {
    await this.inner.stopAndWait({ timeoutMs: 2000 });
  }
}
