import { MillraceError, type SharedLogState } from '@millrace/core'
import { addWord, lastEntry, readWords, stateOf, wordsOf } from './redis-entry.ts'
import { type LogCounts, type LogSettings, mistakeIn } from './redis-options.ts'

/**
 * What is said to the writers of one process, wherever it is said: all of it comes into one stream, its inbox, which one
 * command reads every 200 ms while a writer listens. A writer is named after its inbox, so that whoever finds a log finds
 * that too.
 */
export interface Words {
  /** The beginning of the names of those who listen. */
  readonly inbox: string
  /** Hears what is said to the log `key`, until the function that is given back is called. */
  hear(key: string, onWord: (word: string) => void): () => void
  /** As `tell` of `SharedLog`. */
  tell(key: string, word: string): Promise<SharedLogState | undefined>
  close(): void
}

const pollMs = 200
const maxWords = 1000
/** Of an inbox whose process is gone. */
const inboxTtlMs = 60_000

export function createWords(settings: LogSettings, counts: LogCounts, inbox: string): Words {
  const { command, namespace } = settings
  const keyOf = (name: string): string => `${namespace}:words:${name}`
  const hearers = new Map<string, (word: string) => void>()
  let cursor = '0-0'
  let timer: NodeJS.Timeout | undefined
  let reading = false
  let closed = false

  // It keeps no process alive: the sockets of a stream do that.
  function arm(inMs: number): void {
    if (!reading && hearers.size > 0 && !closed) timer ??= setTimeout(() => void read(), inMs).unref()
  }

  async function read(): Promise<void> {
    timer = undefined
    reading = true
    let more = false
    try {
      const words = wordsOf(await command(readWords(keyOf(inbox), cursor, maxWords)))
      more = words.length === maxWords
      for (const { id, key, word } of words) {
        cursor = id
        hearers.get(key)?.(word)
      }
    } catch {
      // Another Redis may answer next, whose clock, and so whose ids, are behind: better to hear a word twice.
      counts.readFailures++
      cursor = '0-0'
    }
    reading = false
    arm(more ? 0 : pollMs)
  }

  async function ask(args: readonly string[]): Promise<unknown> {
    if (closed) throw new MillraceError('closed', 'the log was closed', { details: {} })
    try {
      return await command(args)
    } catch (cause) {
      counts.readFailures++
      const text = `Redis did not say what it knows of the log${mistakeIn(cause)}`
      throw new MillraceError('network', text, { details: { phase: 'body' }, cause })
    }
  }

  return {
    inbox,
    hear(key, onWord) {
      hearers.set(key, onWord)
      arm(pollMs)
      return () => {
        if (hearers.get(key) === onWord) hearers.delete(key)
        if (hearers.size > 0) return
        clearTimeout(timer)
        timer = undefined
      }
    },
    async tell(key, word) {
      const found = stateOf(await ask(lastEntry(key)))
      if (found === undefined) return undefined
      if (found === 'unexpected') {
        throw new MillraceError('protocol', 'the log holds an entry that no writer of Millrace has written', {
          details: { reason: 'unexpected' }
        })
      }
      const { open, broken, length, inbox: to } = found
      if (open && word !== '' && to !== undefined) await ask(addWord(keyOf(to), key, word, inboxTtlMs))
      return { open, broken, length }
    },
    close() {
      closed = true
      clearTimeout(timer)
      timer = undefined
    }
  }
}
