// The testable parts of README.md and docs/**/*.md: their code blocks, links, and the commands and files that they name.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

export const ROOT = path.resolve(import.meta.dirname, '../..');

/** The pages, from the root. */
export const PAGES: readonly string[] = [
  'README.md',
  'CHANGELOG.md',
  'SECURITY.md',
  ...readdirSync(path.join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.posix.join('docs', name.replaceAll(path.sep, '/')))
    .toSorted(),
];

export interface Block {
  readonly page: string;
  readonly language: string;
  readonly text: string;
  /** The text before the block, from the end of the previous block or from the heading. */
  readonly intro: string;
  /** The block's heading, as it is written. */
  readonly heading: string;
}

export function readPage(page: string): string {
  return readFileSync(path.join(ROOT, page), 'utf8');
}

/** Every fenced block of a page, in order. */
export function blocksOf(page: string, markdown: string = readPage(page)): Block[] {
  const blocks: Block[] = [];
  let heading = '';
  let intro: string[] = [];
  let open: { language: string; lines: string[] } | undefined;
  for (const line of markdown.split('\n')) {
    const fence = /^```(.*)$/.exec(line);
    if (open && fence) {
      blocks.push({ page, language: open.language, text: open.lines.join('\n'), intro: intro.join('\n'), heading });
      open = undefined;
      intro = [];
    } else if (open) open.lines.push(line);
    else if (fence) open = { language: fence[1] ?? '', lines: [] };
    else if (line.startsWith('#')) {
      heading = line;
      intro = [];
    } else intro.push(line);
  }
  if (open) throw new Error(`${page}: a block is never closed`);
  return blocks;
}

const SHELLS = ['', 'sh', 'bash', 'shell', 'console', 'zsh'];

/** The blocks that a reader would paste into a terminal. A block without a language is one of them. */
export function shellBlocksOf(page: string, markdown?: string): Block[] {
  return blocksOf(page, markdown).filter(({ language }) => SHELLS.includes(language));
}

/** The commands of a block with one command a line: without comments and empty lines. */
export function commandsIn({ text }: Block): string[] {
  return text
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .map((line) => line.replace(/(?:^|\s+)#(?: .*)?$/, '').trim())
    .filter((line) => line !== '');
}

/** The text of every `code` within the lines of a page. */
export function inlineCodeOf(markdown: string): string[] {
  return [...prose(markdown).matchAll(/`([^`]+)`/g)].map(([, code = '']) => code);
}

/** The targets of all links of a page. */
export function linksOf(markdown: string): string[] {
  return [
    ...prose(markdown)
      .replaceAll(/`[^`]+`/g, '')
      .matchAll(/\]\(([^)\s]+)\)/g),
  ].map(([, target = '']) => target);
}

/** The relative links of a page that lead to no file, or to no heading of their page. @param page relative to the root */
export function brokenLinks(page: string, markdown: string = readPage(page)): string[] {
  return linksOf(markdown).filter((target) => {
    if (/^[a-z]+:/.test(target)) return false;
    const [file = '', anchor] = target.split('#');
    const to = file === '' ? page : path.posix.join(path.posix.dirname(page), file);
    if (to !== page && !existsSync(path.join(ROOT, to))) return true;
    return anchor !== undefined && !anchorsOf(to === page ? markdown : readPage(to)).includes(anchor);
  });
}

/** The anchor of a heading in a link, as GitHub and most others make it. */
export function anchorsOf(markdown: string): string[] {
  return [...prose(markdown).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

/** The page without its fenced blocks. */
function prose(markdown: string): string {
  return markdown.replaceAll(/^```[^\n]*\n[\s\S]*?^```$/gm, '');
}
