// How the service logs: one JSON object a line, secrets redacted, and nothing of an error but what is known to be safe.
import pino, { type DestinationStream, type Logger, type LoggerOptions } from 'pino';
import pretty from 'pino-pretty';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../errors.js';

/** Bytes that are collected before a write, and the longest they wait, in ms: a write for each line costs more than the line. */
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

/** Causes of an error that are followed: one can be its own cause. */
const MAX_CAUSES = 5;

/** @param stream where the lines go, instead of standard output */
export function createLogger(options: { level: string; pretty: boolean }, stream?: DestinationStream): Logger {
  const settings: LoggerOptions = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
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
  if (stream) return pino(settings, stream);
  if (options.pretty) return pino(settings, pretty({ singleLine: true, translateTime: 'SYS:HH:MM:ss.l' }));
  return pino(settings, pino.destination({ dest: 1, sync: false, minLength: BUFFER, periodicFlush: FLUSH_EVERY }));
}

/**
 * An error as it may be written. The messages of drivers and of PostgreSQL quote rows, role names and connection settings:
 * only our own are kept, and of the others the class, the code and where it happened.
 */
export function safeError(error: unknown, causes = MAX_CAUSES): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  // Meant, and told by its code: where it was made tells nothing, and writing a stack costs more than the rest of an answer,
  // of which a server that is down makes thousands.
  const meant = error instanceof AppError || error instanceof DatabaseFault;
  const ours = meant || (error.constructor === Error && !('severity' in error || 'errno' in error));
  return {
    type: error.name,
    ...('code' in error && { code: error.code }),
    ...(ours && { message: error.message }),
    ...(!meant && { stack: framesOf(error) }),
    ...(error.cause !== undefined && causes > 0 && { cause: safeError(error.cause, causes - 1) }),
  };
}

/** The stack without its first lines, which are the message: one of several lines may well have one that looks like a frame. */
function framesOf(error: Error): string {
  return (error.stack ?? '')
    .replace(error.message, '')
    .split('\n')
    .filter((line) => /^\s+at /.test(line))
    .join('\n');
}
