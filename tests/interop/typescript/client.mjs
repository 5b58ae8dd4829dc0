// The official TypeScript SDK against any MCP SSE server with the tools of...
//
//   client.mjs SSE_URL demo          the demo: add, broadcast, burst, echo
//   client.mjs SSE_URL calculator    the calculator: add
//   client.mjs SSE_URL toolbox       the tests' toolbox: add, among others
//   client.mjs SSE_URL everything    @modelcontextprotocol/server-everything
//   client.mjs SSE_URL filesystem    @modelcontextprotocol/server-filesystem, with one directory
//   client.mjs SSE_URL time          mcp-server-time
//   client.mjs SSE_URL shared        the URL of the first of these three, where each has one process
//   client.mjs SSE_URL guarded       the demo, by the token MCP_TOKEN: the same, and what happens without
//                                    it, or with MCP_TOKEN_OTHER, which is somebody else's. MCP_METADATA
//                                    is the URL of the resource's metadata, if it has any
//   client.mjs SSE_URL endpoint      the demo, in short: behind a proxy, does the endpoint lead back to the session?
//   client.mjs SSE_URL traffic NAME  the demo, three instances of it behind a balancer, of which NAME will be killed
//   client.mjs SSE_URL hold          any: opens idle sessions, prints `holding`, expects the server to
//                                    end them and another to come back on the same URL, and goes on
//                                    with that one

import { readFileSync } from 'node:fs';
import {
  UnauthorizedError,
  discoverOAuthProtectedResourceMetadata,
  extractWWWAuthenticateParams,
} from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  InitializeResultSchema,
  LoggingMessageNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { Checks, equal, truth, until } from './checks.mjs';
import { shared } from './shared.mjs';

const LATEST = '2025-11-25';
const INVALID_PARAMS = -32602;
const METHOD_NOT_FOUND = -32601;
const UNICODE =
  'h\u00e9llo "\\ \r\n\t w\u00f6rld | \u2028 | \u2029 | \u0085 | \u{1f980} \u{1f469}\u200d\u{1f680} | e\u0301 | \ufeff';
const MIB = 1024 * 1024;
const WAIT = { timeout: 10_000 };
const CLIENT = { name: 'interop', version: '0' };

// The field that presents a token, if there is one.
const authorization = (token = process.env.MCP_TOKEN) => (token ? { authorization: `Bearer ${token}` } : {});

// A connection, and what its transport saw: the status of every request, every message as it arrived.
class Connection {
  requests = []; // { method, url, status }
  arrived = []; // 'log', or 'answer'
  logged = []; // data given to the notification handler
  progress = []; // of every notification as it arrived
  faults = []; // errors of the transport

  // `credentials`: options of the transport, instead of the token of the environment.
  constructor(url, { capabilities = {}, credentials = { requestInit: { headers: authorization() } } } = {}) {
    this.transport = new SSEClientTransport(new URL(url), {
      ...credentials,
      fetch: async (target, init) => {
        const response = await fetch(target, init);
        this.requests.push({ method: init?.method ?? 'GET', url: String(target), status: response.status });
        this.response = response;
        return response;
      },
    });
    this.transport.onmessage = message => {
      if (message.method === 'notifications/message') this.arrived.push('log');
      if (!message.method) this.arrived.push('answer');
      if (message.method === 'notifications/progress') this.progress.push(message.params.progress);
      if (message.result?.protocolVersion) this.protocolVersion = message.result.protocolVersion;
    };
    this.transport.onerror = fault => this.faults.push(fault);
    this.client = new Client(CLIENT, { capabilities });
    this.client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      this.logged.push(params.data);
    });
  }

  get posts() {
    return this.requests.filter(request => request.method === 'POST');
  }

  get endpoint() {
    return this.posts[0].url;
  }

  async call(name, args) {
    const result = await this.client.callTool({ name, arguments: args }, undefined, WAIT);
    equal(Boolean(result.isError), false, `${name} failed`);
    equal(result.content.map(part => part.type), ['text'], `content of ${name}`);
    return result.content[0].text;
  }

  ping() {
    return this.client.ping(WAIT);
  }
}

async function connected(url, count, step, capabilities) {
  const connections = Array.from({ length: count }, () => new Connection(url, { capabilities }));
  try {
    for (const connection of connections) await connection.client.connect(connection.transport, WAIT);
    return await step(...connections);
  } finally {
    for (const connection of connections) await connection.client.close();
  }
}

