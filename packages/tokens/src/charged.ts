/** Products of safety factors are off in their last digits: 180 times 1.35 is a bit more than 243. */
const tolerance = 1e-6

/** What to reckon with for a limit: a count times the tokenizer's safety factor. */
export function charged(tokens: number, safetyFactor: number): number {
  return Math.ceil(tokens * safetyFactor - tolerance)
}

/** The most tokens that stay within the budget so. */
export function mostWithin(budget: number, safetyFactor: number): number {
  return Math.floor((budget + tolerance) / safetyFactor)
}
