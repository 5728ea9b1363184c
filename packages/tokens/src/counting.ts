import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type Message, MillraceError } from '@millrace/core'
import { sliceChars, TextCount, type TokenCounter } from './counter.ts'
import { loading, rankFile } from './load.ts'
import { memoised } from './memo.ts'
import { listedResult, type Measure, measuring } from './message.ts'
import type { Encoding } from './model.ts'
import type { Turns } from './turns.ts'
import type { Vocabulary } from './vocabulary.ts'

/** All that is counted with one encoding. Its vocabulary is loaded by the first count, or by `ready`. */
export interface Counting {
  count(text: string): number
  /** The same for messages, with counts remembered. */
  readonly measure: Measure
  /** Whether the text has at most so many tokens. */
  fits(text: string, budget: number): boolean
  countAsync(text: string, signal: AbortSignal | undefined): Promise<number>
  counter(): TokenCounter
  ready(): Promise<void>
  /** Counts of whole messages, as long as those live. */
  readonly messages: WeakMap<Message, MessageMemo>
  close(): void
}

export interface MessageMemo {
  readonly content: Message['content']
  readonly tokens: number
}

export function createCounting(encoding: Encoding, turns: Turns): Counting {
  let vocabulary: Vocabulary | undefined
  let loader: Generator<void, Vocabulary> | undefined
  let beginning: Promise<void> | undefined
  let whole: TextCount | undefined // one for all texts that are counted in one go
  let isClosed = false

  function needed(): Vocabulary {
    if (isClosed) throw closed()
    if (vocabulary === undefined) {
      loader ??= loading(encoding, readFileSync(rankFile(encoding), 'utf8'))
      while (vocabulary === undefined) step(loader)
    }
    return vocabulary
  }

  /** Shared by all who wait: a count that cannot wait finishes the load they began. */
  function step(own: Generator<void, Vocabulary>): void {
    try {
      const { done, value } = own.next()
      if (done !== true) return
      vocabulary = value
      loader = undefined
    } catch (error) {
      loader = undefined
      throw error
    }
  }

  /** Once for all who wait: each file is two megabytes. */
  function begin(): Promise<void> {
    beginning ??= readFile(rankFile(encoding), 'utf8')
      .then((file) => {
        if (!isClosed && vocabulary === undefined) loader ??= loading(encoding, file)
      })
      .finally(() => {
        beginning = undefined
      })
    return beginning
  }

  async function ready(): Promise<void> {
    for (;;) {
      if (isClosed) throw closed()
      if (vocabulary !== undefined) return
      if (loader === undefined) await begin()
      else step(loader)
      await turns.soon()
    }
  }

  function cleared(): TextCount {
    whole ??= new TextCount(needed())
    whole.clear()
    return whole
  }

  function count(text: string): number {
    checkText(text)
    const counted = cleared()
    counted.push(text)
    return counted.total()
  }

  return {
    count,
    measure: measuring(
      memoised(count),
      memoised((result) => count(listedResult(result)))
    ),
    fits(text, budget) {
      checkText(text)
      // A token is at least one byte, and a unit of UTF-16 at most three.
      if (text.length * 3 <= budget) return true
      const bytes = Buffer.byteLength(text)
      if (bytes <= budget) return true
      const own = needed()
      if (bytes > budget * own.longest) return false
      const counted = cleared()
      for (let at = 0; at < text.length; at += sliceChars) {
        counted.add(text.slice(at, at + sliceChars))
        if (counted.closed > budget) return false
      }
      return counted.total() <= budget
    },
    async countAsync(text, signal) {
      checkText(text)
      signal?.throwIfAborted()
      await ready()
      signal?.throwIfAborted()
      const own = new TextCount(needed())
      for (let at = 0; at < text.length; at += sliceChars) {
        await turns.next(signal)
        signal?.throwIfAborted()
        if (isClosed) throw closed()
        own.add(text.slice(at, at + sliceChars))
      }
      return own.total()
    },
    counter() {
      const own = new TextCount(needed())
      return {
        push(text) {
          checkText(text)
          if (isClosed) throw closed()
          own.push(text)
          own.shrink()
          return own.total()
        }
      }
    },
    ready,
    messages: new WeakMap(),
    close() {
      isClosed = true
      vocabulary = loader = whole = undefined
    }
  }
}

function checkText(text: string): void {
  if (typeof text !== 'string')
    throw new TypeError(`a text to count must be a string, not ${text === null ? 'null' : typeof text}`)
}

/** What use after `close()` throws. */
export function closed(): MillraceError<'closed'> {
  return new MillraceError('closed', 'these tokenizers are closed; create new ones with createTokenizers()', { details: {} })
}
