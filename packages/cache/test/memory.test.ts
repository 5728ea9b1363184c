import { execFile } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { heapAfterGc } from '@millrace/testkit'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createMemory, type Held, type Memory, type MemoryOptions } from '../src/memory.ts'

const make = (options: Partial<MemoryOptions> = {}): Memory =>
  createMemory({ maxBytes: 100_000, maxEntries: 100, maxEntryBytes: 50_000, now: () => 0, ...options })

const held = (value: unknown, keepUntil = 1000, groups: readonly string[] = []): Held => ({
  value,
  storedAt: 0,
  ttlMs: keepUntil,
  keepUntil,
  groups,
  epoch: 0,
  checkedAt: 0
})

afterEach(() => {
  vi.useRealTimers()
})

describe('the memory tier', () => {
  it('lets the least recently used go first, by count', () => {
    const memory = make({ maxEntries: 3 })
    for (const key of ['a', 'b', 'c']) memory.set(key, held(key))
    memory.get('a')
    memory.set('d', held('d'))
    expect(['a', 'b', 'c', 'd'].map((key) => memory.get(key)?.value)).toEqual(['a', undefined, 'c', 'd'])
    expect(memory).toMatchObject({ entries: 3, evictions: 1 })
  })

  it('keeps to its bytes, and refuses what is too large for one entry together with what it replaces', () => {
    const memory = make()
    for (let n = 0; n < 50; n++) {
      expect(memory.set(`${n}`, held('x'.repeat(2000)))).toBe(true)
      expect(memory.bytes).toBeLessThanOrEqual(100_000)
    }
    expect(memory.evictions).toBeGreaterThan(20)
    expect(memory.get('49')).toBeDefined()
    expect(memory.set('49', held('x'.repeat(40_000)))).toBe(false)
    expect(memory.get('49')).toBeUndefined()
    memory.clear()
    expect(memory).toMatchObject({ entries: 0, bytes: 0 })
  })

  it('hands out what it was given itself, and the newest of a key', () => {
    const memory = make()
    const first = held('first')
    memory.set('a', first)
    expect(memory.get('a')).toBe(first)
    const second = held('second')
    memory.set('a', second)
    expect(memory.get('a')).toBe(second)
    expect(memory).toMatchObject({ entries: 1, evictions: 0 })
    memory.delete('a')
    memory.delete('a')
    expect(memory.get('a')).toBeUndefined()
    expect(memory).toMatchObject({ entries: 0, bytes: 0, evictions: 0 })
  })

  it('drops what has expired when it is asked for, by its own clock alone', () => {
    let now = 0
    const memory = make({ now: () => now })
    memory.set('a', held(1, 600))
    now = 599
    expect(memory.get('a')?.value).toBe(1)
    now = 600
    expect(memory.get('a')).toBeUndefined()
    expect(memory.entries).toBe(0)
  })

  it('keeps nothing with maxBytes 0', () => {
    const memory = make({ maxBytes: 0 })
    expect(memory.set('a', held(1))).toBe(false)
    expect(memory.get('a')).toBeUndefined()
    memory.delete('a')
    memory.clear()
    expect(memory).toMatchObject({ entries: 0, bytes: 0, evictions: 0 })
  })

  it('counts groups too', () => {
    const memory = make()
    memory.set('a', held(1))
    const alone = memory.bytes
    memory.set('a', held(1, 1000, ['f'.repeat(32), 'e'.repeat(32)]))
    expect(memory.bytes).toBeGreaterThan(alone + 150)
  })

  it('agrees with a plain list of what is in it, whatever is set, deleted, expired, evicted or swept', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let now = 0
    const memory = make({ maxEntries: 40, now: () => now })
    const mirror = new Map<string, Held>() // least recently used first
    let random = 1
    const below = (limit: number): number => {
      random = (random * 48_271) % 2_147_483_647
      return random % limit
    }
    for (let step = 0; step < 20_000; step++) {
      const key = `${below(60)}`
      const choice = below(20)
      if (choice < 9) {
        const entry = held(step, now + 1 + below(300))
        memory.set(key, entry)
        mirror.delete(key)
        mirror.set(key, entry)
        if (mirror.size > 40) mirror.delete(mirror.keys().next().value as string)
      } else if (choice < 17) {
        const entry = mirror.get(key)
        const isThere = entry !== undefined && now < entry.keepUntil
        expect(memory.get(key)).toBe(isThere ? entry : undefined)
        mirror.delete(key)
        if (isThere) mirror.set(key, entry)
      } else if (choice < 18) {
        memory.delete(key)
        mirror.delete(key)
      } else if (below(100) === 0) {
        memory.clear()
        mirror.clear()
      } else {
        now += below(20)
        if (below(50) === 0) {
          vi.advanceTimersByTime(30_000)
          for (const [name, entry] of mirror) if (now >= entry.keepUntil) mirror.delete(name)
        }
      }
      expect(memory.entries).toBe(mirror.size)
    }
  })

  it('loses what has expired within half a minute though nobody asks, and has a timer only while it holds something', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let now = 0
    const pass = (ms: number): void => {
      now += ms
      vi.advanceTimersByTime(ms)
    }
    const memory = make({ now: () => now })
    expect(vi.getTimerCount()).toBe(0)
    memory.set('a', held(1, 10_000))
    memory.set('b', held(1, 50_000))
    expect(vi.getTimerCount()).toBe(1)
    pass(29_000)
    expect(memory.entries).toBe(2)
    pass(1_000)
    expect(memory.entries).toBe(1)
    pass(30_000)
    expect(memory).toMatchObject({ entries: 0, bytes: 0, evictions: 0 })
    expect(vi.getTimerCount()).toBe(0)

    for (const end of [() => memory.delete('a'), () => memory.clear(), () => pass(10_000) ?? memory.get('a')]) {
      memory.set('a', held(1, now + 10_000))
      expect(vi.getTimerCount()).toBe(1)
      end()
      expect(vi.getTimerCount()).toBe(0)
    }
  })

  it('is swept in slices that let others work, and misses nobody who comes and goes meanwhile', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const count = 200_000
    let now = 0
    const memory = make({ maxBytes: 1e9, maxEntries: count, now: () => now })
    for (let n = 0; n < count; n++) memory.set(`${n}`, held(n, n % 2 === 0 ? 10 : 1e9))
    now = 10
    const slices: number[] = []
    vi.advanceTimersByTime(29_999)
    for (let slice = 0; memory.entries > count / 2 && slice < 1000; slice++) {
      const startedAt = performance.now()
      vi.advanceTimersByTime(1)
      slices.push(performance.now() - startedAt)
      memory.set(`new ${slice}`, held(slice, 1e9))
      memory.delete(`${2 * slice + 1}`)
    }
    expect(memory.entries).toBe(count / 2)
    expect(slices.length).toBeGreaterThan(3)
    // The median: of this process' own pauses nobody can tell.
    expect(slices.toSorted((a, b) => a - b)[slices.length >> 1]).toBeLessThan(10)
    expect(memory.get('1000')).toBeUndefined()
    expect(memory.get('150001')?.value).toBe(150_001)
  })

  it('keeps neither a process alive nor, when it is cleared, itself', async () => {
    const program = `
      import { createMemory } from ${JSON.stringify(new URL('../src/memory.ts', import.meta.url).href)}
      const memory = createMemory({ maxBytes: 1e6, maxEntries: 10, maxEntryBytes: 1e6, now: () => performance.now() })
      memory.set('a', { value: 1, keepUntil: 1e9, groups: [] })
      console.log(memory.entries)`
    const startedAt = performance.now()
    const { stdout } = await run(process.execPath, ['--conditions=@millrace/source', '--input-type=module', '-e', program])
    expect(stdout.trim()).toBe('1')
    expect(performance.now() - startedAt).toBeLessThan(20_000)

    const fillAndDrop = (): void => {
      for (let n = 0; n < 200; n++) {
        const memory = make({ maxBytes: 10_000_000, maxEntryBytes: 10_000_000 })
        for (let entry = 0; entry < 10; entry++) memory.set(`${entry}`, held(['x'.repeat(10_000) + n]))
        memory.clear()
      }
    }
    fillAndDrop()
    await delay(0)
    const before = await heapAfterGc()
    fillAndDrop()
    await delay(0)
    expect((await heapAfterGc()) - before).toBeLessThan(2_000_000)
  })

  it('takes less than maxBytes, measured, whatever it is filled with, and not much less for what is usual', async () => {
    const program = fileURLToPath(new URL('./memory-main.ts', import.meta.url))
    const { stdout } = await run(process.execPath, ['--expose-gc', '--conditions=@millrace/source', program])
    const rows = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { title: string; grownBytes: number; bytes: number; maxBytes: number })
    expect(rows.length).toBeGreaterThan(12)
    expect(rows.filter((row) => row.bytes > row.maxBytes || row.grownBytes > row.maxBytes)).toEqual([])
    const usual = rows.filter(({ title }) => title.startsWith('an '))
    expect(usual.filter((row) => row.grownBytes * 2.5 < row.bytes)).toEqual([])
    expect(usual.filter((row) => row.bytes < row.maxBytes / 2)).toEqual([])
  }, 120_000)
})

const run = promisify(execFile)
