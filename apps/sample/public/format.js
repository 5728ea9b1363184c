const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })

/** @param {number} value */
export const count = (value) => (Math.abs(value) < 100_000 ? whole.format(value) : compact.format(value))

/** @param {number} ratio */
export const percent = (ratio) => `${(ratio * 100).toFixed(ratio > 0 && ratio < 0.0995 ? 1 : 0)}%`

/** @param {number} value milliseconds */
export function milliseconds(value) {
  if (value < 10) return `${trim(value.toFixed(value < 0.1 ? 3 : 2))} ms`
  if (value < 1000) return `${value.toFixed(0)} ms`
  if (value < 60_000) return `${trim((value / 1000).toFixed(2))} s`
  if (value < 3_600_000) return `${Math.floor(value / 60_000)} min`
  if (value < 86_400_000) return `${Math.floor(value / 3_600_000)} h ${Math.floor((value % 3_600_000) / 60_000)} min`
  return `${Math.floor(value / 86_400_000)} d`
}

/** @param {number} value USD; below a cent with as many places as it takes to say something */
export function money(value) {
  if (value === 0) return '$0'
  if (Math.abs(value) >= 1) return `$${value.toFixed(2)}`
  return `$${value.toFixed(Math.abs(value) >= 0.01 ? 3 : 5)}`
}

/** @param {number} value */
export const bytes = (value) => `${(value / 1_048_576).toFixed(0)} MiB`

/**
 * What each limit counts, in plain words; which of the limits it is only where there are several.
 *
 * @param {readonly string[]} labels such as `limits[0] provider=openai model=gpt-4.1-mini`
 */
export function limitNames(labels) {
  const parts = labels.map((label) => /^limits\[(\d+)\] ?(.*)$/s.exec(label) ?? ['', '0', label])
  const several = new Set(parts.map(([, index]) => index)).size > 1
  return parts.map(([, index, rest = '']) => {
    const named = rest.split(/ (?=(?:provider|model|tenant)=)/).map((part) => part.replace(/^(\w+)=$/, 'no $1').replace('=', ' '))
    return `${several ? `limit ${Number(index) + 1}: ` : ''}${rest === '' ? 'all calls' : named.join(', ')}`
  })
}

/** @param {string} digits */
const trim = (digits) => (digits.includes('.') ? digits.replace(/0+$/, '').replace(/\.$/, '') : digits)
