import type { JsonObject } from '@millrace/core'

/** The counters of a provider's rate-limit headers, by our names. What is no plain number is left out, never guessed. */
const names: readonly (readonly [field: string, headers: readonly string[]])[] = [
  ['limitRequests', ['x-ratelimit-limit-requests', 'anthropic-ratelimit-requests-limit']],
  ['remainingRequests', ['x-ratelimit-remaining-requests', 'anthropic-ratelimit-requests-remaining']],
  ['limitTokens', ['x-ratelimit-limit-tokens', 'anthropic-ratelimit-tokens-limit']],
  ['remainingTokens', ['x-ratelimit-remaining-tokens', 'anthropic-ratelimit-tokens-remaining']]
]

/** `undefined` when the response tells nothing of its limits. */
export function rateLimits(headers: Readonly<Record<string, string>>): JsonObject | undefined {
  let found: Record<string, number> | undefined
  for (const [field, candidates] of names) {
    for (const header of candidates) {
      const value = headers[header]
      if (value === undefined || !/^\d{1,15}$/.test(value)) continue
      found ??= {}
      found[field] = Number(value)
      break
    }
  }
  return found
}
