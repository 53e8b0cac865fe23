// The accounts that can sign in.

/** A user of a tenant, or an operator. */
export type Account =
  | { readonly kind: 'user'; readonly tenantId: string; readonly userId: string }
  | { readonly kind: 'operator'; readonly operatorId: string };

/** The id of the user or the operator. */
export function idOf(account: Account): string {
  return account.kind === 'user' ? account.userId : account.operatorId;
}
