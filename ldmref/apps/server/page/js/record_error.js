// @ts-check
// The error about a file that is not a recorded run.

export class RecordError extends Error {}
