import type { Json } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import fc from 'fast-check'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { type Entry, type Kind, readEntry, writeEntry } from '../src/entry.ts'
import { createSealer, type Sealer, type SealerOptions } from '../src/sealer.ts'
import { answer, finish, start } from './scripted.ts'

const seed = 20261123
const maxChars = 100_000
const key = '0123456789abcdef'.repeat(4)
const otherKey = 'f'.repeat(64)

const modes: Readonly<Record<string, Partial<SealerOptions>>> = {
  'without a secret': {},
  'with a secret': { secret: 'a secret of the team' },
  'with encryption': { encryption: { current: '2026', keys: { '2026': Buffer.alloc(32, 7) } } },
  'without a secret, compressed': { compression: 'zstd' },
  'with encryption, compressed': { compression: 'zstd', encryption: { current: '2026', keys: { '2026': Buffer.alloc(32, 7) } } }
}
const sealerOf = (options: Partial<SealerOptions>): Sealer => createSealer({ compression: 'none', maxChars, ...options })

const entryOf = (value: unknown, rest: Partial<Entry> = {}): Entry => ({
  value,
  storedAt: Date.now(),
  ttlMs: 1000,
  keepMs: 3000,
  stamps: { [key.slice(32)]: '0011223344556677' },
  ...rest
})
const chat = entryOf({ chunks: answer('The canary sings. '.repeat(300)) })
const http = entryOf({ status: 200, headers: [['content-type', 'application/json']], body: '{"data":[]}' })

const nonsense = ['', ' ', 'x', '{}', 'null', '[1]', 'millrace2', 'millrace2 pt', 'millrace2 zz', '"', '\0', '\ud800', '\ufeff']

afterEach(() => {
  vi.restoreAllMocks()
})

