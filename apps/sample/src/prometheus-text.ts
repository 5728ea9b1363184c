import type { HistogramSnapshot } from './snapshot.ts'

/** One line of the text that a Prometheus scrapes. */
export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

const line = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/
const label = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g
const words: Readonly<Record<string, number>> = { '+Inf': Infinity, Inf: Infinity, '-Inf': -Infinity, NaN: Number.NaN }

/**
 * Reads the text format of Prometheus, as `telemetry.prometheus()` gives it. Comments and lines that are no samples are
 * passed over; a time behind a value is not read.
 *
 * @example
 * const [first] = readSamples('up{job="gateway"} 1')
 */
export function* readSamples(text: string): Generator<Sample, void, undefined> {
  for (const written of text.split('\n')) {
    if (written === '' || written.startsWith('#')) continue
    const [, name, labels = '', told = ''] = line.exec(written.trim()) ?? []
    if (name === undefined) continue
    const value = words[told] ?? Number(told)
    if (Number.isNaN(value) && told !== 'NaN') continue
    yield { name, labels: Object.fromEntries(labelsOf(labels)), value }
  }
}

/**
 * One histogram, all its series added up. Empty where there is none.
 *
 * @throws {TypeError} where its series have different bounds: their counts have no sum
 */
export function histogramOf(samples: Iterable<Sample>, name: string): HistogramSnapshot {
  const series = new Map<string, Map<number, number>>()
  let sum = 0
  for (const sample of samples) {
    if (sample.name === `${name}_sum`) sum += sample.value
    if (sample.name !== `${name}_bucket`) continue
    const { le = '', ...labels } = sample.labels
    const key = JSON.stringify(Object.entries(labels))
    const buckets = series.get(key) ?? new Map<number, number>()
    series.set(key, buckets.set(words[le] ?? Number(le), sample.value))
  }
  let bounds: readonly number[] | undefined
  const counts: number[] = []
  for (const buckets of series.values()) {
    const own = [...buckets.keys()].toSorted((a, b) => a - b)
    bounds ??= own
    if (own.join() !== bounds.join()) throw new TypeError(`the series of ${name} have different bounds`)
    let before = 0
    for (const [at, bound] of own.entries()) {
      const upTo = buckets.get(bound) ?? 0
      counts[at] = (counts[at] ?? 0) + upTo - before
      before = upTo
    }
  }
  return { bounds: bounds?.slice(0, -1) ?? [], counts, sum }
}

const escaped: Readonly<Record<string, string>> = { n: '\n' }

function* labelsOf(text: string): Generator<[name: string, value: string]> {
  for (const [, name = '', value = ''] of text.matchAll(label)) {
    yield [name, value.replace(/\\(.)/g, (_, letter: string) => escaped[letter] ?? letter)]
  }
}