async function rejection(promise) {
  let result;
  try {
    result = await promise;
  } catch (fault) {
    return fault;
  }
  throw new Error(`expected an error, got ${JSON.stringify(result)}`);
}

function post(url, message, headers = authorization()) {
  return fetch(url, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(message),
    signal: AbortSignal.timeout(5000),
  });
}

async function activeSessions(url) {
  const answer = await fetch(new URL('health', url), { signal: AbortSignal.timeout(5000) });
  equal(answer.status, 200, 'status of /health');
  return (await answer.json()).active_sessions;
}

const initialize = url =>
  connected(url, 1, async connection => {
    equal(connection.protocolVersion, LATEST, 'negotiated version');
    const { name, version } = connection.client.getServerVersion();
    truth(name && version, 'the server names neither itself nor its version');
    equal(connection.posts.map(({ status }) => status), [202, 202], 'statuses of the posts');
  });

async function versions(url) {
  for (const [asked, expected] of [
    ['2024-11-05', '2024-11-05'],
    ['2025-03-26', '2025-03-26'],
    ['2025-06-18', '2025-06-18'],
    ['2025-11-25', '2025-11-25'],
    ['1999-01-01', LATEST],
  ]) {
    const { transport } = new Connection(url);
    try {
      const answer = new Promise(resolve => (transport.onmessage = resolve));
      await transport.start();
      const params = { protocolVersion: asked, capabilities: {}, clientInfo: CLIENT };
      await transport.send({ jsonrpc: '2.0', id: 'first', method: 'initialize', params });
      const { id, result } = await answer;
      equal([id, result?.protocolVersion], ['first', expected], `answer to version ${asked}`);
    } finally {
      await transport.close();
    }
  }
}

const listTools = (url, ...names) =>
  connected(url, 1, async ({ client }) => {
    const { tools } = await client.listTools(undefined, WAIT);
    equal(tools.map(tool => tool.name).sort(), names.sort(), 'tools');
  });

const add = url =>
  connected(url, 1, async connection => {
    equal(await connection.call('add', { a: 2, b: 3 }), '5', '2 + 3');
    equal(Number(await connection.call('add', { a: -1.5, b: 2 })), 0.5, '-1.5 + 2');
  });

const echo = url =>
  connected(url, 1, async connection => {
    for (const message of ['', 'plain', UNICODE, 'x'.repeat(100 * 1024), UNICODE.repeat(2000)]) {
      equal(await connection.call('echo', { message }), message, 'echo');
    }
  });

const burst = (url, count, bytes) =>
  connected(url, 1, async connection => {
    await connection.call('burst', { count, bytes });
    const sizes = connection.logged.map(data => Buffer.byteLength(data));
    equal(sizes, Array(count).fill(bytes), 'sizes given to the handler before the result');
    // All of them before the result, and nothing after it: a ping flushes what might follow.
    await connection.ping();
    const kinds = connection.arrived;
    equal(kinds.filter(kind => kind === 'log').length, count, 'notifications on the wire');
    equal(kinds.slice(kinds.lastIndexOf('log') + 1), ['answer', 'answer'], 'behind the last notification');
  });

const broadcast = url =>
  connected(url, 2, async (sender, listener) => {
    const sent = Array.from({ length: 20 }, (_, number) => `${number} ${UNICODE}`);
    for (const message of sent) {
      const reached = await sender.call('broadcast', { message });
      truth(Number(/\d+/.exec(reached)?.[0]) >= 2, `reached too few: ${reached}`);
    }
    for (const connection of [sender, listener]) {
      await until('20 broadcasts', () => connection.logged.length >= 20);
      await connection.ping();
      equal(connection.logged, sent, 'broadcasts in order, once each');
    }
  });

const ping = url =>
  connected(url, 1, async connection => {
    for (let count = 0; count < 3; count += 1) await connection.ping();
  });

