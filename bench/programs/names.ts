// Loaded first into a process of the service (node --import 'names.js?file=…'). Resolves the names in that JSON file to the
// addresses in it at that moment, so that a server's name can move while the process runs.
import dns from 'node:dns';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';

const file = new URL(import.meta.url).searchParams.get('file') ?? '';
const system = {
  lookup: dns.lookup as (name: string, options: dns.LookupOptions, answer: Callback) => void,
  promise: dns.promises.lookup,
};

function addressOf(name: string): string | undefined {
  return (JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>)[name];
}

type Callback = (error: null, address: string | dns.LookupAddress[], family?: number) => void;

function lookup(name: string, options: dns.LookupOptions, answer: Callback): void {
  const address = addressOf(name);
  if (address === undefined) {
    system.lookup(name, options, answer);
    return;
  }
  const family = isIP(address);
  process.nextTick(() => {
    if (options.all) answer(null, [{ address, family }]);
    else answer(null, address, family);
  });
}

async function lookupAll(name: string): Promise<dns.LookupAddress[]> {
  const address = addressOf(name);
  return address === undefined ? system.promise(name, { all: true }) : [{ address, family: isIP(address) }];
}

// Node's own sockets take the function from the module at each connection.
Object.assign(dns, { lookup });
Object.assign(dns.promises, { lookup: lookupAll });
