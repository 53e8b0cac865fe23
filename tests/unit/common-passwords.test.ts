// src/auth/common-passwords.ts: which passwords a guesser tries first.
import { describe, expect, it } from 'vitest';
import { refuseWeakPassword, weaknessOf } from '../../src/auth/common-passwords.js';
import { AppError } from '../../src/errors.js';
import { ADMIN, OPERATOR } from '../support/service.js';

const names = ['bruce.wayne@enterprises.example', 'Bruce', 'Wayne', 'Wayne Enterprises', 'wayne-1'];

describe('a password is refused', () => {
  it.each(['password1234', 'administrator', 'qwertyuiop12', 'PASSWORD1234', 'ｐａｓｓｗｏｒｄ１２３４'])(
    'because it is common, in any spelling: %s',
    (password) => {
      expect(weaknessOf(password, [])).toBe('is one of the most common passwords');
    },
  );

  it.each(['password2026!', 'Dragon123456', '12345monkey!!', '!!!football!!!', 'p@ssw0rd-12345'])(
    'because it is common but for digits and signs around it: %s',
    (password) => {
      expect(weaknessOf(password, [])).toBe('is a common password with digits or signs around it');
    },
  );

  it.each([
    'aaaaaaaaaaaa',
    'AAAAaaaaAAAA',
    'abababababab',
    '112211221122',
    'xyz-xyz-xyz-x',
    'fo9!lk3wfo9!lk3w',
    '            ',
  ])('because it repeats itself: %j', (password) => {
    expect(weaknessOf(password, [])).toBe('must not repeat the same few characters');
  });

  it.each([
    'abcdefghijklm',
    'zyxwvutsrqpo',
    '567890123456',
    '098765432109',
    'qwertyuiopasdf',
    'abc-123-xyz-789',
    'йцукенгшщзхъ',
  ])('because it is a sequence: %s', (password) => {
    expect(weaknessOf(password, [])).toBe('is a sequence of the alphabet, the digits or the keyboard');
  });

  it.each([
    'Enterprises.Bruce.7',
    'bruce.wayne@enterprises.example',
    'enterprises-77',
    '1939-wayne-bruce',
    'Tenantry-2026',
  ])('because it is made of names and digits: %s', (password) => {
    expect(weaknessOf(password, names)).toBe('must not be made of the names of the user and the tenant');
  });
});

describe('a password is accepted', () => {
  it.each([
    OPERATOR.password,
    ADMIN.password,
    'under the mansion',
    'correct horse battery staple',
    'wayne-manor-cave',
    'a1b2c3d4e5f6',
    'Tr0ub4dor&3xkcd',
    'abc-123-jd93kdl',
    'Grüße aus Köln',
    '正しい馬の電池ホチキス止め',
    '48203917460583',
  ])('if a guesser does not try it first: %s', (password) => {
    expect(weaknessOf(password, names)).toBeUndefined();
  });

  it('although a short name is in it, or an empty one', () => {
    expect(weaknessOf('bo-83910-bo-17', ['Bo', '', '-'])).toBeUndefined();
  });

  it('although it is long, and has many names to compare with', () => {
    const long = 'ab cd!'.repeat(20) + 'wayne-manor'.repeat(7);
    expect(
      weaknessOf(
        long.slice(0, 200),
        Array.from({ length: 10 }, () => 'x'.repeat(254)),
      ),
    ).toBeUndefined();
  });
});

it('a refusal names the path and the reason, and never the password', () => {
  const refused = (): void => {
    refuseWeakPassword('/admin/password', 'password1234', [undefined]);
  };
  expect(refused).toThrow(AppError);
  try {
    refused();
  } catch (error) {
    const { code, issues } = error as AppError;
    expect({ code, issues }).toEqual({
      code: 'invalid-request',
      issues: [{ path: '/admin/password', message: 'is one of the most common passwords' }],
    });
  }
});