const refusedCalls = url =>
  connected(url, 1, async connection => {
    for (const [tool, args] of [
      ['nope', {}],
      ['add', { a: 'one', b: 2 }],
      ['add', { a: 1 }],
      ['echo', { message: 5 }],
      ['burst', { count: 'many', bytes: 1 }],
      ['broadcast', {}],
    ]) {
      const fault = await rejection(connection.call(tool, args));
      equal(fault.code, INVALID_PARAMS, `code for ${tool} ${JSON.stringify(args)} (${fault})`);
      equal(await connection.call('add', { a: 1, b: 1 }), '2', 'the session afterwards');
    }
  });

const unknownMethod = url =>
  connected(url, 1, async connection => {
    const fault = await rejection(connection.client.listPrompts(undefined, WAIT));
    equal(fault.code, METHOD_NOT_FOUND, `code for prompts/list (${fault})`);
    equal(await connection.call('add', { a: 1, b: 1 }), '2', 'the session afterwards');
  });

// This SDK rejects the one call and goes on with the session.
const oversized = url =>
  connected(url, 2, async (connection, other) => {
    const fault = await rejection(connection.call('echo', { message: 'x'.repeat(5 * MIB) }));
    truth(String(fault).includes('HTTP 413'), `what the SDK surfaces: ${fault}, ${fault.cause}`);
    equal(connection.posts.at(-1).status, 413, 'status of the post');
    equal(await connection.call('add', { a: 2, b: 2 }), '4', 'the same session');
    equal(await other.call('add', { a: 2, b: 3 }), '5', 'another session');
    equal(connection.requests.filter(({ method }) => method === 'GET').length, 1, 'streams opened');
  });

// 3 MiB are under the limit, in both directions.
const threeMib = url =>
  connected(url, 1, async connection => {
    const message = 'x'.repeat(3 * MIB);
    equal(await connection.call('echo', { message }), message, 'echo');
  });

async function reconnect(url) {
  const old = await connected(url, 1, async first => {
    await first.call('add', { a: 1, b: 2 });
    return first.endpoint;
  });
  await connected(url, 1, async second => {
    equal(await second.call('add', { a: 2, b: 3 }), '5', 'the new session');
    truth(second.endpoint !== old, 'two sessions share an endpoint');
    await until('404 for the old endpoint', async () => {
      const { status } = await post(old, { jsonrpc: '2.0', id: 1, method: 'ping' });
      truth(status === 202 || status === 404, `status ${status}`);
      return status === 404;
    });
    equal(await second.call('add', { a: 2, b: 3 }), '5', 'the new session afterwards');
  });
}

// Every fifth is a burst, so that the others really are asked while one is being answered.
const concurrentCalls = url =>
  connected(url, 1, async connection => {
    const one = async number => {
      if (number % 5) return connection.call('echo', { message: `message ${number}` });
      await connection.call('burst', { count: 100, bytes: 10_000 });
      return `message ${number}`;
    };
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    equal(await Promise.all(numbers.map(one)), numbers.map(number => `message ${number}`), 'answers');
    equal(connection.logged.length, 400, 'notifications');
  });

async function concurrentSessions(url) {
  const before = await activeSessions(url);
  await connected(url, 10, async (...connections) => {
    truth((await activeSessions(url)) >= 10, '/health does not count the sessions');
    const sums = connections.map((connection, number) => connection.call('add', { a: number, b: 1000 }));
    equal(await Promise.all(sums), connections.map((_, number) => String(number + 1000)), 'sums');
    for (const { logged } of connections) equal(logged, [], 'notifications of other sessions');
  });
  await until('/health forgets the sessions', async () => (await activeSessions(url)) <= before);
}

// As the SDK's documentation has it: try Streamable HTTP, and on a 4xx fall back to SSE.
async function fallback(url) {
  const streamable = new StreamableHTTPClientTransport(new URL(url));
  const fault = await rejection(new Client(CLIENT).connect(streamable, WAIT));
  equal(fault.code, 405, `code of the refusal (${fault})`);
  await connected(url, 1, async connection => {
    equal(await connection.call('add', { a: 2, b: 3 }), '5', 'sum over SSE');
  });
}

async function postToTheStream(url) {
  const answer = await post(url, { jsonrpc: '2.0', id: 1, method: 'initialize', params: {} });
  equal(answer.status, 405, 'status');
  truth(answer.headers.get('allow')?.includes('GET'), `Allow: ${answer.headers.get('allow')}`);
  truth(!(await answer.text()).includes('jsonrpc'), 'the body looks like JSON-RPC');
}

