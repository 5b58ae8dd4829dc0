// One line per check: `ok   who: name` or `FAIL who: name: why`. No check waits for ever.

import { isDeepStrictEqual } from 'node:util';

export class Checks {
  failed = 0;

  constructor(who) {
    this.who = who;
  }

  async check(name, step, seconds = 20) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not within ${seconds} s`)), seconds * 1000);
    });
    try {
      await Promise.race([step(), late]);
      console.log(`ok   ${this.who}: ${name}`);
    } catch (fault) {
      this.failed += 1;
      console.error(fault);
      console.log(`FAIL ${this.who}: ${name}: ${String(fault).replace(/\s+/g, ' ').slice(0, 300)}`);
    } finally {
      clearTimeout(timer);
    }
  }
}

export function equal(got, expected, what = 'value') {
  if (!isDeepStrictEqual(got, expected)) {
    throw new Error(`${what}: got ${short(got)}, expected ${short(expected)}`);
  }
}

export function truth(holds, what) {
  if (!holds) throw new Error(what);
}

function short(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 120 ? text : `${text.slice(0, 100)}... (${text.length} characters)`;
}

export async function until(what, condition, seconds = 5) {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end) {
    if (await condition()) return;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`not within ${seconds} s: ${what}`);
}
