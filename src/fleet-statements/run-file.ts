// The output file of a run: JSON lines, the first of which says which run it is. A later run continues the file. For a statement that
// writes, a line comes before each COMMIT too, with the id of its transaction: of a process that was killed there, PostgreSQL itself says
// whether the transaction was committed.
//
// What the file says of a tenant, by its last line:
//
//     nothing, error, skipped ──▶ it is run       rows, affected ──▶ done       committing, unknown ──▶ PostgreSQL is asked
import { createReadStream } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { z } from 'zod';
import { PlainError } from '../jobs/plain-words.js';

/** What a file says of a tenant that needs no second run, or may need none. */
export type Known =
  { readonly state: 'done' } | { readonly state: 'unknown'; readonly xid: string; readonly affected: number };

export interface RunFile {
  /** The id of the run, the same in each continuation. */
  readonly run: string;
  /** By the tenant's id. */
  readonly known: ReadonlyMap<string, Known>;
  /** Appends a line. @param durably resolves when the line is on disk */
  write(line: object, durably?: boolean): Promise<void>;
  close(): Promise<void>;
}

const FIRST = z.object({ run: z.uuid(), statement: z.string(), write: z.boolean() });

const LINE = z.object({
  tenant: z.uuid(),
  error: z.unknown().optional(),
  skipped: z.unknown().optional(),
  committing: z.string().optional(),
  unknown: z.string().optional(),
  affected: z.number().optional(),
});

export interface RunOfFile {
  readonly statement: string;
  readonly write: boolean;
}

/** @throws PlainError if the file exists, or cannot be made */
export async function createRunFile(path: string, run: string, { statement, write }: RunOfFile): Promise<RunFile> {
  const handle = await opened(path, 'wx');
  const file = writing(handle, run, new Map(), 0);
  await file.write({ run, statement, write }, true);
  return file;
}

/** The id of the run of a file. Take its lock, then continue the file. @throws PlainError if there is no such file, or it is of another statement */
export async function runOfFile(path: string, of: RunOfFile): Promise<string> {
  const handle = await opened(path, 'r');
  await handle.close();
  for await (const { text } of linesOf(path)) return runIn(text, of);
  throw new PlainError(NOT_OURS);
}

/** Reads what a file says, under the lock of its run. @throws PlainError as `runOfFile` */
export async function continueRunFile(path: string, of: RunOfFile): Promise<RunFile> {
  const handle = await opened(path, 'r+');
  try {
    const known = new Map<string, Known>();
    let run: string | undefined;
    let whole = 0;
    for await (const { text, end } of linesOf(path)) {
      if (run === undefined) run = runIn(text, of);
      else note(known, text);
      whole = end;
    }
    if (run === undefined) throw new PlainError(NOT_OURS);
    // What a killed process has left of its last line.
    await handle.truncate(whole);
    return writing(handle, run, known, whole);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

const NOT_OURS = 'the file is not one that --output has written';

function runIn(text: string, { statement, write }: RunOfFile): string {
  const first = FIRST.safeParse(json(text));
  if (!first.success) throw new PlainError(NOT_OURS);
  if (first.data.statement !== statement || first.data.write !== write)
    throw new PlainError('the file is of another statement: give it the same statement, and --write if it had that');
  return first.data.run;
}

function note(known: Map<string, Known>, text: string): void {
  const line = LINE.safeParse(json(text));
  if (!line.success) throw new PlainError('the file has a line that --output has not written');
  const { tenant, error, skipped, committing, unknown = committing, affected = 0 } = line.data;
  if (unknown !== undefined) known.set(tenant, { state: 'unknown', xid: unknown, affected });
  else if (error !== undefined || skipped !== undefined) known.delete(tenant);
  else known.set(tenant, { state: 'done' });
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The lines that end, with the offset (bytes) after each. */
async function* linesOf(path: string): AsyncGenerator<{ text: string; end: number }> {
  let rest: Buffer[] = [];
  let end = 0;
  for await (const part of createReadStream(path) as AsyncIterable<Buffer>) {
    let from = 0;
    for (let at = part.indexOf(10); at !== -1; at = part.indexOf(10, from)) {
      const line = Buffer.concat([...rest, part.subarray(from, at)]);
      rest = [];
      from = at + 1;
      end += line.length + 1;
      yield { text: line.toString('utf8'), end };
    }
    if (from < part.length) rest.push(part.subarray(from));
  }
}

function writing(handle: FileHandle, run: string, known: ReadonlyMap<string, Known>, at: number): RunFile {
  let position = at;
  // One after the other: the lines of tenants at work side by side must not mix.
  let last: Promise<unknown> = Promise.resolve();
  return {
    run,
    known,
    write(line, durably = false) {
      const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
      const written = last.then(async () => {
        // A line that could be written in part only is written over by the next one.
        for (let sent = 0; sent < bytes.length;)
          sent += (await handle.write(bytes, sent, bytes.length - sent, position + sent)).bytesWritten;
        position += bytes.length;
        if (durably) await handle.datasync();
      });
      last = written.catch(() => undefined);
      return written;
    },
    async close() {
      await last;
      await handle.close();
    },
  };
}

async function opened(path: string, flags: string): Promise<FileHandle> {
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'EEXIST')
      throw new PlainError('the file exists already: continue it with --resume, or name another one');
    if (code === 'ENOENT') throw new PlainError('there is no such file or folder');
    throw new PlainError(`the file cannot be opened (${String(code)})`);
  }
}
