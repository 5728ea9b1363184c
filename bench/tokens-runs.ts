// Texts without an end of a word for long: a merge that is quadratic in a word blocks a process for minutes on them.
import { createRandom } from './tokens-words.ts'

const lowercase = 'abcdefghijklmnopqrstuvwxyz'
const han = Array.from({ length: 0x51a0 }, (_, index) => String.fromCharCode(0x4e00 + index)).join('')

/** Texts of so many bytes. */
export const kinds = {
  'one letter': of('a'),
  spaces: of(' '),
  newlines: of('\n'),
  'spaces and newlines': of(' \n'),
  'one sign': of('!'),
  dashes: of('-'),
  'rules of 199 dashes': (bytes) => `${'-'.repeat(199)}\nabc `.repeat(bytes / 200).slice(0, bytes),
  'tabs behind spaces': (bytes) => `${' '.repeat(70)}\t`.repeat(bytes / 70).slice(0, bytes),
  punctuation: of('!"#$%&()*+,-./:;<=>?@[]^_{}~'),
  'random letters': of(lowercase),
  'letters of both cases': of(lowercase + lowercase.toUpperCase()),
  'random Han': of(han),
  emoji: of('😀😂🥰👍🏽🎉🚀'),
  'combining marks': of('\u0301\u0302\u0323\u0489'),
  'letters with marks': of('aeiou\u0301\u0302\u0323'),
  mixture
} satisfies Readonly<Record<string, (bytes: number) => string>>
export type Kind = keyof typeof kinds

/** Any of these characters, one after the other. */
function of(characters: string): (bytes: number) => string {
  const all = Array.from(characters, (character) => Buffer.from(character))
  return (bytes) => {
    const random = createRandom(bytes)
    const text = Buffer.alloc(bytes, ' ')
    for (let at = 0; ; ) {
      const character = all[random(all.length)] as Buffer
      if (at + character.length > bytes) return text.toString()
      for (const byte of character) text[at++] = byte
    }
  }
}

/** Runs of all other kinds, of up to 50 bytes and up to 5,000. */
function mixture(bytes: number): string {
  const random = createRandom(bytes)
  const others = Object.entries(kinds).filter(([name]) => name !== 'mixture')
  const runs: Buffer[] = []
  for (let left = bytes; left > 0; ) {
    const [, make] = others[random(others.length)] as (typeof others)[number]
    const run = Math.min(left, 1 + random(random(4) === 0 ? 5000 : 50))
    runs.push(Buffer.from(make(run)))
    left -= run
  }
  return Buffer.concat(runs).toString()
}
