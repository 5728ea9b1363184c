import { createRequire } from 'node:module'
import { MillraceError } from '@millrace/core'
import type * as tiktoken from 'tiktoken'
import { createClasses, createSplitter, maxPiece } from './boundary.ts'
import type { Encoding } from './model.ts'

/** The running total of a text that comes in pieces. */
export interface TokenCounter {
  /** Adds text; gives the tokens of everything pushed so far, joined. May fall by a token or two when pieces merge. */
  push(text: string): number
}

/** One encoder of tiktoken, loaded when the first text is counted. */
export interface Vocabulary {
  count(text: string): number
  counter(): TokenCounter
  free(): void
}

const require = createRequire(import.meta.url)

export function createVocabulary(encoding: Encoding): Vocabulary {
  let encoder: tiktoken.Tiktoken | undefined
  let classes: Uint8Array | undefined
  let freed = false

  function encode(text: string): number {
    if (freed) throw closed()
    if (text === '') return 0
    // Required here, not imported above: merely importing tiktoken compiles 5 MB of WebAssembly.
    encoder ??= (require('tiktoken') as typeof tiktoken).get_encoding(encoding)
    // `encode` would throw on special tokens; to this they are plain text, as they are to the API.
    return encoder.encode_ordinary(text).length
  }

  function counter(): TokenCounter {
    let total = 0
    classes ??= createClasses()
    const splitter = createSplitter(classes, (slice) => {
      total += encode(slice)
    })
    return {
      push(text) {
        splitter.push(text)
        return total + encode(splitter.rest())
      }
    }
  }

  return {
    count(text) {
      if (typeof text !== 'string') throw new TypeError(`count takes a string, not ${typeof text}`)
      return text.length <= maxPiece ? encode(text) : counter().push(text)
    },
    counter,
    free() {
      freed = true
      encoder?.free()
      encoder = undefined
    }
  }
}

/** tiktoken itself would say "null pointer passed to rust". */
export function closed(): MillraceError<'closed'> {
  return new MillraceError('closed', 'these tokenizers are closed; create new ones with createTokenizers()', { details: {} })
}
