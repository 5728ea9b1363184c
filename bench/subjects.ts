// The ways to make one whole call. Each loads what it needs and no more, for each runs in a process of its own.
import { messages, model } from './traffic.ts'

/** One call, to the text of its answer. */
export type Call = () => Promise<string | null | undefined>

const apiKey = 'bench'
const path = '/v1/chat/completions'
const headers = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` }
const request = { model, messages }
const [{ content: instructions }, { content: prompt }] = messages

interface Answer {
  readonly choices: readonly { readonly message: { readonly content: string | null } }[]
}
const textOf = (answer: unknown): string | null | undefined => (answer as Answer).choices[0]?.message.content

/** Every one of them writes the request as JSON, reads the whole body and parses it. */
const subjects: Readonly<Record<string, (origin: string) => Promise<Call>>> = {
  'undici.request': requestCall,
  'undici.request again': requestCall,

  async 'undici dispatch handler'(origin) {
    const { Pool } = await import('undici')
    const pool = new Pool(origin)
    const send = (body: string): Promise<string> =>
      new Promise((resolve, reject) => {
        let text = '' // of this server's answers, which are ASCII
        pool.dispatch(
          { path, method: 'POST', headers, body },
          {
            onRequestStart() {},
            onResponseStart() {},
            onResponseData(_, bytes) {
              text += bytes.toString('latin1')
            },
            onResponseEnd: () => resolve(text),
            onResponseError: (_, error) => reject(error)
          }
        )
      })
    return async () => textOf(JSON.parse(await send(JSON.stringify(request))))
  },

  async 'undici fetch'(origin) {
    const { Agent, fetch } = await import('undici')
    const dispatcher = new Agent()
    return async () => {
      const response = await fetch(origin + path, { method: 'POST', headers, body: JSON.stringify(request), dispatcher })
      return textOf(await response.json())
    }
  },

  'global fetch': async (origin) => async () => {
    const response = await fetch(origin + path, { method: 'POST', headers, body: JSON.stringify(request) })
    return textOf(await response.json())
  },

  async 'transport.send'(origin) {
    const { createTransport } = await import('@millrace/transport')
    const { send } = createTransport()
    return async () => {
      const response = await send({ method: 'POST', url: origin + path, headers, body: JSON.stringify(request) })
      return textOf(JSON.parse(await response.body.text()))
    }
  },

  async 'adapter.complete without retry'(origin) {
    const { createAdapter } = await import('@millrace/adapter')
    const { openai } = await import('@millrace/adapter/openai')
    const adapter = createAdapter({ provider: openai({ apiKey, baseURL: `${origin}/v1` }), transport: { retry: false } })
    return async () => (await adapter.complete(request)).text
  },

  'adapter.complete': adapterCall,

  async 'adapter.complete with telemetry'(origin) {
    const { createTelemetry } = await import('@millrace/telemetry')
    createTelemetry()
    return adapterCall(origin)
  },

  'openai client': (origin) => openaiCall(origin, {}),

  async 'openai client on transport.fetch'(origin) {
    const { createTransport } = await import('@millrace/transport')
    return openaiCall(origin, { fetch: createTransport().fetch, maxRetries: 0 })
  },

  'AI SDK generateText': (origin) => aiCall(origin, {}),

  async 'AI SDK generateText on transport.fetch'(origin) {
    const { createTransport } = await import('@millrace/transport')
    return aiCall(origin, { fetch: createTransport().fetch, maxRetries: 0 })
  },

  async 'LangChain ChatOpenAI.invoke'(origin) {
    const { ChatOpenAI } = await import('@langchain/openai')
    const chat = new ChatOpenAI({ apiKey, model, configuration: { baseURL: `${origin}/v1` } })
    return async () => (await chat.invoke(messages)).text
  }
}

async function requestCall(origin: string): Promise<Call> {
  const { Pool } = await import('undici')
  const pool = new Pool(origin)
  return async () => {
    const { body } = await pool.request({ path, method: 'POST', headers, body: JSON.stringify(request) })
    return textOf(JSON.parse(await body.text()))
  }
}

async function adapterCall(origin: string): Promise<Call> {
  const { createAdapter } = await import('@millrace/adapter')
  const { openai } = await import('@millrace/adapter/openai')
  const adapter = createAdapter({ provider: openai({ apiKey, baseURL: `${origin}/v1` }) })
  return async () => (await adapter.complete(request)).text
}

interface ClientOptions {
  readonly fetch?: typeof fetch
  readonly maxRetries?: number
}

async function openaiCall(origin: string, options: ClientOptions): Promise<Call> {
  const { default: OpenAI } = await import('openai')
  const client = new OpenAI({ apiKey, baseURL: `${origin}/v1`, ...options })
  return async () => textOf(await client.chat.completions.create(request))
}

async function aiCall(origin: string, { fetch, ...options }: ClientOptions): Promise<Call> {
  const { generateText } = await import('ai')
  const { createOpenAI } = await import('@ai-sdk/openai')
  const provider = createOpenAI({ apiKey, baseURL: `${origin}/v1`, ...(fetch && { fetch }) })
  const chat = provider.chat(model)
  return async () => (await generateText({ model: chat, instructions, prompt, ...options })).text
}

export async function openSubject(name: string, origin: string): Promise<Call> {
  const call = await subjects[name]?.(origin)
  if (call === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(subjects).join(', ')}`)
  return call
}
