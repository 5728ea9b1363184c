/** One number of an object that counts, with the labels of its series. */
export interface Reading {
  readonly metric: string
  /** `count` only grows; `level` is what is there now. */
  readonly kind: 'count' | 'level'
  readonly value: number
  readonly labels: Readonly<Record<string, string>>
  /** What of the object is counted, where several parts of it are one series and each may be forgotten and begin again at 0. */
  readonly part?: string | undefined
}

/**
 * The objects that count by themselves, known from the messages they publish, and read when metrics are collected. They are
 * held weakly. What one had counted at its last reading stays in the sums when it is gone.
 */
export interface Sources {
  hear(owner: object): void
  /** Adds up equal series of all objects: two observations with equal labels would overwrite each other. */
  read(): Iterable<Reading>
  close(): void
}

/** `readings` gives nothing for an object of another kind. */
export function createSources(readings: (owner: object) => Iterable<Reading>): Sources {
  let known = new WeakSet<object>()
  let sources: Source[] = []
  /** Objects that are gone are taken out when so many are known, for nobody may ever read. */
  let pruneAt = 100
  const counted = new Map<string, { reading: Reading; sum: number }>()
  const levels = new Map<string, { reading: Reading; sum: number }>()

  function add(sums: typeof counted, key: string, reading: Reading, value: number): void {
    const entry = sums.get(key)
    if (entry === undefined) sums.set(key, { reading, sum: value })
    else entry.sum += value
  }

  return {
    hear(owner) {
      if (known.has(owner)) return
      known.add(owner)
      sources.push({ owner: new WeakRef(owner), before: new Map() })
      if (sources.length < pruneAt) return
      sources = sources.filter((source) => source.owner.deref() !== undefined)
      pruneAt = Math.max(100, 2 * sources.length)
    },
    *read() {
      // The SDK repeats the last value of a series it hears nothing of: a level that is gone is told to be 0.
      for (const entry of levels.values()) entry.sum = 0
      for (const source of sources) {
        const alive = source.owner.deref()
        if (alive === undefined) continue
        const now = new Map<string, number>()
        for (const reading of readings(alive)) {
          const key = `${reading.metric} ${JSON.stringify(reading.labels)}`
          if (reading.kind === 'level') add(levels, key, reading, reading.value)
          else {
            const part = `${reading.part ?? ''} ${key}`
            const was = source.before.get(part) ?? 0
            now.set(part, reading.value)
            add(counted, key, reading, reading.value < was ? reading.value : reading.value - was)
          }
        }
        source.before = now
      }
      for (const sums of [counted, levels]) for (const { reading, sum } of sums.values()) yield { ...reading, value: sum }
    },
    close() {
      known = new WeakSet()
      sources = []
    }
  }
}

interface Source {
  readonly owner: WeakRef<object>
  /** Of each count, what it was at the last reading. */
  before: ReadonlyMap<string, number>
}