async function demo(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('every protocol version', () => versions(url));
  await checks.check('listTools', () => listTools(url, 'add', 'broadcast', 'burst', 'echo'));
  await checks.check('add', () => add(url));
  await checks.check('echo: unicode, 100 KiB', () => echo(url));
  await checks.check('burst of 200 x 1000 bytes', () => burst(url, 200, 1000));
  await checks.check('burst of 64 x 64 KiB, more than a queue holds', () => burst(url, 64, 65536));
  await checks.check('broadcast', () => broadcast(url));
  await checks.check('ping', () => ping(url));
  await checks.check('unknown tool, bad arguments', () => refusedCalls(url));
  await checks.check('unknown method', () => unknownMethod(url));
  await checks.check('5 MiB: 413, harmless', () => oversized(url));
  await checks.check('3 MiB, there and back', () => threeMib(url));
  await checks.check('reconnect; the old endpoint is dead', () => reconnect(url));
  await checks.check('20 concurrent calls', () => concurrentCalls(url));
  await checks.check('10 concurrent sessions', () => concurrentSessions(url));
  await checks.check('Streamable HTTP first, then SSE', () => fallback(url));
  await checks.check('POST to the stream is 405', () => postToTheStream(url));
}

async function endpoint(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('listTools', () => listTools(url, 'add', 'broadcast', 'burst', 'echo'));
  await checks.check('add', () => add(url));
  await checks.check('echo: unicode, 100 KiB', () => echo(url));
  await checks.check('burst of 200 x 1000 bytes', () => burst(url, 200, 1000));
  await checks.check('reconnect; the old endpoint is dead', () => reconnect(url));
}

async function withoutAToken(url) {
  const expected = process.env.MCP_METADATA;
  for (const [headers, error] of [
    [{}, undefined],
    [authorization('no.such.token'), 'invalid_token'],
  ]) {
    const connection = new Connection(url, { credentials: { requestInit: { headers } } });
    const fault = await rejection(connection.client.connect(connection.transport, WAIT));
    equal([fault.constructor.name, fault.code], ['SseError', 401], `what the SDK rejects with (${fault})`);
    const read = extractWWWAuthenticateParams(connection.response);
    equal([read.error, read.resourceMetadataUrl?.href], [error, expected], 'the challenge, as the SDK reads it');
    equal(connection.requests.length, 1, 'requests');
    await connection.client.close();
  }
  if (!expected) return;
  // What its OAuth flow would do next.
  const options = { resourceMetadataUrl: new URL(expected) };
  const resource = await discoverOAuthProtectedResourceMetadata(url, options);
  equal([resource.resource, resource.authorization_servers.length], [url, 1], 'the metadata');
}

// The SDK's own way to present tokens, which asks for another one at a 401.
async function provider(url) {
  let token = process.env.MCP_TOKEN;
  const asked = [];
  const authProvider = {
    tokens: () => ({ access_token: token, token_type: 'Bearer' }),
    clientInformation: () => undefined,
    clientMetadata: { redirect_uris: ['http://localhost/'] },
    redirectUrl: 'http://localhost/',
    state: () => 'x',
    saveTokens: () => {},
    codeVerifier: () => 'x',
    saveCodeVerifier: () => {},
    redirectToAuthorization: () => {},
    discoveryState: () => undefined,
    validateResourceURL: (server, resource) => {
      asked.push(resource);
      throw new UnauthorizedError('enough');
    },
  };
  const connection = new Connection(url, { credentials: { authProvider } });
  try {
    await connection.client.connect(connection.transport, WAIT);
    equal(await connection.call('add', { a: 2, b: 3 }), '5', 'sum');
    const { endpoint } = connection;
    token = 'no.such.token';
    const fault = await rejection(connection.call('add', { a: 2, b: 3 }));
    truth(connection.requests.some(({ url, status }) => url === endpoint && status === 401), `no 401 (${fault})`);
    const metadata = connection.requests.filter(({ url }) => url === process.env.MCP_METADATA);
    truth(!process.env.MCP_METADATA || metadata.length > 0, `the SDK did not ask for the metadata (${fault})`);
    token = process.env.MCP_TOKEN;
    equal(await connection.call('add', { a: 1, b: 1 }), '2', 'the same session, by a good token');
  } finally {
    await connection.client.close();
  }
}

