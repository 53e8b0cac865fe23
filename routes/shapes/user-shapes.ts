// A user, as answers show it.
import { z } from 'zod';
import { answerId, timestamp } from './fields.js';

export const UserAnswer = z
  .object({
    id: answerId,
    email: z.string(),
    firstName: z.string(),
    lastName: z.string(),
    active: z.boolean(),
    roles: z.array(z.string()),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'User' });

export type UserAnswer = z.output<typeof UserAnswer>;
