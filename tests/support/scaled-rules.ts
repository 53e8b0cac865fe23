// Makes minutes of Prometheus into seconds, so that a test sees an alert fire and clear: every range and every `for` is divided by
// one factor. Rates are per second, and thresholds in seconds are of the service, so both stay as they are.
import { parse, stringify } from 'yaml';

const UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** A duration of Prometheus, such as `1h30m`, divided by `factor`, in milliseconds. @throws Error if it is none */
export function scaleDuration(duration: string, factor: number): string {
  const parts = [...duration.matchAll(/(\d+)(ms|[smhdw])/g)];
  if (parts.length === 0 || parts.map(([part]) => part).join('') !== duration)
    throw new Error(`"${duration}" is no duration of Prometheus`);
  const all = parts.reduce((sum, [, count, unit = '']) => sum + Number(count) * (UNITS[unit] ?? NaN), 0);
  // 0 would be no window at all.
  return `${Math.max(1, Math.round(all / factor))}ms`;
}

/** The query with each of its ranges divided. Text in quotes stays as it is. */
export function scaleQuery(query: string, factor: number): string {
  return query.replaceAll(/"(?:[^"\\]|\\.)*"|\[([^\]]+)\]/g, (whole: string, range?: string) =>
    range === undefined ? whole : `[${range.split(':').map(scaleStep).join(':')}]`,
  );

  /** The step of a subquery may be left out. */
  function scaleStep(duration: string): string {
    return duration === '' ? '' : scaleDuration(duration.trim(), factor);
  }
}

interface Rules {
  readonly groups: readonly { readonly rules: readonly { readonly expr: string; readonly for?: string }[] }[];
}

/** A file of rules with everything divided. */
export function scaleRules(file: string, factor: number): string {
  const { groups } = parse(file) as Rules;
  return stringify({
    groups: groups.map((group) => ({
      ...group,
      rules: group.rules.map((rule) => ({
        ...rule,
        expr: scaleQuery(rule.expr, factor),
        ...(rule.for !== undefined && { for: scaleDuration(rule.for, factor) }),
      })),
    })),
  });
}
