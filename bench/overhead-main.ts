// One way to make a whole call, in a process of its own: `overhead-main.ts <subject> <origin>`.
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { Agent, Pool, fetch as undiciFetch } from 'undici'
import { answerText, messages, model } from './traffic.ts'
import { takeTurns } from './turns.ts'

const [subject = '', origin = ''] = process.argv.slice(2)
const baseURL = `${origin}/v1`
const apiKey = 'bench'
const path = '/v1/chat/completions'
const headers = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` }
const request = { model, messages }

interface Answer {
  readonly choices: readonly { readonly message: { readonly content: string | null } }[]
}
const textOf = (answer: unknown): string | null | undefined => (answer as Answer).choices[0]?.message.content

type Call = () => Promise<string | null | undefined>

/** Every one of them writes the request as JSON, reads the whole body and parses it. */
const subjects: Readonly<Record<string, () => Call>> = {
  'undici.request': () => callOf(new Pool(origin)),
  'undici.request again': () => callOf(new Pool(origin)),
  'undici fetch'() {
    const dispatcher = new Agent()
    return async () => {
      const body = JSON.stringify(request)
      const response = await undiciFetch(origin + path, { method: 'POST', headers, body, dispatcher })
      return textOf(await response.json())
    }
  },
  'global fetch': () => async () => {
    const response = await fetch(origin + path, { method: 'POST', headers, body: JSON.stringify(request) })
    return textOf(await response.json())
  },
  'openai client'() {
    const client = new OpenAI({ apiKey, baseURL })
    return async () => textOf(await client.chat.completions.create(request))
  },
  'openai client on transport.fetch'() {
    const client = new OpenAI({ apiKey, baseURL, fetch: createTransport().fetch, maxRetries: 0 })
    return async () => textOf(await client.chat.completions.create(request))
  },
  'transport.send'() {
    const { send } = createTransport()
    return async () => {
      const response = await send({ method: 'POST', url: origin + path, headers, body: JSON.stringify(request) })
      return textOf(JSON.parse(await response.body.text()))
    }
  },
  'adapter.complete without retry'() {
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL }), transport: { retry: false } })
    return async () => (await adapter.complete(request)).text
  },
  'adapter.complete'() {
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL }) })
    return async () => (await adapter.complete(request)).text
  }
}

function callOf(pool: Pool): Call {
  return async () => {
    const { body } = await pool.request({ path, method: 'POST', headers, body: JSON.stringify(request) })
    return textOf(JSON.parse(await body.text()))
  }
}

const call = subjects[subject]?.()
if (call === undefined) throw new TypeError(`${subject} is no subject`)
takeTurns(async () => {
  if ((await call()) !== answerText) throw new Error(`${subject}: a wrong answer`)
  return { units: 1 }
})
