// Who may call a route. Each route declares it in its own options (`config`); the hooks that enforce it, the documentation
// and the isolation test all read it from there.
import type { Permission } from './permissions.js';

/**
 * - `public`: anybody.
 * - `tenant`: a user, inside the tenant that the token names.
 * - `operator`: an operator.
 * - `platform`: an operator, or a user as far as its own tenant is concerned; the handler looks at `request.principal`.
 */
export type Scope = 'public' | 'tenant' | 'operator' | 'platform';

export type RouteAccess =
  | { readonly scope: 'public' | 'operator'; readonly permission?: never; readonly orSelf?: never }
  | {
      readonly scope: 'tenant' | 'platform';
      /**
       * What a user must hold; operators hold none and need none. `self`: nothing, because the route is about the caller's
       * own account.
       */
      readonly permission: Permission | 'self';
      /** Open without the permission too, where the user that the path names in `:id` is the caller. */
      readonly orSelf?: true;
    };

/** A route as it was registered, for whoever derives something from all of them. */
export interface RouteEntry {
  readonly method: string;
  /** With its prefix and parameters: `/products/:id`. */
  readonly url: string;
  readonly access: RouteAccess;
}
