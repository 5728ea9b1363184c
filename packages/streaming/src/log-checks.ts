/** A timer cannot be set for longer. */
export const maxMs = 2_147_483_647

/** @throws {TypeError} with the cure */
export function wholeNumber(name: string, value: number, least: number, most: number = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value
  throw new TypeError(`${name} must be a whole number from ${least} to ${most}, not ${value}`)
}

/** @throws {TypeError} with the cure */
export function checkLogId(id: string): void {
  if (typeof id !== 'string' || id === '') throw new TypeError('the id of a log must be a non-empty string')
}

/** @throws {TypeError} with the cure */
export function checkOffset(offset: number): void {
  if (Number.isSafeInteger(offset) && offset >= 0) return
  throw new TypeError(`offset must be a whole number from 0 up, not ${offset}`)
}
