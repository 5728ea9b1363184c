/** A day: nobody means a longer one, and year 9999 is a bug. */
export const absurdMs: number = 86_400_000
const maxCount = 1e15

export function countOf(text: string): number | undefined {
  if (!/^\d{1,16}$/.test(text)) return undefined
  const count = Number(text)
  return count <= maxCount ? count : undefined
}

/** A limit of 0 would allow nothing, ever: what it means is something else. */
export function limitOf(text: string): number | undefined {
  return countOf(text) || undefined
}

export function plainMs(text: string, unitMs: number): number | undefined {
  if (!/^\d{1,12}(\.\d{1,9})?$/.test(text)) return undefined
  const ms = Number(text) * unitMs
  return ms <= absurdMs ? ms : undefined
}

const unitsMs: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** `12ms`, `1m26.4s`, as Go prints them; a bare number is of seconds. OpenAI is seen to add the request's id: `0s, req_b17…`. */
export function durationMs(text: string, unitMs = 1000): number | undefined {
  const duration = text.replace(/,\s*req_\w*$/, '')
  if (duration === '' || duration.length > 64) return undefined
  const plain = plainMs(duration, unitMs)
  if (plain !== undefined) return plain
  let sum = 0
  let end = 0
  for (const { 0: part, 1: amount, 2: unit = '', index } of duration.matchAll(/(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|[smh])/gy)) {
    sum += Number(amount) * (unitsMs[unit] ?? Number.NaN)
    end = index + part.length
  }
  return end === duration.length && sum <= absurdMs ? sum : undefined
}

/** RFC 3339. */
export function isoDate(text: string): number | undefined {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(text)) return undefined
  return Date.parse(text) || undefined
}

/** The form that RFC 9110 has servers write. `Date.parse` alone is no help: "banana 1" is a date to it. */
export function httpDate(text: string): number | undefined {
  if (!/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(text)) return undefined
  return Date.parse(text) || undefined
}

interface Item {
  readonly name: string
  readonly values: ReadonlyMap<string, string>
}

/** A list of structured fields (RFC 9651), as much of it as these headers use: `"name";key=value, ...`. */
export function itemsOf(text: string): readonly Item[] | undefined {
  const items: Item[] = []
  for (let from = 0; from < text.length; ) {
    const name = matchAt(/\s*("[^"\\]*"|[\w*.:/-]+)\s*/y, text, from)
    if (name === undefined) return undefined
    from += name[0].length
    const values = new Map<string, string>()
    for (;;) {
      const value = matchAt(/;\s*([a-z*][\w.*-]*)(?:=("[^"\\]*"|:[\w+/=]*:|[\w*.+:/-]+))?\s*/y, text, from)
      if (value === undefined) break
      from += value[0].length
      values.set(value[1] ?? '', unquoted(value[2] ?? ''))
    }
    items.push({ name: unquoted(name[1] ?? ''), values })
    if (from === text.length) break
    if (text[from++] !== ',' || from === text.length) return undefined
  }
  return items.length === 0 ? undefined : items
}

function matchAt(pattern: RegExp, text: string, from: number): RegExpExecArray | undefined {
  pattern.lastIndex = from
  return pattern.exec(text) ?? undefined
}

function unquoted(text: string): string {
  return text.startsWith('"') ? text.slice(1, -1) : text
}
