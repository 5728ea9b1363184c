import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { crc32, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createSealer, type Encryption, type Sealer, type SealerOptions } from '../src/sealer.ts'

const seed = 20261123
const secret = 'a secret of the team'
const encryption: Encryption = { current: '2026', keys: { '2026': Buffer.alloc(32, 7) } }

const make = (options: Partial<SealerOptions> = {}): Sealer =>
  createSealer({ compression: 'none', maxChars: 1_000_000, ...options })

const modes: Readonly<Record<string, Partial<SealerOptions>>> = {
  'without a secret': {},
  'with a secret': { secret },
  'with encryption': { encryption }
}
const prose = JSON.stringify({ text: 'The quick brown fox — ein flinker Fuchs — 速い茶色の狐. '.repeat(200) })
const place = `chat ${'0123456789abcdef'.repeat(4)}`

for (const [name, options] of Object.entries(modes)) {
  for (const compression of ['none', 'zstd'] as const) {
    describe(`a sealer ${name}, compression ${compression}`, () => {
      const sealer = make({ ...options, compression })

      it(`opens what it sealed, at the same place only (fast-check seed ${seed})`, () => {
        const text = fc.oneof(
          fc.string({ unit: 'grapheme', maxLength: 200 }),
          fc.string({ unit: 'grapheme', minLength: 1, maxLength: 50 }).map((piece) => piece.repeat(200))
        )
        fc.assert(
          fc.property(fc.string(), fc.string(), text, (here, there, body) => {
            const sealed = sealer.seal(here, body)
            expect(sealer.open(here, sealed)).toBe(body)
            if (there !== here) expect(sealer.open(there, sealed)).toBeUndefined()
          }),
          { seed, numRuns: 300 }
        )
      })

      it('does not open what was changed in any one place, cut off, or added to', () => {
        const sealed = sealer.seal(place, compression === 'zstd' ? prose : '{"value":"some\\ntext — 速い"}')
        expect(sealer.open(place, sealed)).toBeDefined()
        const step = Math.ceil(sealed.length / 600)
        for (let at = 0; at < sealed.length; at += step) {
          const code = sealed.charCodeAt(at)
          for (const other of [code ^ 1, code ^ 0x20, 0xd800]) {
            const changed = sealed.slice(0, at) + String.fromCharCode(other) + sealed.slice(at + 1)
            expect(sealer.open(place, changed)).toBeUndefined()
          }
          expect(sealer.open(place, sealed.slice(0, at))).toBeUndefined()
          expect(sealer.open(place, sealed.slice(0, at) + sealed.slice(at + 1))).toBeUndefined()
          expect(sealer.open(place, `${sealed.slice(0, at)}A${sealed.slice(at)}`)).toBeUndefined()
        }
        for (const more of [' ', '\n', '=', 'A', '\0']) expect(sealer.open(place, sealed + more)).toBeUndefined()
      })

      it('takes no half of a surrogate pair for the character that stands for it when text is encoded', () => {
        const sealed = sealer.seal(place, 'a\ufffdb')
        const changed = sealed.replace('\ufffd', '\ud800')
        expect(sealer.open(place, changed)).toBe(changed === sealed ? 'a\ufffdb' : undefined)
      })

      it('opens nothing that another mode sealed', () => {
        for (const [other, theirs] of Object.entries(modes)) {
          const opened = sealer.open(place, make({ ...theirs, compression }).seal(place, prose))
          expect(opened).toBe(other === name ? prose : undefined)
        }
      })

      it('opens what was sealed with the other setting of compression', () => {
        for (const theirs of ['none', 'zstd'] as const) {
          expect(sealer.open(place, make({ ...options, compression: theirs }).seal(place, prose))).toBe(prose)
        }
      })

      it('opens nothing longer than maxChars, sealed or unpacked', () => {
        const narrow = make({ ...options, compression, maxChars: 10_000 })
        for (const length of [4000, 9000, 10_001, 200_000]) {
          const text = 'x'.repeat(length)
          expect(narrow.open(place, sealer.seal(place, text)) !== undefined).toBe(
            length < 10_000 && length * (options.encryption && compression === 'none' ? 4 / 3 : 1) < 9900
          )
          if (length > 10_000) expect(narrow.seal(place, text).length).toBeGreaterThan(10_000)
        }
      })

      it('opens nothing that is no sealed text', () => {
        const others = [
          undefined,
          null,
          1,
          {},
          [],
          Buffer.from(sealer.seal(place, 'x')),
          '',
          'x',
          'millrace2',
          'millrace2 ',
          'millrace2 et2026 '
        ]
        for (const other of others) expect(sealer.open(place, other)).toBeUndefined()
      })
    })
  }
}

describe('compression', () => {
  it('makes long texts smaller, and leaves short and dense ones as they are', () => {
    for (const options of Object.values(modes)) {
      const [plain, packed] = [make(options), make({ ...options, compression: 'zstd' })]
      expect(packed.seal(place, prose).length).toBeLessThan(plain.seal(place, prose).length / 3)
      expect(packed.seal(place, 'x'.repeat(4095))).toHaveLength(plain.seal(place, 'x'.repeat(4095)).length)
      const dense = randomBytes(6000).toString('base64')
      expect(packed.seal(place, dense).length).toBeLessThanOrEqual(plain.seal(place, dense).length)
      expect(packed.open(place, packed.seal(place, dense))).toBe(dense)
    }
  })

  it('does not unpack a small text that would fill the memory', () => {
    const bomb = zstdCompressSync(Buffer.alloc(500_000_000)).toString('base64')
    expect(bomb.length).toBeLessThan(100_000)
    // Sealed as ours: as if somebody with the secret, or everybody without one, had put it there.
    const sealed = make({ compression: 'zstd' }).seal(place, 'x'.repeat(5000))
    const isPacked = sealed.startsWith('millrace2 pz')
    expect(isPacked).toBe(true)
    const forged = forge(bomb)
    const startedAt = performance.now()
    expect(make().open(place, forged)).toBeUndefined()
    expect(performance.now() - startedAt).toBeLessThan(1000)
    expect(make().open(place, forge(zstdCompressSync('x'.repeat(5000)).toString('base64')))).toBe('x'.repeat(5000))
  })
})

