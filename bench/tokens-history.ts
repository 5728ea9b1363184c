// Conversations: as many messages as wanted, no text of one in another.
import type { Message } from '@millrace/core'
import { corpus, cuts } from './tokens-corpora.ts'

/** Tokens they are fitted into. */
export const budget = 8000

/** Makes conversations of so many messages of so many bytes, each time new ones. */
export function createHistories(length: number, bytes: number): () => readonly Message[] {
  const texts = cuts(corpus('English'), bytes - 10)
  let made = 0
  return () => {
    const mark = String(made++).padStart(4, '0')
    const messages = Array.from({ length }, (_, index): Message => {
      const text = texts[(made * length + index) % texts.length]
      const content = `${mark}.${String(index).padStart(4, '0')} ${text}`
      if (index === 0) return { role: 'system', content }
      return index % 2 === 1 ? { role: 'user', content } : { role: 'assistant', content }
    })
    return parsedAnew(messages)
  }
}

/** As they come out of a database or a request: equal, and nothing of them the same. */
export function parsedAnew(messages: readonly Message[]): readonly Message[] {
  return JSON.parse(JSON.stringify(messages)) as readonly Message[]
}
