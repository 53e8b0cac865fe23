// How a command shows an operator whose password it has set.
import { signInLines } from '../../boot/operator-sign-in.js';
import type { NewPassword } from '../new-password.js';

/** @returns nothing if a person knows the password already */
export function signInText(email: string, { password, generated }: NewPassword): string {
  if (!generated) return '';
  return `\nThe password is shown this once:\n\n  ${signInLines({ email, password }).join('\n  ')}\n`;
}
