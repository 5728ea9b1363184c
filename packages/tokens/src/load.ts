import { createRequire } from 'node:module'
import type { Encoding } from './model.ts'
import { Ranks } from './ranks.ts'
import { Vocabulary } from './vocabulary.ts'

/** Where `tiktoken` keeps the ranks of an encoding. Its WebAssembly is never loaded. */
export function rankFile(encoding: Encoding): string {
  return createRequire(import.meta.url).resolve(`tiktoken/encoders/${encoding}.json`)
}

/** Tokens read before others may have the event loop: a millisecond or two. */
const tokensPerStep = 8192

const space = 32

/**
 * Makes a vocabulary of the file's content, step by step. Tokens stand in it in base64, in the order of their ranks; a line
 * begins with `!` and the rank of its first token.
 */
export function* loading(encoding: Encoding, file: string): Generator<void, Vocabulary> {
  const { bpe_ranks: lines } = JSON.parse(file) as { readonly bpe_ranks: string }
  yield
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  const sextets = new Uint8Array(128)
  for (let value = 0; value < digits.length; value++) sextets[digits.charCodeAt(value)] = value
  const ranks = new Ranks(Math.ceil(lines.length * 0.75))
  yield
  let end = 0
  for (const line of lines.split('\n')) {
    const [start = '', first = ''] = line.split(' ', 2)
    ranks.skipTo(Number(first))
    let bits = 0
    let width = 0
    for (let at = start.length + first.length + 2; at <= line.length; at++) {
      const code = at < line.length ? line.charCodeAt(at) : space
      if (code === space) {
        ranks.add(end)
        bits = width = 0
        if (ranks.size % tokensPerStep === 0) yield
      } else if (code !== 61) {
        bits = ((bits << 6) | (sextets[code] as number)) & 0xffff
        width += 6
        if (width >= 8) {
          width -= 8
          ranks.bytes[end++] = bits >> width
        }
      }
    }
  }
  yield
  return new Vocabulary(encoding, ranks)
}