const sessionOfAnother = url =>
  connected(url, 1, async connection => {
    const message = { jsonrpc: '2.0', id: 'x', method: 'ping' };
    const other = authorization(process.env.MCP_TOKEN_OTHER);
    const told = async (endpoint, headers) => {
      const answer = await post(endpoint, message, headers);
      return [answer.status, await answer.text()];
    };
    const unknown = connection.endpoint.replace(/=.{32}/, `=${'A'.repeat(32)}`);
    const nobody = await told(unknown, authorization());
    equal(nobody[0], 404, 'an unknown session');
    equal(await told(connection.endpoint, other), nobody, 'the answer to a stranger');
    equal((await told(connection.endpoint, {}))[0], 401, 'a post without a token');
    equal(await connection.call('add', { a: 2, b: 3 }), '5', 'the session afterwards');
  });

async function guarded(checks, url) {
  await checks.check('401 without a token, and with a bad one', () => withoutAToken(url));
  await checks.check("a provider's token, on both requests", () => provider(url));
  await checks.check("a session is its principal's", () => sessionOfAnother(url));
  await demo(checks, url);
}

async function toolbox(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('every protocol version', () => versions(url));
  await checks.check('add', () => add(url));
  await checks.check('ping', () => ping(url));
  await checks.check('reconnect; the old endpoint is dead', () => reconnect(url));
  await checks.check('10 concurrent sessions', () => concurrentSessions(url));
  await checks.check('Streamable HTTP first, then SSE', () => fallback(url));
  await checks.check('POST to the stream is 405', () => postToTheStream(url));
}

async function calculator(checks, url) {
  await toolbox(checks, url);
  await checks.check('listTools', () => listTools(url, 'add'));
}

// As `call`, for tools with several parts of content.
async function texts(connection, name, args) {
  const result = await connection.client.callTool({ name, arguments: args }, undefined, WAIT);
  equal(Boolean(result.isError), false, `${name} failed`);
  return result.content.filter(({ type }) => type === 'text').map(({ text }) => text).join('\n');
}

function holds(text, part) {
  truth(text.includes(part), `${part} is not in ${text}`);
}

const toolsOfEverything = url =>
  connected(url, 1, async connection => {
    const { tools } = await connection.client.listTools(undefined, WAIT);
    truth(tools.some(({ name }) => name === 'get-sum'), 'no get-sum');
    for (const message of ['plain', UNICODE, 'x'.repeat(100 * 1024)]) {
      equal(await connection.call('echo', { message }), `Echo: ${message}`, 'echo');
    }
    equal(await connection.call('get-sum', { a: 2, b: 3 }), 'The sum of 2 and 3 is 5.', 'sum');
  });

const resources = url =>
  connected(url, 1, async ({ client }) => {
    const uri = 'demo://resource/static/document/features.md';
    const listed = (await client.listResources(undefined, WAIT)).resources;
    truth(listed.some(resource => resource.uri === uri), 'no features.md');
    holds((await client.readResource({ uri }, WAIT)).contents[0].text, 'Everything Server');
  });

const prompts = url =>
  connected(url, 1, async ({ client }) => {
    const listed = (await client.listPrompts(undefined, WAIT)).prompts;
    truth(listed.some(({ name }) => name === 'args-prompt'), 'no args-prompt');
    const prompt = await client.getPrompt({ name: 'args-prompt', arguments: { city: 'Rome' } }, WAIT);
    holds(prompt.messages[0].content.text, 'Rome');
  });

const progressOfEverything = url =>
  connected(url, 1, async connection => {
    const args = { duration: 0.2, steps: 4 };
    const request = { name: 'trigger-long-running-operation', arguments: args };
    await connection.client.callTool(request, undefined, { ...WAIT, onprogress() {} });
    equal(connection.progress, [1, 2, 3, 4], 'progress on the wire');
  });

// It logs at a level of its choice, at once and then every 5 s.
const loggingOfEverything = url =>
  connected(url, 2, async (connection, other) => {
    await connection.call('toggle-simulated-logging', {});
    await until('a line of the log', () => connection.logged.length > 0, 15);
    await other.ping();
    equal(other.logged, [], 'lines of another session');
  });

