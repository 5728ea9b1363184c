import { LRUCache } from 'lru-cache'
import { weigh } from './plain.ts'

/** An answer in memory. The numbers are times on the clock `now`, in milliseconds. */
export interface Held {
  /** Frozen, and compact: see `compact`. */
  readonly value: unknown
  readonly storedAt: number
  /** Fresh for so long. */
  readonly ttlMs: number
  /** Gone after it: `ttlMs` and the longest time it may be served stale. */
  readonly keepUntil: number
  /** What it can be forgotten by. */
  readonly groups: readonly string[]
  /** The words of its groups in the store that it came under; none where the store was not there. */
  readonly stamps?: Readonly<Record<string, string>> | undefined
  epoch: number
  checkedAt: number
}

export interface MemoryOptions {
  /** 0 keeps nothing. */
  readonly maxBytes: number
  readonly maxEntries: number
  readonly maxEntryBytes: number
  /** Milliseconds on a clock that never jumps. */
  readonly now: () => number
}

/**
 * The tier in this process: least recently used goes first, bounded by bytes and by count. What has expired is gone for
 * whoever asks, and leaves an idle process within half a minute.
 */
export interface Memory {
  get(key: string): Held | undefined
  /** False when it is too large to be kept. An older entry of the key is gone in any case. */
  set(key: string, held: Held): boolean
  delete(key: string): void
  clear(): void
  readonly entries: number
  readonly bytes: number
  /** Entries that left for lack of room. */
  readonly evictions: number
}

interface Node {
  readonly key: string
  readonly held: Held
  /** Its place in `nodes`. */
  at: number
}

/** What an entry takes beside its key, groups and value: measured, with the arrays and the Map at their least convenient size. */
const entryBytes = 420
/** The name of a group is cut out of a digest, and so keeps all of it. */
const groupBytes = 120
/** What `lru-cache` still takes for an entry that has gone. */
const gapBytes = 80
const sweepMs = 30_000
/** A sweep lets others work after so long. */
const sliceMs = 4

export function createMemory({ maxBytes, maxEntries, maxEntryBytes, now }: MemoryOptions): Memory {
  if (maxBytes === 0) return nothing
  // Everything there is, in no order: `lru-cache` cannot be walked in slices while it changes.
  const nodes: Node[] = []
  let lru = emptyCache()
  let peak = 0
  let evictions = 0
  let timer: NodeJS.Timeout | undefined

  // Without `max`, for which it would make room at once. We keep the count.
  function emptyCache(): LRUCache<string, Node> {
    return new LRUCache({ maxSize: maxBytes, dispose: left })
  }

  function left(node: Node, _key: string, reason: string): void {
    if (reason === 'evict') evictions++
    const last = nodes.pop() as Node
    if (last !== node) {
      nodes[node.at] = last
      last.at = node.at
    }
    if (nodes.length === 0) disarm()
  }

  function isOver(): boolean {
    return lru.size > maxEntries || (lru.size > 1 && lru.calculatedSize + gapBytes * (peak - lru.size) > maxBytes)
  }

  function clear(): void {
    nodes.length = 0
    peak = 0
    lru = emptyCache() // a cleared one keeps the room of its largest day
    disarm()
  }

  function arm(ms: number, from: number): void {
    timer = setTimeout(sweep, ms, from)
    timer.unref()
  }

  function disarm(): void {
    clearTimeout(timer)
    timer = undefined
  }

  // From the end: what takes the place of a node that goes has been looked at.
  function sweep(from: number): void {
    timer = undefined
    const at = now()
    const until = performance.now() + sliceMs
    let index = Math.min(from, nodes.length - 1)
    for (; index >= 0; index--) {
      const node = nodes[index] as Node
      if (at >= node.held.keepUntil) lru.delete(node.key)
      if (index % 64 === 0 && performance.now() > until) break
    }
    if (nodes.length === 0) clear()
    else if (index > 0) arm(1, index - 1)
    else arm(sweepMs, Number.POSITIVE_INFINITY)
  }

  return {
    get(key) {
      const node = lru.get(key)
      if (node === undefined) return undefined
      if (now() < node.held.keepUntil) return node.held
      lru.delete(key)
      return undefined
    },
    set(key, held) {
      const size = entryBytes + weigh(key) + groupBytes * held.groups.length + weigh(held.value)
      if (size > maxEntryBytes || size > maxBytes) {
        lru.delete(key) // an older answer must not outlive the newer one
        return false
      }
      const node: Node = { key, held, at: nodes.length }
      nodes.push(node)
      lru.set(key, node, { size })
      peak = Math.max(peak, lru.size)
      while (isOver()) lru.pop()
      if (timer === undefined) arm(sweepMs, Number.POSITIVE_INFINITY)
      return true
    },
    delete(key) {
      lru.delete(key)
    },
    clear,
    get entries() {
      return lru.size
    },
    get bytes() {
      return lru.calculatedSize
    },
    get evictions() {
      return evictions
    }
  }
}

const nothing: Memory = Object.freeze({
  get: () => undefined,
  set: () => false,
  delete() {},
  clear() {},
  entries: 0,
  bytes: 0,
  evictions: 0
})
