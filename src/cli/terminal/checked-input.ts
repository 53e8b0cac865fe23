// Input of the command line, checked by the schema that the API checks it with.
import type { z } from 'zod';
import { AppError } from '../../errors.js';
import { inOurWords, inputIssues } from '../../http/validation-words.js';

/** @throws AppError `invalid-request` with what is wrong */
export function checkedInput<Schema extends z.ZodType>(schema: Schema, input: unknown): z.output<Schema> {
  const result = schema.safeParse(input, { error: inOurWords });
  if (result.success) return result.data;
  throw new AppError('invalid-request', { issues: inputIssues(result.error) });
}
