// A copy of the source tree, for a test that changes or builds it: otherwise the test could destroy files under version control.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, cp, mkdir, mkdtemp, rm, symlink, writeFile, chmod } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { blocksOf, commandsIn, ROOT, shellBlocksOf, type Block } from './docs.js';
import { build } from './service-process.js';

/** The files that a build, the scripts of package.json, deploy/ and the documentation need. */
const COPIED = [
  'package.json',
  'tsconfig.json',
  'tsconfig.build.json',
  '.prettierrc.json',
  'eslint.config.js',
  'vitest.config.ts',
  'src',
  'plugins',
  'routes',
  'db',
  'deploy',
  'docs',
  'scripts',
  'bench',
  'tests',
  // A finished build need not be built again.
  'dist',
];

export interface SourceCopy {
  readonly folder: string;
  remove(): Promise<void>;
}

/** Copies the source and its build; the installed packages are shared. */
export async function copySource(): Promise<SourceCopy> {
  await build();
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-source-'));
  // mkdtemp creates it with mode 0700, and under root PostgreSQL runs as another user.
  await chmod(folder, 0o755);
  // The times are kept. Otherwise every file would be newer than its build.
  const filter = (source: string): boolean =>
    !/^deploy\/(?!example).*\.env$|^deploy\/secrets|^bench\/results|^dist\/(?!src|plugins|routes|db|\.tsbuildinfo)./.test(
      path.relative(ROOT, source),
    );
  for (const name of COPIED)
    await cp(path.join(ROOT, name), path.join(folder, name), { recursive: true, filter, preserveTimestamps: true });
  await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Copies every file that is under version control, or would be; the installed packages are shared. */
export async function copyEverything(): Promise<SourceCopy> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-copy-'));
  await chmod(folder, 0o755);
  const { stdout } = await promisify(execFile)(
    'git',
    ['ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    {
      cwd: ROOT,
    },
  );
  for (const name of stdout.split('\0').filter((each) => each !== '' && existsSync(path.join(ROOT, each))))
    await cp(path.join(ROOT, name), path.join(folder, name), { preserveTimestamps: true });
  await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

const PAGE = 'docs/inside/adding-a-resource.md';

/**
 * The commands of the page that come before its last one, which runs the tests.
 *
 * @throws Error if the last one does not
 */
export function followUps(): string[] {
  const commands = shellBlocksOf(PAGE).flatMap(commandsIn);
  if (commands.at(-1) !== 'npm test') throw new Error(`${PAGE} does not end with the tests`);
  return commands.slice(0, -1);
}

/**
 * Applies docs/inside/adding-a-resource.md to a copy. If a block's introduction names a file after "Its line in" or "One line in",
 * the block is a line for that file's list. Any other block is a whole file.
 *
 * @returns the files that were made or changed
 * @throws Error if the page names no file, or a list that does not exist
 */
export async function addResource(folder: string): Promise<string[]> {
  const touched: string[] = [];
  for (const block of blocksOf(PAGE).filter(({ language }) => language !== 'sh')) {
    const file = /`([\w./-]+\.(?:ts|md))`/.exec(block.intro)?.[1];
    if (file === undefined) throw new Error(`${PAGE} names no file for:\n${block.text}`);
    const target = path.join(folder, file);
    if (file.endsWith('.md')) {
      await writeFile(target, withRows(await readFile(target, 'utf8'), block));
    } else if (/(?:Its|One) line\b/.test(block.intro)) {
      await writeFile(target, withLine(await readFile(target, 'utf8'), block));
    } else {
      await mkdir(path.dirname(target), { recursive: true });
      await writeFile(target, `${block.text}\n`, { flag: 'wx' });
    }
    touched.push(file);
  }
  await sealMigrations(folder);
  return touched;
}

/** Records the content of the copy's new migrations. */
export async function sealMigrations(folder: string): Promise<void> {
  await promisify(execFile)('npm', ['run', '--silent', 'migrations:seal'], { cwd: folder });
}

/** Adds rows to the end of the table under the heading that the introduction quotes. */
function withRows(source: string, block: Block): string {
  const [, heading = ''] = /"([^"]+)"/.exec(block.intro) ?? [];
  const lines = source.split('\n');
  const start = lines.indexOf(`## ${heading}`);
  const table = lines.findIndex((line, index) => index > start && line.startsWith('|'));
  const end = lines.findIndex((line, index) => index > table && !line.startsWith('|'));
  if (start < 0 || table < 0) throw new Error(`there is no table under ${JSON.stringify(heading)} for:\n${block.text}`);
  lines.splice(end < 0 ? lines.length : end, 0, ...block.text.split('\n'));
  return lines.join('\n');
}

/** Inserts the import below the others, and the line after the last one of its kind: with its indentation, in the named list. */
function withLine(source: string, block: Block): string {
  const added = block.text.split('\n').filter((line) => line !== '');
  const imports = added.filter((line) => line.startsWith('import '));
  const [entry = '', ...more] = added.filter((line) => !line.startsWith('import '));
  if (entry === '' || more.length > 0) throw new Error(`not one line:\n${block.text}`);
  const lines = source.split('\n');

  const list = /`(\w+)` \(`/.exec(block.intro)?.[1];
  const start =
    list === undefined
      ? 0
      : lines.findIndex((line) => new RegExp(`^(?:export )?(?:const|interface) ${list}\\b`).test(line));
  if (start < 0) throw new Error(`there is no ${list ?? ''} for:\n${block.text}`);
  const end =
    list === undefined ? lines.length : lines.findIndex((line, index) => index > start && line.startsWith('}'));
  // Without a list's name: next to lines of its kind, such as `await api.register(`.
  const kind = list === undefined ? (/^\s*[\w. ]+\(/.exec(entry)?.[0] ?? entry) : undefined;
  const last = kind === undefined ? end - 1 : lines.findLastIndex((line) => line.startsWith(kind));
  if (last < 0) throw new Error(`there is no list for:\n${block.text}`);
  const key = block.intro.includes('instead of the former one') ? /^\s*\w+:/.exec(entry)?.[0] : undefined;
  const former = key === undefined ? -1 : lines.findIndex((line, index) => index > start && line.startsWith(key));
  if (key !== undefined && (former < 0 || former > end)) throw new Error(`there is no former line for:\n${block.text}`);
  if (former < 0) lines.splice(last + 1, 0, entry);
  else lines.splice(former, 1, entry);
  const lastImport = lines.findLastIndex((line) => /^(?:import |\} from )/.test(line));
  lines.splice(lastImport + 1, 0, ...imports);
  return lines.join('\n');
}
