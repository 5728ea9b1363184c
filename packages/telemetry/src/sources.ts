/** One number of an object that counts, with the labels of its series. */
export interface Reading {
  readonly metric: string
  /** `count` only grows; `level` is what is there now. */
  readonly kind: 'count' | 'level'
  readonly value: number
  readonly labels: Readonly<Record<string, string>>
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
      for (const { owner, before } of sources) {
        const alive = owner.deref()
        if (alive === undefined) continue
        const now = new Map<string, { reading: Reading; sum: number }>()
        for (const reading of readings(alive))
          add(now, `${reading.metric} ${JSON.stringify(reading.labels)}`, reading, reading.value)
        for (const [key, { reading, sum }] of now) {
          if (reading.kind === 'level') add(levels, key, reading, sum)
          else {
            add(counted, key, reading, Math.max(0, sum - (before.get(key) ?? 0)))
            before.set(key, sum)
          }
        }
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
  readonly before: Map<string, number>
}
