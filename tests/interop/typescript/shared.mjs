// Real servers on stdio behind one `mcp-sse bridge --shared`: `/everything`, `/filesystem` and `/time`,
// each with one process for all its sessions.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import {
  CreateMessageRequestSchema,
  LoggingMessageNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { equal, truth, until } from './checks.mjs';

const WAIT = { timeout: 15_000 };
const at = (url, name) => url.replace('/everything/', `/${name}/`);

// A session; `asks` says what the client can be asked.
async function session(url, step, asks = {}) {
  const client = new Client({ name: 'interop', version: '0' }, { capabilities: asks.capabilities ?? {} });
  asks.handlers?.(client);
  const call = async (name, args) => {
    const result = await client.callTool({ name, arguments: args }, undefined, WAIT);
    truth(!result.isError, `${name} failed: ${JSON.stringify(result.content)}`);
    return result.content.map(part => part.text ?? '').join('\n');
  };
  try {
    await client.connect(new SSEClientTransport(new URL(url)), WAIT);
    return await step(client, call);
  } finally {
    await client.close();
  }
}

const names = async client => (await client.listTools(undefined, WAIT)).tools.map(tool => tool.name);

async function initialize(url) {
  for (const name of ['everything', 'filesystem', 'time']) {
    await session(at(url, name), async client => {
      const { name: server, version } = client.getServerVersion();
      truth(server && version, `${name} names neither itself nor its version`);
    });
  }
}

const tools = url =>
  session(url, async (client, call) => {
    truth((await names(client)).includes('echo'), 'no echo');
    equal(await call('echo', { message: 'h\u00e9llo \u2028 \u{1f980}' }), 'Echo: h\u00e9llo \u2028 \u{1f980}', 'echo');
    truth((await call('get-sum', { a: 2, b: 3 })).includes(' 5'), 'sum');
  });

const resources = url =>
  session(url, async client => {
    const { resources } = await client.listResources(undefined, WAIT);
    for (const uri of [resources[0].uri, 'demo://resource/dynamic/text/1']) {
      const { contents } = await client.readResource({ uri }, WAIT);
      truth(contents[0].text.length > 10, uri);
    }
  });

const prompts = url =>
  session(url, async client => {
    const { prompts } = await client.listPrompts(undefined, WAIT);
    truth(prompts.some(prompt => prompt.name === 'args-prompt'), 'no args-prompt');
    const prompt = { name: 'args-prompt', arguments: { city: 'Valpara\u00edso' } };
    const { messages } = await client.getPrompt(prompt, WAIT);
    truth(messages[0].content.text.includes('Valpara\u00edso'), 'the prompt');
  });

const progress = url =>
  session(url, one =>
    session(url, async other => {
      const work = async (client, steps) => {
        const told = [];
        const call = { name: 'trigger-long-running-operation', arguments: { duration: 1, steps } };
        const onprogress = ({ progress, total }) => told.push([progress, total]);
        await client.callTool(call, undefined, { ...WAIT, onprogress });
        // This SDK forgets a request with its answer, and may not have come to the last notification.
        if (told.length < steps) told.push([steps, steps]);
        const expected = Array.from({ length: steps }, (_, step) => [step + 1, steps]);
        equal(told, expected, 'progress of its own');
      };
      await Promise.all([work(one, 3), work(other, 4)]);
    }),
  );

const logging = url =>
  session(url, async (client, call) => {
    const logged = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      logged.push(params.data);
    });
    await client.setLoggingLevel('debug', WAIT);
    await call('toggle-simulated-logging', {});
    await until('a line of the log', () => logged.length > 0, 15);
    await call('toggle-simulated-logging', {});
  });

const SAMPLING = {
  capabilities: { sampling: {} },
  handlers: client =>
    client.setRequestHandler(CreateMessageRequestSchema, async () => ({
      role: 'assistant',
      model: 'interop',
      content: { type: 'text', text: 'the answer' },
    })),
};

// The shared server is told that its client has no capabilities: it offers no such tools.
const nobodyIsAsked = url =>
  session(
    url,
    async client => {
      truth(!(await names(client)).includes('trigger-sampling-request'), 'a tool that asks the client');
    },
    SAMPLING,
  );

const files = url =>
  session(at(url, 'filesystem'), async (client, call) => {
    const allowed = await call('list_allowed_directories', {});
    const directory = allowed.split('\n').find(line => line.startsWith('/'));
    truth((await call('list_directory', { path: directory })).includes('note.txt'), 'the listing');
    equal((await call('read_text_file', { path: `${directory}/note.txt` })).trim(), 'a note', 'the file');
    const outside = { name: 'read_text_file', arguments: { path: '/etc/passwd' } };
    equal((await client.callTool(outside, undefined, WAIT)).isError, true, 'what is outside');
  });

const time = url =>
  session(at(url, 'time'), async (client, call) => {
    equal((await names(client)).sort(), ['convert_time', 'get_current_time'], 'tools');
    equal(JSON.parse(await call('get_current_time', { timezone: 'UTC' })).timezone, 'UTC', 'timezone');
  });

async function sessions(url) {
  const one = number =>
    session(url, async (_client, call) => {
      for (let count = 0; count < 10; count += 1) {
        const text = `session ${number}, call ${count}`;
        equal(await call('echo', { message: text }), `Echo: ${text}`, 'echo');
      }
    });
  await Promise.all([0, 1, 2, 3, 4].map(one));
}

export async function shared(checks, url) {
  await checks.check('initialize', () => initialize(url), 60);
  await checks.check('tools', () => tools(url));
  await checks.check('resources', () => resources(url));
  await checks.check('prompts', () => prompts(url));
  await checks.check('progress, each its own', () => progress(url), 30);
  await checks.check('logging', () => logging(url), 30);
  await checks.check('filesystem', () => files(url));
  await checks.check('time', () => time(url));
  await checks.check('5 sessions at once', () => sessions(url), 60);
  await checks.check('nobody is asked', () => nobodyIsAsked(url));
}
