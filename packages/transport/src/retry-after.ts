/** A hint longer than this is not waited for. */
export const maxHintMs = 60_000

/**
 * How long a response asks to be left alone, in milliseconds: `retry-after-ms` (OpenAI, Azure), then `retry-after` in
 * seconds or as an HTTP date (RFC 9110, section 10.2.3). Garbage, negative and absurd values give `undefined`.
 */
export function retryAfterMs(headers: Readonly<Record<string, string>>, now: number = Date.now()): number | undefined {
  const precise = milliseconds(headers['retry-after-ms'], 1)
  if (precise !== undefined) return precise
  const hint = headers['retry-after']
  if (hint === undefined) return undefined
  const seconds = milliseconds(hint, 1000)
  if (seconds !== undefined) return seconds
  // Date.parse reads all sorts of text as a date ("banana 1" is one); an HTTP date starts with the day's name.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? /.test(hint)) return undefined
  const wait = Date.parse(hint) - now
  return Number.isFinite(wait) && wait <= absurdMs ? Math.max(0, wait) : undefined
}

/** A day: nobody means a longer one, and year 9999 is a bug. */
const absurdMs = 86_400_000

function milliseconds(text: string | undefined, unit: number): number | undefined {
  if (text === undefined || !/^\s*\d{1,12}(\.\d{1,6})?\s*$/.test(text)) return undefined
  const value = Number(text) * unit
  return value <= absurdMs ? value : undefined
}
