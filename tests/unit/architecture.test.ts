// Which room may import which, and what every file must keep to. Each rule has a made-up offence, so that a rule that finds
// nothing is noticed.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
const FOLDERS = ['src', 'plugins', 'routes', 'db'];

/** The program, and the files beside it that it imports or that import it. */
const ALL_FOLDERS = [...FOLDERS, 'bench', 'tests'];

interface SourceFile {
  /** From the root, with slashes. */
  readonly path: string;
  readonly text: string;
  /** Its imports: files as paths from the root, packages by name. Types count, because they couple files as well. */
  readonly imports: readonly string[];
}

function sourceFile(filePath: string, text: string): SourceFile {
  const specifiers = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);
  const imports = specifiers.map((specifier) =>
    specifier.startsWith('.')
      ? path.posix.join(path.posix.dirname(filePath), specifier).replace(/\.js$/, '.ts')
      : specifier,
  );
  return { path: filePath, text, imports };
}

const everything = ALL_FOLDERS.flatMap((folder) =>
  readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${folder}/${name.replaceAll(path.sep, '/')}`),
).map((file) => sourceFile(file, readFileSync(path.join(ROOT, file), 'utf8')));

/** The program. */
const files = everything.filter(({ path: file }) => FOLDERS.some((folder) => file.startsWith(`${folder}/`)));

interface Rule {
  readonly promise: string;
  /** Descriptions of what a file does against the rule, each with the file's name. */
  readonly offences: (file: SourceFile) => readonly string[];
  /** Files that break the rule, and the expected descriptions. */
  readonly madeUp: readonly (readonly [file: string, text: string, offence: string])[];
}

/** A rule about imports: files that match `who` import nothing that matches `what`. */
function noImport(
  promise: string,
  who: (file: string) => boolean,
  what: (target: string, file: string) => boolean,
  madeUp: readonly (readonly [file: string, target: string])[],
): Rule {
  return {
    promise,
    offences: ({ path: file, imports }) =>
      who(file) ? imports.filter((target) => what(target, file)).map((target) => `${file} imports ${target}`) : [],
    madeUp: madeUp.map(([file, target]) => {
      const inside = [...ALL_FOLDERS, 'scripts'].some((folder) => target.startsWith(`${folder}/`));
      const specifier = inside ? path.posix.relative(path.posix.dirname(file), target).replace(/\.ts$/, '.js') : target;
      const from = inside && !specifier.startsWith('.') ? `./${specifier}` : specifier;
      return [file, `import type { X } from '${from}';`, `${file} imports ${target}`];
    }),
  };
}

const within =
  (...prefixes: string[]) =>
  (file: string): boolean =>
    prefixes.some((prefix) => file.startsWith(prefix));
const isPackage = (target: string, ...names: string[]): boolean =>
  names.some((name) => target === name || target.startsWith(`${name}/`));
const isFile = within(...ALL_FOLDERS.map((folder) => `${folder}/`), '..', 'scripts/');

/** The rooms of each floor, from the bottom. An import goes to a lower floor only, not up and not to a room beside it. */
const floors: readonly (readonly string[])[] = [
  ['src/lib/'],
  ['db/driver/'],
  ['db/shared/'],
  ['db/registry/', 'db/tenant/'],
  ['db/server/'],
  ['src/errors.ts'],
  ['src/secrets/', 'src/jobs/', 'src/embedded/'],
  ['src/replicas/', 'src/audit/', 'src/observability/'],
  ['src/http/'],
  ['src/tenants/'],
  ['src/connections/'],
  ['src/clusters/'],
  ['src/auth/', 'src/operations/'],
  ['src/rollouts/', 'src/status/', 'src/fleet-statements/'],
  ['src/doctor/'],
  ['src/config/'],
  ['src/engine/'],
  ['src/boot/'],
  ['plugins/', 'routes/'],
  ['src/app.ts'],
  ['src/server.ts'],
  ['src/cli/'],
  ['src/cli.ts'],
];

/** The only command that runs the server. */
const SERVE = 'src/cli/processes/serve.ts';

const floorOf = (file: string): number => floors.findIndex((rooms) => within(...rooms)(file));
const roomOf = (file: string): string | undefined => floors.flat().find((room) => file.startsWith(room));

/** Whether an import goes up, or to another room of the same floor. */
function goesUp(target: string, file: string): boolean {
  if (roomOf(target) === roomOf(file)) return false;
  return floorOf(target) >= floorOf(file);
}

const MOST_LINES = 300;
const MOST_FILES = 24;

/** The factory with its connections, its pool and its lane, the classes of the driver's errors, and LISTEN, which needs a connection of its own. */
const PG_IMPORTERS = [
  'db/driver/client.ts',
  'db/driver/database-fault.ts',
  'db/driver/cancel.ts',
  'db/driver/channel.ts',
  'db/driver/connection.ts',
  'db/driver/pool/pool.ts',
  'db/driver/pool/pooled-client.ts',
  'db/driver/pool/opening.ts',
  'db/driver/lane/lane-keeper.ts',
  'db/driver/pool/held-connection.ts',
  'db/driver/query.ts',
  'db/driver/lane/lane.ts',
];

const rules: readonly Rule[] = [
  noImport(
    'a room imports only rooms below it',
    () => true,
    (target, file) => isFile(target) && floorOf(target) !== -1 && goesUp(target, file),
    [
      ['db/driver/client.ts', 'src/errors.ts'],
      ['db/driver/client.ts', 'db/shared/ids.ts'],
      ['db/registry/registry-schema.ts', 'db/tenant/tenant-schema.ts'],
      ['db/tenant/user-queries.ts', 'routes/shapes/lists.ts'],
      ['src/auth/tokens.ts', 'plugins/caller/authentication.ts'],
      ['src/auth/session-rules.ts', 'src/operations/remove/removal.ts'],
      ['src/connections/tenant-pools.ts', 'src/clusters/provisioners.ts'],
      ['src/replicas/fresh-cache.ts', 'src/engine/index.ts'],
      ['src/config/read-settings.ts', 'src/boot/index.ts'],
      ['src/engine/index.ts', 'plugins/http/engine.ts'],
      ['plugins/http/error-answers.ts', 'src/app.ts'],
      ['routes/tenant/users.ts', 'src/app.ts'],
      ['src/app.ts', 'src/server.ts'],
      ['src/boot/index.ts', 'src/cli/migrate.ts'],
    ],
  ),
  noImport(
    'only the engine, and what runs it, constructs: cli imports engine and boot, and never the app',
    within('src/cli/', 'src/cli.ts'),
    (target, file) =>
      within('src/app.ts', 'plugins/', 'routes/')(target) || (target === 'src/server.ts' && file !== SERVE),
    [
      ['src/cli/migrate.ts', 'src/app.ts'],
      [SERVE, 'src/app.ts'],
      ['src/cli/migrate.ts', 'src/server.ts'],
      ['src/cli.ts', 'src/server.ts'],
      ['src/cli/tenantry.ts', 'routes/shapes/fields.ts'],
    ],
  ),
  noImport(
    'routes import no sibling: they share by shapes',
    (file) => within('routes/')(file) && file !== 'routes/index.ts',
    (target, file) => within('routes/')(target) && !within('routes/shapes/')(target) && target !== file,
    [['routes/tenant/users.ts', 'routes/public/sessions.ts']],
  ),
  {
    promise: `no file has more than ${MOST_LINES} lines`,
    offences: ({ path: file, text }) => {
      const lines = text.split('\n').length - 1;
      return lines > MOST_LINES ? [`${file} has ${lines} lines`] : [];
    },
    madeUp: [['src/new.ts', 'x;\n'.repeat(MOST_LINES + 1), `src/new.ts has ${MOST_LINES + 1} lines`]],
  },
  noImport(
    'nothing in the program imports what is not the program: tests, scripts, files that are not there',
    () => true,
    (target) => isFile(target) && (floorOf(target) === -1 || !existsSync(path.join(ROOT, target))),
    [
      ['src/app.ts', 'tests/support/app.ts'],
      ['routes/tenant/users.ts', 'routes/no-such-file.ts'],
    ],
  ),
  noImport('plugins never import plugins: they declare dependencies', within('plugins/'), within('plugins/'), [
    ['plugins/caller/authorization.ts', 'plugins/caller/authentication.ts'],
  ]),
  noImport('routes never import plugins: they use decorators', within('routes/'), within('plugins/'), [
    ['routes/tenant/users.ts', 'plugins/caller/tenant-pool.ts'],
  ]),
  noImport('plugins never import routes', within('plugins/'), within('routes/'), [
    ['plugins/http/openapi.ts', 'routes/shapes/fields.ts'],
  ]),
  noImport(
    'only the floor of db/ knows pg: factory, pool, lane, channel and errors',
    (file) => !PG_IMPORTERS.includes(file),
    (target) => isPackage(target, 'pg', 'pg-pool', 'pg-protocol', 'pg-types'),
    [
      ['db/tenant/user-queries.ts', 'pg'],
      ['src/connections/tenant-pools.ts', 'pg-pool'],
      ['plugins/http/new.ts', 'pg/lib/client.js'],
    ],
  ),
  noImport(
    'only the store of src/replicas knows ioredis, and only plugins/http/redis.ts @fastify/redis: all others ask the store, which has a deadline',
    (file) => !['src/replicas/shared-store.ts', 'src/replicas/redis-client.ts', 'plugins/http/redis.ts'].includes(file),
    (target) => isPackage(target, 'ioredis', '@fastify/redis'),
    [
      ['src/auth/throttle.ts', 'ioredis'],
      ['plugins/http/rate-limit.ts', '@fastify/redis'],
    ],
  ),
  noImport(
    'only src/observability/metrics.ts knows prom-client: rooms keep plain numbers, or count with instruments',
    (file) => file !== 'src/observability/metrics.ts',
    (target) => isPackage(target, 'prom-client'),
    [['src/auth/passwords.ts', 'prom-client']],
  ),
  noImport(
    'only the app, its plugins and routes, and what they share know Fastify and HTTP',
    (file) => !within('plugins/', 'routes/', 'src/app.ts', 'src/server.ts', 'src/http/')(file),
    (target) =>
      target.startsWith('fastify') ||
      target.startsWith('@fastify/') ||
      isPackage(target, 'node:http', 'node:https', 'http', 'https'),
    [
      ['src/auth/tokens.ts', '@fastify/jwt'],
      ['src/connections/tenant-pools.ts', 'fastify'],
      ['src/replicas/fresh-cache.ts', 'fastify-plugin'],
      ['db/driver/client.ts', 'node:http'],
    ],
  ),
  noImport(
    'nobody takes process from a module, where the next rule would not see it',
    () => true,
    (target) => isPackage(target, 'node:process', 'process'),
    [['src/observability/logger.ts', 'node:process']],
  ),
  noImport(
    'only src/operations/demolish.ts can drop a database or a role',
    (file) => file !== 'src/operations/demolish.ts',
    (target) => target === 'db/server/demolition.ts',
    [
      ['src/operations/remove/removal.ts', 'db/server/demolition.ts'],
      ['src/cli/migrate.ts', 'db/server/demolition.ts'],
      ['db/server/server-admin.ts', 'db/server/demolition.ts'],
    ],
  ),
  noImport(
    'src/lib is general tools: it imports nothing of ours',
    within('src/lib/'),
    (target) => isFile(target) && !within('src/lib/')(target),
    [
      ['src/lib/command-line.ts', 'src/errors.ts'],
      ['src/lib/command-line.ts', 'db/driver/client.ts'],
    ],
  ),
  {
    promise: 'only db/server/demolition.ts has SQL that drops a database or a role',
    offences: ({ path: file, text }) =>
      file !== 'db/server/demolition.ts' &&
      /\bdrop\s+(database|role|user|owned\s+by\s+\S+\s+cascade)\b/i.test(withoutComments(text))
        ? [`${file} drops a database or a role`]
        : [],
    madeUp: [
      ['src/new.ts', 'await sql`drop database ${name}`;', 'src/new.ts drops a database or a role'],
      ['db/new.ts', "const text = 'DROP  ROLE if exists x';", 'db/new.ts drops a database or a role'],
    ],
  },
  {
    promise: 'every client of pg has the settings of clientConfig, keepalives among them',
    offences: ({ path: file, text }) => {
      const made =
        /new pg\.(Client|Pool)\(/.test(text) &&
        !/new pg\.(Client|Pool)\(\{\s*\.\.\.(clientConfig\(|(this\.#)?config\b)/.test(text);
      const pooled = file !== 'db/driver/client.ts' && text.includes('new ConnectionPool(');
      return made || pooled ? [`${file} connects with settings of its own`] : [];
    },
    madeUp: [
      ['db/new.ts', 'const client = new pg.Client({ host, port });', 'db/new.ts connects with settings of its own'],
      ['src/new.ts', 'const pool = new ConnectionPool({ host });', 'src/new.ts connects with settings of its own'],
    ],
  },
  {
    promise: 'only src/config/process-environment.ts reads process.env',
    offences: (file) => (file.path === 'src/config/process-environment.ts' ? [] : environmentReads(file)),
    madeUp: [
      ['src/app.ts', 'const home = process.env.HOME;', 'src/app.ts reads the environment in line 1'],
      ['src/app.ts', "\nconst home = process['env']['HOME'];", 'src/app.ts reads the environment in line 2'],
      ['src/app.ts', 'const { env } = process;', 'src/app.ts reads the environment in line 1'],
      ['src/app.ts', 'const home = globalThis.process.env.HOME;', 'src/app.ts reads the environment in line 1'],
    ],
  },
  {
    promise: 'a migration outside a transaction drops each index before it creates it, so that it can run again',
    offences: ({ path: file, text }) =>
      /^export const transaction = false;/m.test(text) ? unrepeatable(withoutComments(text), file) : [],
    madeUp: [
      ['create index concurrently a on t (b)', 'creates the index a, and does not drop it before'],
      [
        'create unique index concurrently a on t (b)`; sql`drop index concurrently if exists a',
        'creates the index a, and does not drop it before',
      ],
      [
        'drop index concurrently if exists a`; sql`create index concurrently if not exists a on t (b)',
        'keeps an index that may not be valid',
      ],
      ['reindex index concurrently a', 'leaves an index of another name when it is killed'],
    ].map(([text = '', offence = '']) => [
      'db/new.ts',
      `// New.\nexport const transaction = false;\nsql\`${text}\`;`,
      `db/new.ts ${offence}`,
    ]),
  },
  {
    promise: 'every file starts with its one reason to exist; numbered migrations have it in their name',
    offences: ({ path: file, text }) =>
      /^(?:#!.*\n)?\/\/ \S/.test(text) || /\/migrations\/\d{4}_[a-z0-9_-]+\.ts$/.test(file)
        ? []
        : [`${file} starts without a comment`],
    madeUp: [
      ['src/new.ts', "import pg from 'pg';", 'src/new.ts starts without a comment'],
      ['db/registry/migrations/index.ts', '\n// Too late.', 'db/registry/migrations/index.ts starts without a comment'],
      ['src/new.ts', '//', 'src/new.ts starts without a comment'],
    ],
  },
];

