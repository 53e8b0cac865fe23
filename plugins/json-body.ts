// Bodies: JSON in UTF-8, not compressed, and read strictly. Fastify's own parser takes the last of two equal keys and
// replaces bytes that are no UTF-8, so that what was checked on the way here could be something else than what is stored.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../src/errors.js';
import { parseStrictJson } from '../src/strict-json.js';

export const jsonBody = fp(
  async (app) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, body, done) => {
      refuseOtherEncodings(request);
      done(null, parseStrictJson(textOf(body)));
    });
  },
  { name: 'json-body', fastify: '5.x' },
);

const utf8 = new TextDecoder('utf-8', { fatal: true });

function textOf(body: Buffer): string {
  if (body.length === 0) throw new AppError('invalid-request', { detail: 'The body is empty.' });
  try {
    return utf8.decode(body);
  } catch {
    throw new AppError('invalid-request', { detail: 'The body is not valid UTF-8.' });
  }
}

function refuseOtherEncodings({ headers }: FastifyRequest): void {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = headers;
  if (encoding.toLowerCase() !== 'identity')
    throw new AppError('unsupported-media-type', { detail: 'Send the body without a Content-Encoding.' });
  for (const [, charset = ''] of type.matchAll(/;\s*charset\s*=\s*"?([^";\s]*)/gi)) {
    if (charset.toLowerCase() !== 'utf-8')
      throw new AppError('unsupported-media-type', { detail: 'The charset of a body is utf-8.' });
  }
}
