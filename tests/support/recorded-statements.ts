// The statements that a build sends, each with one set of its parameters: recorded from a running service, and read by the test
// that runs the former build's statements against this build's schema.
import { readFile } from 'node:fs/promises';
import pg from 'pg';

export interface RecordedStatement {
  readonly text: string;
  /** As PostgreSQL reads them. */
  readonly values: readonly (string | null)[];
}

/** The statements of one role, and the schema that they were written for. */
export interface RecordedPart {
  /** The newest migration that the recorded build knew. */
  readonly schema: string;
  readonly statements: readonly RecordedStatement[];
}

export interface RecordedBuild {
  /** As the runtime role in a tenant's database. */
  readonly tenant: RecordedPart;
  /** As the service's role in the registry. */
  readonly registry: RecordedPart;
}

/** Written by `npm run statements:record`. */
export const FORMER_BUILD = 'tests/integration/fixtures/former-build.json';

export async function readFormerBuild(): Promise<RecordedBuild> {
  return JSON.parse(await readFile(FORMER_BUILD, 'utf8')) as RecordedBuild;
}

/** The parts of pg's connection that send statements. pg's published types leave them out. */
interface Sender {
  readonly startup: (this: Sender, settings: { readonly user: string }) => void;
  readonly parse: (this: Sender, query: { readonly name?: string; readonly text: string }) => void;
  readonly bind: (
    this: Sender,
    settings: { readonly statement?: string; readonly values?: readonly unknown[] },
  ) => void;
  readonly query: (this: Sender, text: string) => void;
}

const { Connection, utils } = pg as unknown as {
  readonly Connection: { readonly prototype: Sender };
  readonly utils: { prepareValue(value: unknown): unknown };
};

/** Statements that depend on the schema. The others begin and end transactions, set parameters, or listen. */
const OF_SCHEMA = /^\s*(?:select|insert|update|delete|with|merge)\b/i;

export interface StatementRecorder {
  /** The distinct statements of the connections that entered as such a user, in the order of their first use. */
  sentBy(isUser: (user: string) => boolean): RecordedStatement[];
  stop(): void;
}

/** Records what the connections of this process send, from now until `stop`. Connections that are open already are left out. */
export function recordStatements(): StatementRecorder {
  const sent: (RecordedStatement & { readonly user: string })[] = [];
  const users = new WeakMap<Sender, string>();
  const parsed = new WeakMap<Sender, Map<string, string>>();
  const { prototype } = Connection;
  const { startup, parse, bind, query } = prototype;

  function keep(connection: Sender, text: string, values: readonly unknown[]): void {
    const user = users.get(connection);
    if (user !== undefined && OF_SCHEMA.test(text)) sent.push({ user, text, values: values.map(written) });
  }

  Object.assign(prototype, {
    startup(settings) {
      users.set(this, settings.user);
      startup.call(this, settings);
    },
    parse(prepared) {
      const texts = parsed.get(this) ?? new Map<string, string>();
      parsed.set(this, texts.set(prepared.name ?? '', prepared.text));
      parse.call(this, prepared);
    },
    bind(settings) {
      keep(this, parsed.get(this)?.get(settings.statement ?? '') ?? '', settings.values ?? []);
      bind.call(this, settings);
    },
    query(text) {
      keep(this, text, []);
      query.call(this, text);
    },
  } satisfies Sender);
  return {
    sentBy: (isUser) => {
      const first = new Map<string, RecordedStatement>();
      for (const { user, text, values } of sent)
        if (isUser(user) && !first.has(text)) first.set(text, { text, values });
      return [...first.values()];
    },
    stop: () => {
      Object.assign(prototype, { startup, parse, bind, query });
    },
  };
}

/** A parameter as PostgreSQL reads it. Password hashes are replaced: they are long, and any text stands for them. */
function written(value: unknown): string | null {
  const text = utils.prepareValue(value);
  if (text === null || text === undefined) return null;
  if (Buffer.isBuffer(text)) return `\\x${text.toString('hex')}`;
  return (text as string).replace(/\$argon2id\$[^"]*/g, 'a hash');
}
