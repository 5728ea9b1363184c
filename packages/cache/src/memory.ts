import { LRUCache } from 'lru-cache'
import { weigh } from './plain.ts'

export interface MemoryOptions {
  readonly maxBytes: number
  readonly maxEntries: number
  readonly maxEntryBytes: number
  /** Milliseconds on a clock that never jumps. */
  readonly now: () => number
}

/** What a tier found. The value is frozen. */
export interface Found {
  readonly value: unknown
  readonly ageMs: number
}

/** The tier in this process: least recently used goes first, bounded by bytes and by count, no timers. */
export interface Memory {
  get(key: string): Found | undefined
  /** False when the value is too large to be kept. `value` must be frozen. */
  set(key: string, value: unknown, ttlMs: number, ageMs: number): boolean
  clear(): void
  readonly entries: number
  readonly bytes: number
  readonly evictions: number
}

interface Held {
  readonly value: unknown
  readonly storedAt: number
  readonly expiresAt: number
}

/** The key itself, and what lru-cache and the entry take. */
const overheadBytes = 400

export function createMemory({ maxBytes, maxEntries, maxEntryBytes, now }: MemoryOptions): Memory {
  let evictions = 0
  const entries = new LRUCache<string, Held>({
    max: maxEntries,
    maxSize: maxBytes,
    dispose: (_held, _key, reason) => {
      if (reason === 'evict') evictions++
    }
  })
  return {
    get(key) {
      const held = entries.get(key)
      if (held === undefined) return undefined
      const at = now()
      if (at < held.expiresAt) return { value: held.value, ageMs: Math.max(0, at - held.storedAt) }
      entries.delete(key)
      return undefined
    },
    set(key, value, ttlMs, ageMs) {
      const size = weigh(value) + overheadBytes
      if (size > Math.min(maxEntryBytes, maxBytes)) {
        entries.delete(key) // an older answer must not outlive the newer one
        return false
      }
      const storedAt = now() - ageMs
      entries.set(key, { value, storedAt, expiresAt: storedAt + ttlMs }, { size })
      return true
    },
    clear: () => entries.clear(),
    get entries() {
      return entries.size
    },
    get bytes() {
      return entries.calculatedSize
    },
    get evictions() {
      return evictions
    }
  }
}