const samplingOfEverything = url => {
  const ask = async connection => {
    connection.client.setRequestHandler(CreateMessageRequestSchema, async ({ params }) => {
      const text = `<${params.messages[0].content.text}>`;
      return { model: 'interop', role: 'assistant', content: { type: 'text', text } };
    });
    const answer = await texts(connection, 'trigger-sampling-request', { prompt: 'why', maxTokens: 7 });
    holds(answer, '<Resource trigger-sampling-request context: why>');
  };
  return connected(url, 1, ask, { sampling: {} });
};

const elicitation = url => {
  const ask = async connection => {
    const content = { name: 'Ann', check: true };
    connection.client.setRequestHandler(ElicitRequestSchema, async () => ({ action: 'accept', content }));
    holds(await texts(connection, 'trigger-elicitation-request', {}), 'Name: Ann');
  };
  return connected(url, 1, ask, { elicitation: { form: {} } });
};

const separateSums = url =>
  connected(url, 5, async (...connections) => {
    const sums = connections.map((connection, n) => connection.call('get-sum', { a: n, b: 1000 }));
    const expected = connections.map((_, n) => `The sum of ${n} and 1000 is ${n + 1000}.`);
    equal(await Promise.all(sums), expected, 'sums');
  });

async function everything(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('tools', () => toolsOfEverything(url));
  await checks.check('resources', () => resources(url));
  await checks.check('prompts', () => prompts(url));
  await checks.check('progress', () => progressOfEverything(url));
  await checks.check('logging', () => loggingOfEverything(url), 30);
  await checks.check('sampling', () => samplingOfEverything(url));
  await checks.check('elicitation', () => elicitation(url));
  await checks.check('ping', () => ping(url));
  await checks.check('5 concurrent sessions', () => separateSums(url), 60);
}

const files = url =>
  connected(url, 1, async connection => {
    const directory = (await texts(connection, 'list_allowed_directories', {})).split('\n').at(-1).trim();
    const path = `${directory}/typescript.txt`;
    for (const content of ['plain', UNICODE.replace('\r\n', '\n'), 'x'.repeat(100 * 1024)]) {
      await texts(connection, 'write_file', { path, content });
      equal(await texts(connection, 'read_text_file', { path }), content, 'what was written');
    }
    const refused = { name: 'read_text_file', arguments: { path: '/etc/hostname' } };
    equal((await connection.client.callTool(refused, undefined, WAIT)).isError, true, 'a file elsewhere');
  });

async function filesystem(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('files', () => files(url));
  await checks.check('ping', () => ping(url));
}

const clocks = url =>
  connected(url, 1, async connection => {
    const asked = { source_timezone: 'UTC', time: '12:00', target_timezone: 'Asia/Tokyo' };
    holds(await texts(connection, 'convert_time', asked), 'T21:00:00+09:00');
    holds(await texts(connection, 'get_current_time', { timezone: 'UTC' }), '+00:00');
  });

async function time(checks, url) {
  await checks.check('initialize', () => initialize(url));
  await checks.check('listTools', () => listTools(url, 'convert_time', 'get_current_time'));
  await checks.check('tools', () => clocks(url));
  await checks.check('ping', () => ping(url));
}

const hold = (checks, url) =>
  connected(url, 2, async (one, two) => {
    const old = one.endpoint;
    console.log('holding');
    const bothEnd = async () => {
      await until('the end of both streams', () => one.faults.length && two.faults.length, 60);
      // An orderly end has no message; a broken connection says `terminated`.
      for (const { faults } of [one, two]) equal(faults[0].event?.message, undefined, 'the end');
    };
    await checks.check('the server ended idle streams cleanly', bothEnd, 61);
    // EventSource comes back by itself after 3 s. The SDK does not repeat the handshake: we do.
    const comesBack = async () => {
      const streams = () => one.requests.filter(({ method, status }) => method === 'GET' && status === 200);
      await until('a second stream', () => streams().length === 2, 30);
      await until('an answered ping', () => one.ping().then(() => true, () => false));
      const params = { protocolVersion: LATEST, capabilities: {}, clientInfo: CLIENT };
      await one.client.request({ method: 'initialize', params }, InitializeResultSchema, WAIT);
      await one.client.notification({ method: 'notifications/initialized' });
      truth((await one.client.listTools(undefined, WAIT)).tools.length > 0, 'no tools');
      truth(one.posts.at(-1).url !== old, 'the endpoint is still the old one');
    };
    await checks.check('EventSource reconnects to the new server', comesBack, 45);
  });

