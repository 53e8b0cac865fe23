// Logs one JSON object for each line. Secrets are redacted, and only the safe parts of an error are written.
import { Writable } from 'node:stream';
import pino, { type DestinationStream, type Logger, type LoggerOptions } from 'pino';
import pretty from 'pino-pretty';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../errors.js';
import { PlainError } from '../jobs/plain-words.js';
import { gatherLines } from './gathered-lines.js';
import { withCountedLines } from './log-lines.js';

/**
 * Bytes that are collected before a write, and the longest time (ms) that they wait. A write for each line costs more than the
 * line.
 */
const BUFFER = 4_096;
const FLUSH_EVERY = 500;

const SECRET_KEYS = [
  'password',
  'currentPassword',
  'newPassword',
  'passwordHash',
  'dbPassword',
  'db_password',
  'accessToken',
  'refreshToken',
  'token',
  'secret',
];

/** Causes of an error that are followed; the bound is needed because an error can be its own cause. */
const MAX_CAUSES = 5;

/** @param stream receives the lines instead of standard output */
export function createLogger(options: { level: string; pretty: boolean }, stream?: DestinationStream): Logger {
  const settings: LoggerOptions = {
    level: options.level,
    base: null,
    timestamp: createTimestamp(),
    formatters: { level: (label) => ({ level: label }) },
    redact: {
      paths: [
        ...SECRET_KEYS,
        ...SECRET_KEYS.map((key) => `*.${key}`),
        'req.headers.authorization',
        'headers.authorization',
        'headers.cookie',
      ],
      censor: '[redacted]',
    },
    serializers: { err: (error: unknown) => safeError(error) },
  };
  return withCountedLines(stream ?? destination(options), (counted) => pino(settings, counted));
}

function destination(options: { pretty: boolean }): DestinationStream {
  if (options.pretty) return pretty({ singleLine: true, translateTime: 'SYS:HH:MM:ss.l', destination: toTerminal() });
  return gatherLines(pino.destination({ dest: 1, sync: false, minLength: BUFFER, periodicFlush: FLUSH_EVERY }));
}

/** pino's `isoTime`, which writes the text of a millisecond once: a busy process writes many lines in one. */
function createTimestamp(): () => string {
  let last = NaN;
  let text = '';
  return () => {
    const now = Date.now();
    if (now !== last) {
      last = now;
      text = `,"time":"${new Date(now).toISOString()}"`;
    }
    return text;
  };
}

/**
 * Standard output itself, so that lines of the log and other output keep their order. A stream of pino's own would end the process
 * if the terminal is closed.
 */
function toTerminal(): Writable {
  return new Writable({
    write(chunk, _encoding, done) {
      process.stdout.write(chunk as Buffer, () => {
        done();
      });
    },
  });
}

/**
 * The safe parts of an error. Messages of drivers and of PostgreSQL quote rows, role names and connection settings. So only our
 * own messages are kept, and for other errors the class, the code and the stack frames.
 */
export function safeError(error: unknown, causes = MAX_CAUSES): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  // The code identifies an intended error, so its stack adds nothing. Writing a stack costs more than the rest of an answer, and
  // a server that is down causes thousands of these errors.
  const meant = error instanceof AppError || error instanceof DatabaseFault || error instanceof PlainError;
  const ours = meant || (error.constructor === Error && !('severity' in error || 'errno' in error));
  return {
    type: error.name,
    ...('code' in error && { code: error.code }),
    ...(ours && { message: error.message }),
    ...(!meant && { stack: framesOf(error) }),
    ...(error.cause !== undefined && causes > 0 && { cause: safeError(error.cause, causes - 1) }),
  };
}

/** The stack without the message in its first lines: a message of several lines may contain a line that looks like a frame. */
function framesOf(error: Error): string {
  return (error.stack ?? '')
    .replace(error.message, '')
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .join('\n');
}