/** Rules that also hold for bench and tests. */
const rulesOfAll: readonly Rule[] = [
  noImport(
    'nothing imports scripts: what a script shares is in src or tests/support',
    () => true,
    within('scripts/'),
    [...FOLDERS, 'bench', 'tests/unit', 'tests/support'].map((folder) => [`${folder}/new.ts`, 'scripts/fuzz.ts']),
  ),
  noImport('tests/support imports no test file', within('tests/support/'), (target) => target.endsWith('.test.ts'), [
    ['tests/support/new.ts', 'tests/unit/bench.test.ts'],
  ]),
];

/**
 * Circles of files that import each other; types count. A file that imports itself is one, too.
 *
 * @returns the files of each circle in alphabetical order, as `a.ts, b.ts`
 */
function circlesIn(all: readonly SourceFile[]): string[] {
  const importsOf = new Map(all.map(({ path: file, imports }) => [file, imports]));
  const reachableFrom = (file: string): ReadonlySet<string> => {
    const reached = new Set<string>();
    const waiting = [...(importsOf.get(file) ?? [])];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      if (reached.has(next)) continue;
      reached.add(next);
      waiting.push(...(importsOf.get(next) ?? []));
    }
    return reached;
  };
  const reachable = new Map(all.map(({ path: file }) => [file, reachableFrom(file)]));
  const circles = all
    .filter(({ path: file }) => reachable.get(file)?.has(file))
    .map(({ path: file }) =>
      [...(reachable.get(file) ?? [])]
        .filter((other) => reachable.get(other)?.has(file))
        .sort()
        .join(', '),
    );
  return [...new Set(circles)];
}

