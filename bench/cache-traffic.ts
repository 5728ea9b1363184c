// What is cached: 1,000 answers of 4 KB, and 64 requests of 16 KB in 20 messages. What is looked up, and how it is checked.
import { createHash } from 'node:crypto'
import type { ChatRequest, Chunk, Message, Provider } from '@millrace/core'
import type { Work } from './turns.ts'

const sentence = 'The mill stands by the river, and the water that turns its wheel has come a long way down from the hills. '
export const model = 'bench-1'
export const origin = 'https://bench.test'
/** Longer than any run: nothing expires in the middle. */
export const ttlMs = 3_600_000

const numbers = Array.from({ length: 1000 }, (_, index) => index)
export const texts: readonly string[] = numbers.map((index) => flat(`Answer ${index}. ${sentence.repeat(34)}`))
export const names: readonly string[] = numbers.map((index) => `answer ${index}`)
/** As ready keys look: 64 hex digits. */
export const keys: readonly string[] = names.map((name) => createHash('sha256').update(name).digest('hex'))

export interface Answer {
  readonly choices: readonly { readonly message: { readonly content: string } }[]
}
/** A body as OpenAI's API answers it. */
export const answers: readonly Answer[] = texts.map((content, index) =>
  JSON.parse(
    JSON.stringify({
      id: `chatcmpl-${index}`,
      object: 'chat.completion',
      created: 1_763_800_000,
      model,
      choices: [{ index: 0, message: { role: 'assistant', content, refusal: null }, logprobs: null, finish_reason: 'stop' }],
      usage: { prompt_tokens: 180, completion_tokens: 720, total_tokens: 900 },
      system_fingerprint: 'fp_bench'
    })
  )
)
export const textOf = (answer: unknown): string | undefined => (answer as Answer).choices[0]?.message.content

export const shortRequests: readonly ChatRequest[] = names.map((name) => ({ model, messages: [{ role: 'user', content: name }] }))

/** Prose with a line break every few sentences and quotation marks in it; `typographic` ones need two bytes a character. */
export function longRequests(quotes: 'plain' | 'typographic'): readonly ChatRequest[] {
  const [open, close] = quotes === 'plain' ? ['"', '"'] : ['“', '”']
  const paragraph = `${sentence.repeat(3)}The miller says: ${open}It never stops.${close}\n\n`
  return Array.from({ length: 64 }, (_, request) => {
    const messages = Array.from({ length: 20 }, (_, turn): Message => {
      const content = flat(`${request}.${turn}: ${paragraph.repeat(2)}`)
      if (turn === 0) return { role: 'system', content }
      return turn % 2 === 1 ? { role: 'user', content } : { role: 'assistant', content }
    })
    return { model, messages, temperature: 0.2, maxOutputTokens: 1024 }
  })
}

/** Not the pieces it was put together from: a text that comes from the network is one. */
function flat(text: string): string {
  return Buffer.from(text).toString()
}

/** Answers with `textFor(request)`, once `mayCall` says so: in a measured turn it does not, for that would be a miss. */
export function answering(textFor: (request: ChatRequest) => string, mayCall: () => boolean): Provider {
  return async function* (request): AsyncGenerator<Chunk> {
    if (!mayCall()) throw new Error('a miss')
    yield { type: 'start', provider: 'bench', model }
    yield { type: 'text', text: textFor(request) }
    const usage = { input: { uncached: 180, cacheRead: 0, cacheWrite: 0 }, output: { text: 720, reasoning: 0 } }
    yield { type: 'usage', usage: { ...usage, estimated: false, billed: true } }
    yield { type: 'finish', reason: 'stop' }
  }
}

/** The number a short request asks for. */
export function numberOf(request: ChatRequest): number {
  return Number(/\d+$/.exec(String(request.messages[0]?.content))?.[0])
}

/** What is looked up by name, and what a found thing says. */
export interface Lookups<Name> {
  readonly names: readonly Name[]
  readonly get: (name: Name) => unknown
  readonly textOf: (found: never) => string | undefined
}

/**
 * Looks up `batch` names in each work, one after the other. Everybody goes on where the others are, so that those who look
 * up at the same time look up different names. What waits is waited for, the rest is not.
 */
export async function lookUp<Name>({ names, get, textOf }: Lookups<Name>, batch: number): Promise<Work> {
  for (const [index, name] of names.entries()) {
    if (textOf((await get(name)) as never) !== texts[index]) throw new Error(`a wrong answer for ${JSON.stringify(name)}`)
  }
  // In another order than they were stored, and equal to what was stored, not the same: a key was just made.
  const order = names
    .map((name) => JSON.parse(JSON.stringify(name)) as Name)
    .sort((a, b) => (scattered(a) < scattered(b) ? -1 : 1))
  let at = 0
  const next = (): Name => order[at++ % order.length] as Name
  const check = (found: unknown): void => {
    if (found === undefined || found === null) throw new Error('a miss')
  }
  if (get(next()) instanceof Promise) {
    return async () => {
      for (let count = 0; count < batch; count++) check(await get(next()))
      return { units: batch }
    }
  }
  return async () => {
    for (let count = 0; count < batch; count++) check(get(next()))
    return { units: batch }
  }
}

function scattered(name: unknown): string {
  return createHash('sha256').update(JSON.stringify(name)).digest('hex')
}
