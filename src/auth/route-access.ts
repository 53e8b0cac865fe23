// Declares who may call a route. Each route declares its access in its own options (`config`). The hooks that enforce it, the
// documentation and the isolation test read it there.
import type { Permission } from './permissions.js';

/**
 * - `public`: every client.
 * - `tenant`: a user, inside the tenant that the token names.
 * - `operator`: an operator.
 * - `platform`: an operator, or a user for its own tenant; the handler checks `request.principal`.
 */
export type Scope = 'public' | 'tenant' | 'operator' | 'platform';

export type RouteAccess =
  | { readonly scope: 'public'; readonly permission?: never; readonly orSelf?: never; readonly recent?: never }
  | { readonly scope: 'operator'; readonly permission?: never; readonly orSelf?: never; readonly recent?: Recent }
  | {
      readonly scope: 'tenant' | 'platform';
      /**
       * The permission that a user must hold; operators hold no permissions and need none. `self`: no permission, because the
       * route is about the caller's own account.
       */
      readonly permission: Permission | 'self';
      /** Also open without the permission if the path's `:id` is the caller's own user id. */
      readonly orSelf?: true;
      readonly recent?: Recent;
    };

/**
 * The route needs a recent sign-in (src/auth/recent-sign-in.ts): always, or for the requests that the text names. The text
 * continues the sentence "Needs a recent sign-in …".
 */
export type Recent = true | string;

/** A registered route, for code that derives something from all routes. */
export interface RouteEntry {
  readonly method: string;
  /** With its prefix and parameters: `/products/:id`. */
  readonly url: string;
  readonly access: RouteAccess;
}
