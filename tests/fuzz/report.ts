// Describes a failure of a run, with a command that sends the request again.
import type { FuzzFailure } from './run.js';
import type { Sent } from './world.js';

/** Longer answers and bodies are cut after this number of characters: they need only be recognised. */
const SHOWN = 2_000;

/** @param url of the service, without a slash at the end */
export function describeFailure(
  { problems, operation, actor, sent, answer }: FuzzFailure,
  seed: number,
  url: string,
): string {
  return [
    `${operation}, sent by "${actor}", got an answer that breaks a promise:`,
    ...problems.map((problem) => `  - ${problem}`),
    '',
    `request: ${sent.method} ${sent.url}`,
    ...(sent.body ? [`body:    ${cut(JSON.stringify(sent.body.toString()))}`] : []),
    `answer:  ${answer.status} ${cut(answer.text)}`,
    `seed:    ${seed}`,
    '',
    curl(sent, url),
  ].join('\n');
}

/** A line for the shell. Text with other than plain characters is encoded in base64, byte for byte. */
export function curl({ method, url, headers, body }: Sent, base: string): string {
  const parts = ['curl -isS -g --path-as-is -X', method, quote(base + url)];
  for (const [name, value] of Object.entries(headers)) parts.push('-H', quote(`${name}: ${value}`));
  if (body !== undefined && !('content-type' in headers)) parts.push('-H', quote('content-type:'));
  if (body === undefined) return parts.join(' ');
  const text = body.toString('latin1');
  if (/^[\x20-\x7e]*$/.test(text)) return [...parts, '--data-raw', quote(text)].join(' ');
  return `echo ${body.toString('base64')} | base64 -d | ${parts.join(' ')} --data-binary @-`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function cut(text: string): string {
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}… (${text.length} characters)` : text;
}
