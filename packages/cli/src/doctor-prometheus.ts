/** One reading of `/metrics`. */
export interface Metrics {
  /** The sum of all samples of this name whose labels hold these; undefined where there is none. */
  sum(name: string, labels?: Readonly<Record<string, string>>): number | undefined
  /** Names that have samples. */
  readonly names: ReadonlySet<string>
}

interface Sample {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/**
 * Reads what this command needs of Prometheus' text format: names, labels, values. Lines it cannot read are passed over.
 *
 * @example
 * readMetrics('calls{outcome="success"} 2').sum('calls') // 2
 */
export function readMetrics(text: string): Metrics {
  const samples = new Map<string, Sample[]>()
  for (const line of text.split('\n')) {
    const [, name, labels = '', value] = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? []
    if (name === undefined || value === undefined) continue
    const known = samples.get(name) ?? []
    samples.set(name, known)
    known.push({ labels: readLabels(labels), value: value === '+Inf' ? Number.POSITIVE_INFINITY : Number(value) })
  }
  return {
    names: new Set(samples.keys()),
    sum(name, labels = {}) {
      const asked = Object.entries(labels)
      const found = samples.get(name)?.filter((sample) => asked.every(([key, value]) => sample.labels[key] === value)) ?? []
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0)
    }
  }
}

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = Object.create(null) as Record<string, string>
  for (const [, name = '', value = ''] of text.matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name] = value.replace(/\\(.)/g, (_, sign: string) => (sign === 'n' ? '\n' : sign))
  }
  return labels
}
