// What `tenantry doctor` can find: a code for each finding, how grave it is, what to do, and whether --repair mends it.
// docs/reference/doctor.md is made from it.
import type { CodeEntry } from './code-entry.js';
import { installationCodes } from './installation-codes.js';
import { tenantCodes } from './tenant-codes.js';

const entries = { ...installationCodes, ...tenantCodes };

export type DoctorCode = keyof typeof entries;

export const doctorCodes: Readonly<Record<DoctorCode, CodeEntry>> = entries;

/** Findings that say that something was not looked at. */
export const UNCHECKED: readonly DoctorCode[] = ['not-checked', 'cluster-away', 'pooler'];
