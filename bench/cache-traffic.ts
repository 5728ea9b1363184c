// What is cached: 1,000 answers of 4 KB, and 64 requests of 16 KB in 20 messages. How an answer is looked up and checked.
import { createHash } from 'node:crypto'
import type { ChatRequest, Chunk, Message, Provider } from '@millrace/core'
import type { Work } from './turns.ts'

const sentence = 'The mill stands by the river, and the water that turns its wheel has come a long way down from the hills. '
export const model = 'bench-1'
export const origin = 'https://bench.test'
/** Longer than any run: nothing expires in the middle. */
export const ttlMs = 3_600_000

const numbers = Array.from({ length: 1000 }, (_, index) => index)
export const texts: readonly string[] = numbers.map((number) => flat(`Answer ${number}. ${sentence.repeat(34)}`))
export const names: readonly string[] = numbers.map((number) => `answer ${number}`)
/** As ready keys look: 64 hex digits. */
export const keys: readonly string[] = names.map(digestOf)
export const shortRequests: readonly ChatRequest[] = names.map((name) => ({ model, messages: [{ role: 'user', content: name }] }))

interface Body {
  readonly choices: readonly { readonly message: { readonly content: string } }[]
}
/** Bodies as OpenAI's API gives them. */
export const bodies: readonly Body[] = texts.map((content, index) => {
  const message = { role: 'assistant', content, refusal: null }
  return {
    id: `chatcmpl-${index}`,
    object: 'chat.completion',
    created: 1_763_800_000,
    model,
    choices: [{ index: 0, message, logprobs: null, finish_reason: 'stop' }],
    usage: { prompt_tokens: 180, completion_tokens: 720, total_tokens: 900 },
    system_fingerprint: 'fp_bench'
  }
})
export const bodyText = (body: unknown): string | undefined => (body as Body).choices[0]?.message.content

/** What LangChain's caches take and give. */
export type Generations = { text: string }[]
export const generationText = ([found]: Generations): string | undefined => found?.text

/** Prose with line breaks and quotation marks in it; `typographic` ones need two bytes a character. */
export function longRequests(quotes: 'plain' | 'typographic'): readonly ChatRequest[] {
  const [open, close] = quotes === 'plain' ? ['"', '"'] : ['“', '”']
  const paragraph = `${sentence.repeat(3)}The miller says: ${open}It never stops.${close}\n\n`
  return numbers.slice(0, 64).map((number) => {
    const messages = numbers.slice(0, 20).map((turn): Message => {
      const content = flat(`${number}.${turn}: ${paragraph.repeat(2)}`)
      if (turn === 0) return { role: 'system', content }
      return turn % 2 === 1 ? { role: 'user', content } : { role: 'assistant', content }
    })
    return { model, messages, temperature: 0.2, maxOutputTokens: 1024 }
  })
}

/** One piece of memory, as a text from the network is, and not the pieces it was put together from. */
function flat(text: string): string {
  return Buffer.from(text).toString()
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** A provider to fill a cache from. Where `mayCall` says no, a call is a miss in a measured turn: it fails. */
export function answering(textFor: (prompt: string) => string, mayCall: () => boolean): Provider {
  return async function* ({ messages: [message] }): AsyncGenerator<Chunk> {
    if (!mayCall()) throw new Error('a miss')
    yield { type: 'start', provider: 'bench', model }
    yield { type: 'text', text: textFor(typeof message?.content === 'string' ? message.content : '') }
    const usage = { input: { uncached: 180, cacheRead: 0, cacheWrite: 0 }, output: { text: 720, reasoning: 0 } }
    yield { type: 'usage', usage: { ...usage, estimated: false, billed: true } }
    yield { type: 'finish', reason: 'stop' }
  }
}

/** The text for a short request's prompt, or for a name. */
export const textNamed = (name: string): string => texts[names.indexOf(name)] ?? ''
export const bodyNamed = (name: string): Body | undefined => bodies[names.indexOf(name)]

export interface Lookups<Name, Found> {
  /** What is looked up, in the order of `texts`. */
  readonly all: readonly Name[]
  readonly get: (name: Name) => unknown
  readonly textOf: (found: Found) => string | undefined
}

/**
 * Looks up `batch` names in each piece of work, one after the other. Everybody goes on where the others are, so that those
 * who look up at the same time look up different names. What is a promise is awaited, the rest is not.
 */
export async function lookUp<Name, Found>({ all, get, textOf }: Lookups<Name, Found>, batch: number): Promise<Work> {
  for (const [index, name] of all.entries()) {
    if (textOf((await get(name)) as Found) !== texts[index]) throw new Error(`a wrong answer for ${JSON.stringify(name)}`)
  }
  // In another order than they were stored; and equal to what was stored, not the same, for a key was just made.
  const copies = all.map((name) => JSON.stringify(name)).toSorted((a, b) => (digestOf(a) < digestOf(b) ? -1 : 1))
  const order = copies.map((copy) => JSON.parse(copy) as Name)
  let at = 0
  function look(): unknown {
    at = (at + 1) % order.length
    return get(order[at] as Name)
  }
  function check(found: unknown): void {
    if (found === undefined || found === null) throw new Error('a miss')
  }
  if (look() instanceof Promise) {
    return async () => {
      for (let count = 0; count < batch; count++) check(await look())
      return { units: batch }
    }
  }
  return async () => {
    for (let count = 0; count < batch; count++) check(look())
    return { units: batch }
  }
}