for (const [name, options] of Object.entries(modes)) {
  describe(`entries ${name}`, () => {
    const sealer = sealerOf(options)

    it(`come back as they were written, under their own key and kind only (fast-check seed ${seed})`, () => {
      fc.assert(
        fc.property(fc.jsonValue({ maxDepth: 5, stringUnit: 'grapheme' }), (value) => {
          const json = JSON.parse(JSON.stringify(value)) as Json // without -0
          const text = writeEntry(sealer, 'wrap', key, entryOf(json))
          expect(readEntry(sealer, 'wrap', key, text)?.value).toEqual(json)
          expect(readEntry(sealer, 'wrap', otherKey, text)).toBeUndefined()
        }),
        { seed, numRuns: 200 }
      )
      for (const [kind, entry] of [
        ['chat', chat],
        ['http', http]
      ] as const) {
        const text = writeEntry(sealer, kind, key, entry)
        expect(readEntry(sealer, kind, key, text)).toEqual(entry)
        for (const other of ['chat', 'wrap', 'http'] satisfies Kind[]) {
          if (other !== kind) expect(readEntry(sealer, other, key, text)).toBeUndefined()
        }
      }
    })

    it(`are misses when they were changed, cut, swapped, or never ours: 10,000 of them (seed ${seed})`, () => {
      const random = seededRandom(seed)
      const below = (limit: number): number => Math.floor(random() * limit)
      const texts = [
        writeEntry(sealer, 'chat', key, chat),
        writeEntry(sealer, 'chat', key, entryOf({ chunks: [start, { type: 'text', text: '速い\ud800"\\' }, finish()] }))
      ]
      const foreign = [
        ...Object.values(modes).flatMap((theirs) => [
          writeEntry(sealerOf(theirs), 'chat', otherKey, chat),
          writeEntry(sealerOf(theirs), 'wrap', key, chat)
        ]),
        writeEntry(sealerOf({ secret: 'another secret of it' }), 'chat', key, chat),
        writeEntry(sealerOf({ encryption: { current: '2026', keys: { '2026': Buffer.alloc(32, 8) } } }), 'chat', key, chat),
        ...Object.keys(modes)
          .filter((other) => modeOf(other) !== modeOf(name))
          .map((other) => writeEntry(sealerOf(modes[other] as Partial<SealerOptions>), 'chat', key, chat)),
        `millrace1 ${'0'.repeat(64)} ${JSON.stringify({ kind: 'chat', value: answer('a'), storedAt: Date.now(), ttlMs: 1000 })}`,
        JSON.stringify({ value: 'a', expires: null }),
        JSON.stringify(chat),
        ...nonsense,
        `${'['.repeat(40_000)}${']'.repeat(40_000)}`,
        `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
        'x'.repeat(9_000_000)
      ]
      const values = [
        1,
        0,
        Number.NaN,
        true,
        null,
        undefined,
        {},
        [],
        Buffer.from(texts[0] as string),
        { type: 'Buffer', data: [1] },
        1n
      ]
      const parts = [...texts, ...foreign.filter((text) => text.length < maxChars)]

      function mutated(text: string): string {
        const at = below(text.length)
        const to = at + below(text.length - at)
        const other = parts[below(parts.length)] as string
        switch (below(8)) {
          case 0:
            return text.slice(0, at)
          case 1:
            return text.slice(at)
          case 2:
            return text.slice(0, at) + text.slice(at + 1)
          case 3:
            return text.slice(0, at) + text.slice(to)
          case 4:
            return text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ (1 << below(16))) + text.slice(at + 1)
          case 5:
            return text.slice(0, at) + String.fromCharCode(below(65_536)) + text.slice(at)
          case 6:
            return text.slice(0, at) + other.slice(at)
          default:
            return text.slice(0, to) + text.slice(at)
        }
      }

      const spoiled: unknown[] = [...foreign, ...values]
      while (spoiled.length < 10_000) {
        const text = mutated(texts[below(texts.length)] as string)
        if (!texts.includes(text)) spoiled.push(text)
      }
      for (const text of texts) expect(readEntry(sealer, 'chat', key, text)).toBeDefined()
      expect(spoiled.filter((text) => readEntry(sealer, 'chat', key, text) !== undefined)).toEqual([])
    })

    it('are misses when a holder of the keys wrote what no cache writes', () => {
      const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)
      const [group, word] = ['0123456789abcdef0123456789abcdef', 'fedcba9876543210']
      const head = `1 1 1 ${group}=${word},${group}=${word}\n`
      const wrong = [
        '',
        'null',
        '{}',
        '\n1',
        head,
        `${head}{"a":1`,
        head.replace('\n', ' 1'),
        `1 1 1 \n1`,
        `1 1 ${group}=${word}\n1`,
        `-1 1 1 ${group}=${word}\n1`,
        `1 1e3 1 ${group}=${word}\n1`,
        `1 1 1234567890123456 ${group}=${word}\n1`,
        `1 1 1 ${group}=${word},\n1`,
        `1 1 1 __proto__=${word}\n1`,
        `1 1 1 ${group}=x\n1`,
        `${head}${nested(201)}`,
        `${head}${nested(40_000)}`,
        `${head}{"a":[{"__proto__":{"polluted":true}}]}`,
        `${head}{"\\u005f_proto__":1}`,
        `${head}[1e999]`
      ]
      const read = (body: string, kind: Kind = 'wrap'): unknown =>
        readEntry(sealer, kind, key, sealer.seal(`${kind} ${key}`, body))
      expect(wrong.filter((body) => read(body) !== undefined)).toEqual([])
      expect(read(`${head}${nested(200)}`)).toBeDefined()
      expect(read(`${head}null`)).toBeDefined()
      const bad = [
        [],
        answer('a'),
        { chunks: answer('a', 'length') },
        { chunks: [{ ...start, id: 7 }, ...answer('a').slice(1)] },
        'a'
      ]
      expect(bad.filter((value) => read(`${head}${JSON.stringify(value)}`, 'chat') !== undefined)).toEqual([])
      const worse = [
        {},
        { status: 200 },
        { status: 500, headers: [], body: '' },
        { status: 200, headers: [['set-cookie', 'a']], body: '' }
      ]
      expect(worse.filter((value) => read(`${head}${JSON.stringify(value)}`, 'http') !== undefined)).toEqual([])
      expect(({} as { polluted?: true }).polluted).toBeUndefined()
    })
  })
}

function modeOf(name: string): string {
  return name.replace(', compressed', '')
}