describe('signatures', () => {
  it('hold for one secret', () => {
    const sealed = make({ secret }).seal(place, prose)
    expect(make({ secret: 'another secret of it' }).open(place, sealed)).toBeUndefined()
    expect(make({ secret }).open(place, sealed)).toBe(prose)
  })
})

describe('encryption', () => {
  const old = randomBytes(32)
  const fresh = randomBytes(32)

  it('shows nothing of the text, and never writes the same twice', () => {
    const sealer = make({ encryption })
    const sealed = [sealer.seal(place, 'the canary sings'), sealer.seal(place, 'the canary sings')]
    expect(new Set(sealed).size).toBe(2)
    for (const text of sealed) {
      const bytes = Buffer.from(text.slice(text.lastIndexOf(' ') + 1), 'base64').toString('latin1')
      expect(text + bytes).not.toContain('canary')
    }
  })

  it('opens what was written with a key that is still in the ring, after another became current, and nothing else', () => {
    const before = make({ encryption: { current: 'a', keys: { a: old } } })
    const after = make({ encryption: { current: 'b', keys: { a: old, b: fresh } } })
    const later = make({ encryption: { current: 'b', keys: { b: fresh } } })
    const sealed = before.seal(place, 'kept')
    expect(after.open(place, sealed)).toBe('kept')
    expect(later.open(place, sealed)).toBeUndefined()
    expect(later.open(place, after.seal(place, 'new'))).toBe('new')
    // The name is bound: what one key wrote is not what another wrote.
    expect(make({ encryption: { current: 'b', keys: { a: fresh, b: old } } }).open(place, sealed)).toBeUndefined()
    expect(
      make({ encryption: { current: 'b', keys: { a: old, b: old } } }).open(place, sealed.replace('ta ', 'tb '))
    ).toBeUndefined()
  })

  it('takes a key as bytes or in base64, and copies it', () => {
    const bytes = Uint8Array.from(old)
    const ring = (key: string | Uint8Array): Encryption => ({ current: 'a', keys: { a: key } })
    const sealed = make({ encryption: ring(bytes) }).seal(place, 'x')
    for (const text of [old.toString('base64'), old.toString('base64url')]) {
      expect(make({ encryption: ring(text) }).open(place, sealed)).toBe('x')
    }
    const sealer = make({ encryption: ring(bytes) })
    bytes.fill(0)
    expect(sealer.open(place, sealed)).toBe('x')
  })

  it('takes the place of signatures where there is a secret too', () => {
    const sealed = make({ secret, encryption }).seal(place, 'x')
    expect(make({ encryption }).open(place, sealed)).toBe('x')
    expect(make({ secret }).open(place, sealed)).toBeUndefined()
  })

  it('refuses wrong keys, says what to write, and shows none', () => {
    const hidden = 'c2VjcmV0c2VjcmV0'
    for (const [wrong, told] of [
      [{}, /encryption.keys must name at least one key.*Write encryption/],
      [{ current: 'a', keys: {} }, /at least one key/],
      [{ current: 'a', keys: null }, /at least one key/],
      [{ current: 'b', keys: { a: old } }, /encryption.current must be one of the names in encryption.keys: a$/],
      [{ keys: { a: old } }, /encryption.current must be one of/],
      [{ current: 'a', keys: { a: hidden } }, /encryption.keys\['a'\] must be 32 bytes.*openssl rand -base64 32/],
      [{ current: 'a', keys: { a: old.subarray(1) } }, /must be 32 bytes/],
      [{ current: 'a', keys: { a: old, b: 7 } }, /encryption.keys\['b'\]/],
      [{ current: 'a', keys: { a: old.toString('hex') } }, /must be 32 bytes/],
      [{ current: 'a b', keys: { 'a b': old } }, /1 to 32 of the characters/],
      [{ current: '', keys: { '': old } }, /1 to 32 of the characters/]
    ] as const) {
      let error: unknown
      try {
        make({ encryption: wrong as unknown as Encryption })
      } catch (thrown) {
        error = thrown
      }
      expect(error).toBeInstanceOf(TypeError)
      expect((error as Error).message).toMatch(told)
      expect(inspect(error)).not.toContain(hidden)
    }
    expect(inspect(make({ secret }), { depth: 9 }) + inspect(make({ encryption }), { depth: 9 })).not.toMatch(/secret of|07 07/)
  })
})

/** A packed body as a writer without a secret would seal it: place and checksum. */
function forge(body: string): string {
  const sealed = make().seal(place, body)
  // The checksum of a packed body starts from 1, so that the letter cannot be changed alone.
  return sealed.replace(/^millrace2 pt[0-9a-f]{8}/, `millrace2 pz${crc32(body, 1).toString(16).padStart(8, '0')}`)
}