function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[^]*?\*\/|\/\/.*/g, '');
}

/** What keeps a migration from running again after it was killed. */
function unrepeatable(text: string, file: string): string[] {
  const created = /\bcreate\s+(?:unique\s+)?index\s+concurrently\s+(if\s+not\s+exists\s+)?([\w.$"{}]+)/gi;
  const offences = [...text.matchAll(created)].flatMap(([, keeps, name = ''], index, all) => {
    const before = text.slice(0, all[index]?.index);
    const dropped = [...before.matchAll(/\bdrop\s+index\s+concurrently\s+if\s+exists\s+([\w.$"{}]+)/gi)];
    if (keeps !== undefined) return [`${file} keeps an index that may not be valid`];
    if (dropped.some(([, other]) => other === name)) return [];
    return [`${file} creates the index ${name}, and does not drop it before`];
  });
  if (/\breindex\b[^;`]*\bconcurrently\b/i.test(text))
    offences.push(`${file} leaves an index of another name when it is killed`);
  return offences;
}

/** Uses of `process` through which the environment can be reached: all but plain access to another property of it. */
function environmentReads({ path: file, text }: SourceFile): string[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const reads: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node) && node.text === 'process') {
      const { parent } = node;
      const harmless =
        ts.isPropertyAccessExpression(parent) && parent.expression === node && parent.name.text !== 'env';
      const line = source.getLineAndCharacterOfPosition(node.getStart()).line + 1;
      if (!harmless) reads.push(`${file} reads the environment in line ${line}`);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return reads;
}

describe('the program', () => {
  it('is read completely', () => {
    const seen = new Set(files.map(({ path: file }) => file));
    expect(seen).toContain('src/server.ts');
    const seenBeside = new Set(everything.map(({ path: file }) => file));
    for (const file of ['bench/flags.ts', 'tests/support/topology.ts', 'tests/unit/architecture.test.ts'])
      expect(seenBeside).toContain(file);
    expect(seen).toContain('db/tenant/migrations/index.ts');
    expect(files.length).toBeGreaterThan(60);
    expect(files.flatMap(({ imports }) => imports).length).toBeGreaterThan(250);
  });

  it.each(rules)('keeps to: $promise', ({ offences }) => {
    expect(files.flatMap(offences)).toEqual([]);
  });

  it.each(rulesOfAll)('keeps to, in bench and tests too: $promise', ({ offences }) => {
    expect(everything.flatMap(offences)).toEqual([]);
  });

  it('has every file in a room, and no folder with more than 24 files', () => {
    expect(files.filter(({ path: file }) => roomOf(file) === undefined).map(({ path: file }) => file)).toEqual([]);
    // Migrations only become more.
    const folders = files
      .map(({ path: file }) => path.posix.dirname(file))
      .filter((folder) => path.posix.basename(folder) !== 'migrations');
    for (const folder of new Set(folders))
      expect(folders.filter((other) => other === folder).length, folder).toBeLessThanOrEqual(MOST_FILES);
  });

  it('has unique file names', () => {
    const names = files
      .map(({ path: file }) => path.posix.basename(file))
      .filter((name) => name !== 'index.ts' && !/^\d{4}_/.test(name));
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });

  it('has no import circle, in bench and tests too, and not by types either', () => {
    expect(circlesIn(everything)).toEqual([]);
  });
});

describe('an offence is reported, with the file and the import, against:', () => {
  it.each([...rules, ...rulesOfAll])('$promise', ({ offences, madeUp }) => {
    for (const [file, text, offence] of madeUp) expect(offences(sourceFile(file, text))).toEqual([offence]);
  });

  it('circles of imports, each circle separately', () => {
    const made = (name: string, ...imports: string[]): SourceFile =>
      sourceFile(`bench/${name}.ts`, imports.map((each) => `import type { X } from './${each}.js';`).join('\n'));
    expect(circlesIn([made('a', 'b'), made('b', 'c'), made('c')])).toEqual([]);
    expect(circlesIn([made('a', 'b'), made('b', 'a', 'c'), made('c', 'd'), made('d', 'e'), made('e', 'c')])).toEqual([
      'bench/a.ts, bench/b.ts',
      'bench/c.ts, bench/d.ts, bench/e.ts',
    ]);
    expect(circlesIn([made('a', 'a'), made('b', 'a')])).toEqual(['bench/a.ts']);
  });

  it('the rules, however an import is written', () => {
    const target = 'plugins/b.ts';
    const spellings = [
      "import { b } from './b.js';",
      "import type { B } from './b.js';",
      "import './b.js';",
      "export * from './b.js';",
      "export type { B } from './b.js';",
      "const b = await import('./b.js');",
      "type B = import('./b.js').B;",
      "import {\n  b,\n} from '../plugins/b.js';",
    ];
    for (const text of spellings) expect(sourceFile('plugins/a.ts', text).imports, text).toEqual([target]);
    expect(
      sourceFile('plugins/a.ts', "// import { b } from './b.js';\nconst text = \"import './b.js'\";").imports,
    ).toEqual([]);
  });
});
