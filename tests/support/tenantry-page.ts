// docs/reference/tenantry.md: the help of every command, and what it writes in a story that begins with an empty registry. What
// differs between two runs, such as ids and times, is replaced by an example of the same width.
import path from 'node:path';
import { alone, groups, processes } from '../../src/cli/tenantry.js';
import { exitMeanings } from '../../src/cli/terminal/exit-codes.js';
import { ROOT } from './docs.js';
import { tenantry } from './tenantry.js';

export const TENANTRY_PAGE = path.join(ROOT, 'docs/reference/tenantry.md');

/** A run of the story. */
export interface Scene {
  /** What is typed after `tenantry`, with its quotes. */
  readonly line: string;
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a line as it is typed. Its only quotes are double ones, around words with spaces. */
export async function play(line: string, env: Readonly<Record<string, string>>): Promise<Scene> {
  const words = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word ?? '');
  return { line, ...(await tenantry(words, env)) };
}

/** The text of the page. */
export async function tenantryPage(scenes: readonly Scene[]): Promise<string> {
  const mask = masked();
  const told = scenes.map((scene) => ({ ...scene, shown: mask(shownOf(scene)) }));
  const section = async (words: readonly string[]): Promise<string> => {
    const name = words.join(' ');
    const { stdout } = await tenantry([...words, '--help'], {});
    const own = told.filter(({ line }) => line === name || line.startsWith(`${name} `));
    const parts = [
      `## tenantry ${name}`,
      // The page has the exit codes once.
      block(stdout.replace(/\nExit code:[^]*/, '').trimEnd()),
      ...own.map(({ line, code, shown }) =>
        block(`$ tenantry ${mask(line)}\n${shown}${code === 0 ? '' : `(exit code ${code ?? ''})`}`.trimEnd()),
      ),
    ];
    return parts.join('\n\n');
  };
  const paths = [
    ...groups.flatMap(({ name, commands }) => commands.map((command) => [name, command.name])),
    ...[...alone, ...processes].map(({ name }) => [name]),
  ];
  const sections: string[] = [];
  for (const each of paths) sections.push(await section(each));
  const codes = Object.entries(exitMeanings).map(([code, meaning]) => `| ${code} | ${meaning} |`);
  return `# tenantry

<!-- Written by tests/process/tenantry-page.test.ts: do not edit. Run npx vitest run tests/process/tenantry-page.test.ts --update -->

The help of each command, and what it writes. Each help ends with the exit codes. The [guide](../guide/command.md) says where the
command works, who acts, and how to give it a secret.

| exit code | meaning |
| --- | --- |
${codes.join('\n')}

${sections.join('\n\n')}
`;
}

function block(text: string): string {
  return `\`\`\`text\n${text}\n\`\`\``;
}

function shownOf({ stdout, stderr }: Scene): string {
  return stdout + stderr;
}

/** A function that replaces what differs between two runs. An id is replaced by the same example everywhere. */
function masked(): (text: string) => string {
  const ids = new Map<string, string>();
  const idOf = (id: string): string => {
    const known = ids.get(id) ?? `01900000-0000-7000-8000-${String(ids.size + 1).padStart(12, '0')}`;
    ids.set(id, known);
    return known;
  };
  return (text) =>
    text
      .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, idOf)
      .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, '2026-01-31T09:30:00.250Z')
      .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ/g, '2026-01-31 09:30:00Z')
      .replaceAll(/127\.0\.0\.1:\d{5}/g, '127.0.0.1:54321')
      .replaceAll(/"port": \d{5}/g, '"port": 54321')
      .replaceAll(/("(?:adminP|p)assword": ")[\w-]{20}/g, '$1Wf2mYc0uJ3nq8TzR1sLk')
      .replaceAll(/(_PASSWORD=|this once:\n\n {2})[\w-]{20}/g, '$1Wf2mYc0uJ3nq8TzR1sLk')
      .replaceAll(/^((?:schema|target) +)\d{4}_\w+$/gm, '$10001_identity')
      .replaceAll(/"(schemaVersion|target)": "\d{4}_\w+"/g, '"$1": "0001_identity"')
      .replaceAll(/^(\S+ +)\d{4}( +(?:running|paused|stopped|done|aborted) )/gm, '$10001$2')
      .replaceAll(/^(.* (?:active|suspended|deleted) .*) \d{4} {4}/gm, '$1 0001    ')
      .replaceAll(/^(version +)\d[\w. ()-]*$/gm, '$118.1')
      // A step that takes long is recorded, and one that does not is not.
      .replaceAll(/"step": "\w+"/g, '"step": null')
      // The server has databases of other tests.
      .replaceAll(/^warning .*\n/gm, '')
      .replaceAll(/^(clock +)-?\d+ ms ahead$/gm, '$10 ms ahead');
}
