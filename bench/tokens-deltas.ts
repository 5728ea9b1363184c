// Streams of 2,000 deltas, as models send them: of one token, of a few, or cut anywhere, as those of another vocabulary are.
import { corpus, type Language } from './tokens-corpora.ts'
import { createRandom } from './tokens-words.ts'

export interface Oracle {
  count(text: string): number
  /** Parts of 1 to `most` tokens, those that end within a character put together with the next. */
  parts(text: string, most: number): readonly string[]
  close(): void
}

/** tiktoken, whatever is measured. */
export async function openOracle(): Promise<Oracle> {
  const { get_encoding } = await import('tiktoken')
  const encoder = get_encoding('o200k_base')
  return {
    count: (text) => encoder.encode_ordinary(text).length,
    parts(text, most) {
      const random = createRandom(most)
      const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
      const tokens = encoder.encode_ordinary(text)
      const parts: string[] = []
      for (let from = 0; from < tokens.length; ) {
        const to = from + 1 + random(most)
        const part = decoder.decode(encoder.decode(tokens.slice(from, to)), { stream: true })
        if (part !== '') parts.push(part)
        from = to
      }
      return parts
    },
    close: () => encoder.free()
  }
}

const deltas = 2000
const most = 12

export type Cut = 'token' | 'tokens' | 'characters'

export function streamsOf(language: Language, cut: Cut, oracle: Oracle): readonly (readonly string[])[] {
  const text = corpus(language).toString('utf8', 0, 600_000)
  const parts = cut === 'characters' ? anywhere(text) : oracle.parts(text, cut === 'token' ? 1 : 6)
  const streams = Array.from({ length: most }, (_, index) => parts.slice(index * deltas, (index + 1) * deltas))
  return streams.filter((stream) => stream.length === deltas)
}

/** Parts of 1 to 12 characters. */
function anywhere(text: string): readonly string[] {
  const random = createRandom(12)
  const parts: string[] = []
  for (let from = 0; from < text.length; ) {
    let to = from + 1 + random(12)
    const unit = text.charCodeAt(to)
    if (unit >= 0xdc00 && unit < 0xe000) to++
    // A string of its own, as it comes out of the network.
    parts.push(Buffer.from(text.slice(from, to)).toString())
    from = to
  }
  return parts
}
