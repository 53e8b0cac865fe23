// The connected role, as an OID that can be compared with an owner.
import { sql } from 'kysely';

/** Quoted: a cast to regrole reads its text as an identifier, so it would refuse `My-Provisioner`. */
export const CURRENT_ROLE = sql`quote_ident(current_user)::regrole`;
