// The statement of `tenantry each` from a file or standard input.
import { readFile } from 'node:fs/promises';
import { CommandError, EXIT } from '../terminal/exit-codes.js';

/** The longest input, in bytes. A statement has at most 100,000 characters. */
const LONGEST = 400_000;

/** @param file undefined reads standard input. @throws CommandError */
export async function decodedText(file: string | undefined): Promise<string> {
  const bytes = file === undefined ? await fromInput() : await fromFile(file);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new CommandError(EXIT.usage, 'The statement is not UTF-8.');
  }
}

async function fromFile(file: string): Promise<Buffer> {
  try {
    return bounded(await readFile(file));
  } catch (error) {
    if (error instanceof CommandError) throw error;
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    throw new CommandError(EXIT.usage, `The file of the statement cannot be read (${code}).`);
  }
}

async function fromInput(): Promise<Buffer> {
  if (process.stdin.isTTY)
    throw new CommandError(EXIT.usage, 'Give the statement as an argument, by --file, or on standard input.');
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of process.stdin as AsyncIterable<Buffer>) {
    parts.push(part);
    bytes += part.length;
    if (bytes > LONGEST) break;
  }
  return bounded(Buffer.concat(parts));
}

function bounded(bytes: Buffer): Buffer {
  if (bytes.length > LONGEST) throw new CommandError(EXIT.usage, 'The statement is too long.');
  return bytes;
}