const INSTANCES = 3;
const EACH = 2;
const OPENED_MAX = 60;
const CALLS_AFTERWARDS = 20;

// One session, and what became of its calls until its stream ended.
class Caller {
  calls = 0;

  async run(url) {
    this.connection = new Connection(url);
    try {
      await this.connection.client.connect(this.connection.transport, WAIT);
      // The id of a session begins with its instance.
      this.instance = new URL(this.connection.endpoint).searchParams.get('session_id').split('.')[0];
      while (!this.stopped) {
        // EventSource would open a new session by itself, without `initialize`: a lost stream is the end here.
        const lost = new Promise((_, reject) => {
          this.connection.transport.onerror = fault => reject(fault);
          if (this.connection.faults.length) reject(this.connection.faults[0]);
        });
        equal(await Promise.race([this.connection.call('add', { a: this.calls, b: 1 }), lost]), `${this.calls + 1}`);
        equal(this.connection.posts.at(-1).status, 202, 'status of the post');
        this.calls += 1;
        await new Promise(resolve => setTimeout(resolve, 20));
      }
    } catch (fault) {
      this.fault = String(fault);
    } finally {
      this.ended = true;
      await this.connection.client.close().catch(() => {});
    }
  }
}

async function traffic(checks, url, victim) {
  const callers = [];
  const running = [];
  const at = name => callers.filter(({ instance }) => instance === name);
  const enough = () => {
    const names = [...new Set(callers.map(({ instance }) => instance).filter(Boolean))];
    return names.length === INSTANCES && names.every(name => at(name).length >= EACH);
  };
  const spread = async () => {
    while (!enough() && callers.length < OPENED_MAX) {
      const caller = new Caller();
      callers.push(caller);
      running.push(caller.run(url));
      await until('a session', () => caller.instance || caller.fault, 30);
    }
    truth(enough(), `sessions at ${callers.map(({ instance, fault }) => instance ?? fault)}`);
    await until('a call on each', () => callers.every(({ calls }) => calls > 0), 30);
  };
  await checks.check('sessions at each of three instances', spread, 60);
  const victims = at(victim);
  const others = callers.filter(caller => !victims.includes(caller));
  console.log('ready');

  const victimsFail = async () => {
    await until('the end of its sessions', () => victims.every(({ ended }) => ended), 50);
    truth(victims.every(({ fault }) => fault), 'a session ended without an error');
  };
  const othersGoOn = async () => {
    const before = others.map(({ calls }) => calls);
    const wentOn = ({ ended, calls }, n) => ended || calls >= before[n] + CALLS_AFTERWARDS;
    await until('calls afterwards', () => others.every(wentOn), 50);
    const faults = others.filter(({ ended }) => ended).map(({ instance, fault }) => `${instance}: ${fault}`);
    equal(faults, [], 'errors of other sessions');
  };
  await checks.check('sessions of the killed instance fail', victimsFail, 60);
  await checks.check('sessions of the others have no error', othersGoOn, 60);
  for (const caller of callers) caller.stopped = true;
  await Promise.all(running);

  const newSessions = async () => {
    for (let count = 0; count < 4; count += 1) {
      await connected(url, 1, async connection => {
        await connection.ping();
        truth(!connection.endpoint.includes(`session_id=${victim}.`), 'a session at the killed instance');
      });
    }
  };
  await checks.check('new sessions open at the others', newSessions, 60);
}

const [url, mode, ...rest] = process.argv.slice(2);
const modes = {
  demo, endpoint, guarded, calculator, toolbox, everything, filesystem, time, shared, traffic, hold,
};
if (!url || !(mode in modes) || rest.length !== Number(mode === 'traffic')) {
  console.error(`usage: client.mjs SSE_URL ${Object.keys(modes).join('|')} [NAME]`);
  process.exit(2);
}
const sdk = new URL('./node_modules/@modelcontextprotocol/sdk/package.json', import.meta.url);
const checks = new Checks(`typescript ${JSON.parse(readFileSync(sdk)).version}`);
await modes[mode](checks, url, ...rest);
process.exit(checks.failed ? 1 : 0);
