// One way to read a stream, in a process of its own: `streams-main.ts <subject> <origin>`.
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import OpenAI from 'openai'
import { Pool } from 'undici'
import { eventCount, messages, model, streamText } from './traffic.ts'
import { takeTurns } from './turns.ts'

const [subject = '', origin = ''] = process.argv.slice(2)
const baseURL = `${origin}/v1`
const apiKey = 'bench'
const path = '/v1/chat/completions'
const headers = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` }
const request = { model, messages }

/** Reads one whole stream and hands over each text as it comes. */
type Read = (onText: (text: string) => void) => Promise<void>

interface Event {
  readonly choices: readonly { readonly delta: { readonly content?: string | null } }[]
}

const subjects: Readonly<Record<string, () => Read>> = {
  'undici.request and a line split': () => readOf(new Pool(origin)),
  'undici.request and a line split again': () => readOf(new Pool(origin)),
  'adapter.stream'() {
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL }) })
    return async (onText) => {
      for await (const chunk of adapter.stream(request)) if (chunk.type === 'text') onText(chunk.text)
    }
  },
  'openai client'() {
    const client = new OpenAI({ apiKey, baseURL })
    return async (onText) => {
      for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
        const text = chunk.choices[0]?.delta.content
        if (text) onText(text)
      }
    }
  }
}

/** The least that gives the text: no check, no error, no deadline, and only the events of this server. */
function readOf(pool: Pool): Read {
  return async (onText) => {
    const sent = JSON.stringify({ ...request, stream: true })
    const { body } = await pool.request({ path, method: 'POST', headers, body: sent })
    const decoder = new TextDecoder()
    let tail = ''
    for await (const bytes of body) {
      const lines = (tail + decoder.decode(bytes as Uint8Array, { stream: true })).split('\n')
      tail = lines.pop() ?? ''
      for (const line of lines) {
        if (!line.startsWith('data: {')) continue
        const text = (JSON.parse(line.slice(6)) as Event).choices[0]?.delta.content
        if (text) onText(text)
      }
    }
  }
}

const read = subjects[subject]?.()
if (read === undefined) throw new TypeError(`${subject} is no subject`)
takeTurns(async () => {
  const startedAt = performance.now()
  let firstMs: number | undefined
  let text = ''
  await read((piece) => {
    firstMs ??= performance.now() - startedAt
    text += piece
  })
  if (text !== streamText) throw new Error(`${subject}: a wrong text`)
  return { units: eventCount, firstMs }
})
